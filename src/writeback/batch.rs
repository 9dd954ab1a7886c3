//! A batch from snapshots to receipts.

use super::stage::Work;
use super::{BATCH_BYTES, Writeback};
use crate::backing::{BackingPath, staged_path};
use crate::format::mutation::{EntryKey, Mutation};
use crate::namespace::Place;
use crate::namespace::places::PARKED;
use crate::types::{BackingId, InodeId, Kind, Lsn};
use crate::volume::Snapshot;
use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering;

/// Most names of one directory handled in one batch.
const ENTRIES_MAX: usize = 2048;

/// Refused paths that are told in the log each time.
const REFUSED_TOLD: usize = 3;

/// Whether a call found that something on its path is not there, or is no directory any more.
pub(super) fn is_gone(e: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, StaleNetworkFileHandle};
    matches!(e.kind(), NotFound | NotADirectory | StaleNetworkFileHandle)
}

impl Writeback {
    /// Brings these inodes to the backing and removes what was parked there. Returns whether to go on at
    /// once.
    pub(super) fn batch(&mut self, items: Vec<(i64, InodeId)>) -> bool {
        let mut w = Work::default();
        self.log_failed = false;
        let mine = self.gather(items, &mut w);
        // What goes to the backing must not outrun what is durable here: all that was gathered is, and
        // a name is brought there only as of this position.
        w.upto = match self.volume.sync_log() {
            Ok(()) => self.volume.wal.marks.stable(),
            Err(e) => {
                // The backing would be ahead of the log, and the next mount would replay old over new.
                self.failed("syncing the log before a drain", &e);
                return self.give_up(mine, w);
            }
        };
        if let Err(e) = self.volume.backing.begin() {
            self.failed("beginning to store", &e);
            return self.give_up(mine, w);
        }
        let mut failed = self.store(&mut w);
        let mut once = HashSet::new();
        let keys: Vec<EntryKey> =
            std::mem::take(&mut w.keys).into_iter().filter(|k| once.insert(k.clone())).collect();
        if let Err(e) = self.volume.backing.sync(&w.sync_files, &[]) {
            self.failed("syncing the backing", &e);
            return self.give_up(mine, w);
        }
        if let Err(e) = self.announce(&mut w, &keys) {
            self.failed("logging what is about to be stored", &e);
            return self.give_up(mine, w);
        }
        failed.extend(self.place(&keys, &mut w));
        self.unpark(&mut w);
        let dirs = match self.set_dirs(&w) {
            Ok(d) => d,
            Err(e) => {
                self.failed("setting directories' attributes", &e);
                return self.give_up(mine, w);
            }
        };
        let (is_refusing, refused) = self.refused(&w, &mut failed);
        if let Err(e) = self.receipts(&w, &dirs, &failed, &refused) {
            self.failed("logging what is stored", &format_args!("{e}"));
            return self.give_up(mine, w);
        }
        let placed: Vec<InodeId> =
            w.agreed.keys().filter_map(|k| self.volume.places.read().under(k)).collect();
        let more = self.settle(mine, failed, &w, is_refusing);
        self.drop_staged(w);
        // Those that only waited for a name may leave memory now.
        for cell in placed.into_iter().filter_map(|i| self.volume.cell(i)) {
            self.volume.evict(&cell);
        }
        more
    }

    /// Everything of the batch stays dirty and comes first again.
    fn give_up(&mut self, items: Vec<(i64, InodeId)>, w: Work) -> bool {
        self.drop_staged(w);
        self.volume.dirty.put_back(items);
        self.retry_later();
        false
    }

    fn retry_later(&mut self) {
        self.retry.failed(self.volume.clock.monotonic_ns());
        self.shared.retries.fetch_add(1, Ordering::Relaxed);
        *self.shared.trouble.lock() = self.shared.last_error.lock().clone();
        self.shared.seen.lock().retry_at_ns = self.retry.not_before_ns();
    }

    /// Removes what was staged and not installed.
    fn drop_staged(&mut self, w: Work) {
        for s in w.staged.into_values().filter(|s| !s.installed) {
            self.not_kept(&s);
            let path = staged_path(&s.name);
            let r = match s.snap.attr.kind {
                Kind::Dir => self.volume.backing.rmdir(&path),
                _ => self.volume.backing.unlink(&path),
            };
            if let Err(e) = r {
                log::debug!("removing {path}: {e}; the next mount does it");
            }
        }
    }

    /// Ends the batch: what failed waits, behind the others, for another try.
    fn settle(
        &mut self,
        items: Vec<(i64, InodeId)>,
        failed: HashSet<InodeId>,
        w: &Work,
        is_refusing: bool,
    ) -> bool {
        let (mut again, mut bad, mut done) = (Vec::new(), 0, 0);
        for (since, ino) in items {
            if failed.contains(&ino) {
                bad += 1;
                again.push((since, ino));
            } else {
                done += 1;
                if w.partial.contains(&ino) {
                    again.push((since, ino));
                } else {
                    self.memory.stored(ino);
                    self.volume.unqueue(ino, self.keeps().then_some(self.memory.began_ns));
                    self.shared.seen.lock().stored(ino);
                }
            }
        }
        again.into_iter().for_each(|(since, ino)| self.volume.dirty.requeue(since, ino));
        if bad > 0 {
            if done > 0 {
                // Others get on: those need not wait long.
                self.retry.succeeded();
            }
            self.retry_later();
        } else {
            self.retry.succeeded();
            let trouble = self.shared.last_error.lock().clone().filter(|_| is_refusing);
            *self.shared.trouble.lock() = trouble;
            let mut seen = self.shared.seen.lock();
            seen.retry_at_ns = 0;
            if self.volume.dirty.is_empty() {
                seen.all_stored();
            }
        }
        done > 0
    }

    /// Takes snapshots of the inodes, of what their unstored names lead to, and of the directories above
    /// them that the backing does not have. Returns the inodes taken; the others go back.
    fn gather(&mut self, items: Vec<(i64, InodeId)>, w: &mut Work) -> Vec<(i64, InodeId)> {
        // A small log needs its segments back in small parts, or those who wait for them do so in jerks.
        let most = BATCH_BYTES.min(self.volume.wal.pool.limits.capacity / 16);
        let (mut mine, mut rest) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for (since, ino) in items {
            if w.bytes >= most {
                rest.push((since, ino));
                continue;
            }
            mine.push((since, ino));
            if self.keeps() && !self.volume.is_named(ino) {
                self.memory.is_gone(ino, since);
            }
            self.volume.sweep(ino, &self.changed);
            for (n, (name, target, lsn)) in self.volume.dirty_entries(ino).into_iter().enumerate() {
                if n >= ENTRIES_MAX || w.bytes >= most {
                    w.partial.insert(ino);
                    break;
                }
                let key = EntryKey { parent: ino, name };
                if let Some(t) = target {
                    self.gather_one(t, w, &mut seen);
                    w.was.insert(key.clone(), (t, lsn));
                }
                w.keys.push(key);
            }
            self.gather_one(ino, w, &mut seen);
        }
        if !rest.is_empty() {
            self.volume.dirty.put_back(rest);
        }
        self.shared.seen.lock().current.clone_from(&mine);
        mine
    }

    fn gather_one(&mut self, ino: InodeId, w: &mut Work, seen: &mut HashSet<InodeId>) {
        if !seen.insert(ino) {
            return;
        }
        // What is dead leaves by its names.
        let Some(mut snap) = self.volume.snapshot(ino).filter(|s| !s.dead) else { return };
        if snap.rewriting {
            if self.waits_for_rewriting(ino) {
                return;
            }
            // As it is now, without what was before.
            match self.volume.snapshot(ino).filter(|s| !s.dead && !s.rewriting) {
                Some(s) => snap = s,
                None => return,
            }
        }
        // Clean: it is where it belongs, and may leave memory at any time.
        if snap.data == Lsn::NONE && snap.meta == Lsn::NONE {
            return;
        }
        let placed = self.volume.places.read().holds(ino);
        for key in &snap.parents {
            if !self.volume.places.read().holds(key.parent) {
                self.gather_one(key.parent, w, seen);
            }
            if !placed {
                w.keys.push(key.clone());
            }
        }
        if placed {
            self.will_update(&snap);
        }
        w.bytes += snap.pieces.iter().filter(|p| p.source.is_some()).map(|p| p.range.len()).sum::<u64>();
        w.plan.push(snap);
    }

    /// Stages and updates. Returns the inodes that failed.
    fn store(&mut self, w: &mut Work) -> HashSet<InodeId> {
        let mut failed = HashSet::new();
        for snap in std::mem::take(&mut w.plan) {
            let (ino, names) = (snap.ino, snap.parents.clone());
            if let Err(e) = self.store_one(snap, w) {
                self.failed(&format!("storing inode {ino}"), &e);
                self.shared.seen.lock().failed(ino, &e.to_string());
                failed.insert(ino);
                failed.extend(names.iter().map(|k| k.parent));
            }
        }
        failed
    }

    fn store_one(&mut self, snap: Snapshot, w: &mut Work) -> io::Result<()> {
        let placed = self.volume.places.read().holds(snap.ino);
        if snap.attr.kind == Kind::Dir {
            w.dirs.insert(snap.ino);
        }
        if !placed {
            self.keep_first(&snap);
            return self.stage(snap, w);
        }
        self.keep_changed(&snap)?;
        if snap.attr.kind == Kind::Dir {
            return Ok(());
        }
        match self.replaceable(&snap) {
            Some(at) => {
                if let Some((_, path, there)) = self.standing(snap.ino, 1)?.into_iter().next()
                    && self.is_changed(&snap, &there)
                {
                    return self.stage_beside(snap, &path, w);
                }
                w.keys.push(at);
                self.stage(snap, w)
            }
            None => self.update(snap, w),
        }
    }

    /// Logs, durably, where things are about to be put, and where else those stand that are about to
    /// lose a name: the log may not know it.
    fn announce(&mut self, w: &mut Work, keys: &[EntryKey]) -> Result<(), String> {
        let mut any = false;
        let dirs: HashSet<InodeId> = keys.iter().map(|k| k.parent).filter(|&d| d != PARKED).collect();
        for dir in dirs {
            w.timed.insert(dir);
            any |= self.volume.keep_times(dir).map_err(|e| format!("{e}"))?;
        }
        for key in keys {
            any |= self.announce_others(key).map_err(|e| e.to_string())?;
            let v = &self.volume;
            let Some((Some(ino), _)) = v.entry(key) else { continue };
            let (known, here) = {
                let places = v.places.read();
                (places.id(ino), places.under(key) == Some(ino))
            };
            let staged = w.staged.get(&ino).map(|s| s.stat.id);
            let Some(id) = staged.or(known.filter(|_| !here)) else { continue };
            any = true;
            w.announced.insert((ino, key.clone()));
            let m = Mutation::Intent { ino, id, at: key.clone() };
            v.record(&m).map_err(|e| format!("{e}"))?;
        }
        if any {
            self.sync_said().map_err(|e| format!("syncing the log: {e}"))?;
        }
        Ok(())
    }

    /// As `announce`, for a directory in which a name is about to change that was not among those of the batch: its
    /// times are set back only at the end, which a death may not let come.
    pub(super) fn about_to_change(&mut self, dir: InodeId, w: &mut Work) -> io::Result<()> {
        if dir == PARKED || w.timed.contains(&dir) {
            return Ok(());
        }
        w.dirs.insert(dir);
        if self.volume.keep_times(dir).map_err(|e| io::Error::other(format!("logging times: {e}")))? {
            self.sync_said()?;
        }
        w.timed.insert(dir);
        Ok(())
    }

    /// Makes durable what was said in the log of the moves to come. After a failure nothing more is moved in
    /// this batch: what a first try has said would count as said for the second.
    pub(super) fn sync_said(&mut self) -> io::Result<()> {
        let v = &self.volume;
        let r = v.wal.sync_wait(&[v.system_last()]).map_err(|e| io::Error::from_raw_os_error(e.0));
        self.log_failed |= r.is_err();
        r
    }

    /// Says in the log who it is that stands under `key` in the backing and lives on without that name.
    /// Returns whether something was said.
    pub(super) fn announce_others(&mut self, key: &EntryKey) -> io::Result<bool> {
        let v = &self.volume;
        let Some(ino) = v.places.read().under(key) else { return Ok(false) };
        if v.entry(key).is_some_and(|e| e.0 == Some(ino)) || !v.is_named(ino) {
            return Ok(false);
        }
        v.track(ino).map_err(|e| io::Error::other(format!("logging a name: {e}")))
    }

    /// As `announce`, for one that turned up only while others were being placed.
    pub(super) fn announce_one(
        &mut self,
        ino: InodeId,
        id: BackingId,
        key: &EntryKey,
        w: &mut Work,
    ) -> io::Result<()> {
        if w.announced.contains(&(ino, key.clone())) {
            return Ok(());
        }
        let v = &self.volume;
        let m = Mutation::Intent { ino, id, at: key.clone() };
        v.record(&m).map_err(|e| io::Error::other(format!("logging a move: {e}")))?;
        self.sync_said()?;
        // Not before it is durable: the next try would move it without.
        w.announced.insert((ino, key.clone()));
        Ok(())
    }

    /// Installs, moves, removes. Returns the inodes that failed.
    fn place(&mut self, keys: &[EntryKey], w: &mut Work) -> HashSet<InodeId> {
        let mut failed = HashSet::new();
        let (present, removed): (Vec<_>, Vec<_>) =
            keys.iter().partition(|k| self.volume.entry(k).is_some_and(|e| e.0.is_some()));
        for key in present.into_iter().chain(removed) {
            let mut r = self.agree(key, w);
            if r.as_ref().is_err_and(is_gone)
                && let Ok(true) = self.restore_dirs(key.parent, w)
            {
                r = self.agree(key, w);
            }
            if let Ok(false) = r {
                r = self.agree_as_of_batch(key, w);
            }
            if let Err(e) = r {
                let what = format!("storing the name {}", String::from_utf8_lossy(&key.name));
                self.failed(&what, &e);
                failed.insert(key.parent);
                if let Some((Some(t), _)) = self.volume.entry(key) {
                    self.shared.seen.lock().failed(t, &e.to_string());
                    failed.insert(t);
                }
            }
        }
        failed
    }

    /// Directories' attributes come last: every change of a name in them moved their times.
    fn set_dirs(&mut self, w: &Work) -> io::Result<Vec<Snapshot>> {
        let mut dirs = Vec::new();
        for &ino in &w.dirs {
            let path = self.volume.places.read().path(ino);
            // Afresh: what was stored meanwhile may have changed it again.
            if let (Some(path), Some(snap)) = (path, self.volume.snapshot(ino).filter(|s| !s.dead)) {
                dirs.push((BackingPath(path), snap));
            }
        }
        if dirs.iter().any(|d| d.1.meta > w.upto)
            && let Err(e) = self.volume.sync_log()
        {
            return Err(io::Error::other(format!("syncing the log: {e}")));
        }
        for (path, snap) in &dirs {
            self.set_attr(path, snap)?;
        }
        let paths: Vec<BackingPath> = dirs.iter().map(|d| d.0.clone()).collect();
        self.volume.backing.sync(&[], &paths)?;
        Ok(dirs.into_iter().map(|d| d.1).collect())
    }

    /// What of the batch the store refused, while it took the rest: its inodes stay dirty, its names are not logged as
    /// stored. True: there is any, of whichever batch.
    fn refused(&mut self, w: &Work, failed: &mut HashSet<InodeId>) -> (bool, HashSet<EntryKey>) {
        let all = self.volume.backing.refused();
        if all.is_empty() {
            return (false, HashSet::new());
        }
        for (path, e) in all.iter().take(REFUSED_TOLD) {
            self.failed(&format!("storing {path}"), e);
        }
        if all.len() > REFUSED_TOLD {
            log::warn!("writeback: the store refused {} more", all.len() - REFUSED_TOLD);
        }
        let paths: HashSet<Vec<u8>> = all.into_iter().map(|(p, _)| p.0).collect();
        let places = self.volume.places.read();
        let hit = |key: &EntryKey| {
            places.path_of(key).is_some_and(|p| paths.contains(&p))
                // Its directory may be on its way out as well.
                || places.former(key).is_some_and(|f| paths.contains(&f.path))
        };
        let names: HashSet<EntryKey> =
            self.changed.iter().chain(w.agreed.keys()).filter(|k| hit(k)).cloned().collect();
        failed.extend(names.iter().map(|k| k.parent));
        failed.extend(names.iter().filter_map(|k| places.under(k)));
        let here = |ino: InodeId| places.names(ino).iter().any(hit);
        let touched = w.staged.keys().chain(w.updated.iter().map(|u| &u.0.ino)).chain(&w.dirs);
        failed.extend(touched.copied().filter(|&i| here(i)));
        if places.path(InodeId::ROOT).is_some_and(|p| paths.contains(&p)) {
            failed.insert(InodeId::ROOT);
        }
        (true, names)
    }

    /// Logs what the backing has now.
    fn receipts(
        &mut self,
        w: &Work,
        dirs: &[Snapshot],
        failed: &HashSet<InodeId>,
        refused: &HashSet<EntryKey>,
    ) -> crate::volume::Result<()> {
        let v = &self.volume;
        for at in self.changed.difference(refused) {
            let holds = {
                let places = v.places.read();
                places.under(at).and_then(|ino| Some((ino, places.id(ino)?)))
            };
            let as_of = w.agreed.get(at).copied().unwrap_or(Lsn::NONE);
            v.record(&Mutation::Placed { at: at.clone(), as_of, holds })?;
            v.places.write().said(at);
        }
        // Not installed after all: it stays dirty.
        let staged = w.staged.values().filter(|s| s.installed).map(|s| (&s.snap, Some(s.stat.attr.mtime)));
        let updated = w.updated.iter().map(|u| (&u.0, u.1));
        let all = staged.chain(updated).chain(dirs.iter().map(|d| (d, None)));
        for (s, seen) in all.filter(|s| refused.is_empty() || !failed.contains(&s.0.ino)) {
            let (ino, data, meta, size) = (s.ino, s.data, s.meta, s.attr.size);
            let seen = seen.filter(|_| s.attr.kind == Kind::File);
            v.record(&Mutation::Stored { ino, data, meta, size, seen })?;
        }
        v.record(&Mutation::Closed)?;
        // What was refused is still announced, and what it is to take away may still be there.
        let still = {
            let places = v.places.read();
            let there = |at: &EntryKey| {
                let ino = places.under(at)?;
                Some((ino, Place { id: places.id(ino)?, at: at.clone() }))
            };
            let mut still: Vec<(InodeId, Place)> = refused.iter().filter_map(there).collect();
            still.extend(places.doubtful());
            still
        };
        for (ino, Place { id, at }) in still {
            v.record(&Mutation::Intent { ino, id, at })?;
        }
        self.changed.retain(|at| refused.contains(at));
        Ok(())
    }
}
