//! A batch from snapshots to receipts.

use super::stage::Work;
use super::{BATCH_BYTES, Writeback};
use crate::backing::BackingPath;
use crate::format::mutation::{EntryKey, Mutation};
use crate::types::{InodeId, Kind, Lsn};
use crate::volume::Snapshot;
use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering;

/// Most names of one directory handled in one batch.
const ENTRIES_MAX: usize = 2048;

impl Writeback {
    /// Brings these inodes to the backing. Returns whether to go on at once.
    pub(super) fn batch(&mut self, items: Vec<(i64, InodeId)>) -> bool {
        let mut w = Work::default();
        let mut keys: Vec<EntryKey> = Vec::new();
        let mut bytes = 0;
        let (mut mine, mut rest) = (Vec::new(), Vec::new());
        let mut snaps: Vec<Snapshot> = Vec::new();
        for (since, ino) in items {
            if bytes >= BATCH_BYTES {
                rest.push((since, ino));
                continue;
            }
            mine.push((since, ino));
            let Some(s) = self.volume.snapshot(ino) else { continue };
            bytes += s.pieces.iter().filter(|p| p.source.is_some()).map(|p| p.range.len()).sum::<u64>();
            snaps.push(s);
        }
        if !rest.is_empty() {
            self.volume.dirty.put_back(rest);
        }
        // What goes to the backing must not outrun what it depends on.
        if let Err(e) = self.volume.sync_log() {
            log::error!("syncing the log before a drain failed: {e:?}; draining on");
        }
        let mut failed = self.first_half(snaps, &mut w, &mut keys);
        let mut once = HashSet::new();
        keys.retain(|k| once.insert(k.clone()));
        if let Err(e) = self.volume.backing.sync(&w.sync_files, &[]) {
            self.failed("syncing the backing", &e);
            return self.give_up(mine);
        }
        if let Err(e) = self.announce(&mut w, &keys) {
            log::error!("logging what is about to be stored failed: {e}");
            return self.give_up(mine);
        }
        failed.extend(self.second_half(&keys, &mut w));
        if let Err(e) = self.set_dirs(&mut w) {
            self.failed("setting directories' attributes", &e);
            return self.give_up(mine);
        }
        let placed: Vec<InodeId> = w.entries.iter().filter_map(|e| e.2).collect();
        if let Err(e) = self.receipts(w) {
            log::error!("logging what is stored failed: {e:?}");
            return self.give_up(mine);
        }
        let more = self.settle(mine, failed);
        // Those that only waited for a name may leave memory now.
        for cell in placed.into_iter().filter_map(|i| self.volume.cell(i)) {
            self.volume.evict(&cell);
        }
        more
    }

    /// Everything of the batch stays dirty and comes first again.
    fn give_up(&mut self, items: Vec<(i64, InodeId)>) -> bool {
        self.volume.dirty.put_back(items);
        self.retry.failed(self.volume.clock.monotonic_ns());
        self.shared.retries.fetch_add(1, Ordering::Relaxed);
        *self.shared.trouble.lock() = self.shared.last_error.lock().clone();
        false
    }

    /// Ends the batch: what failed waits, behind the others, for another try.
    fn settle(&mut self, items: Vec<(i64, InodeId)>, failed: HashSet<InodeId>) -> bool {
        let total = items.len();
        let mut again = Vec::new();
        for (since, ino) in items {
            if failed.contains(&ino) {
                again.push((since, ino));
            } else {
                self.volume.unqueue(ino);
            }
        }
        let bad = again.len();
        again.into_iter().for_each(|(since, ino)| self.volume.dirty.requeue(since, ino));
        if bad > 0 {
            self.retry.failed(self.volume.clock.monotonic_ns());
            self.shared.retries.fetch_add(1, Ordering::Relaxed);
            *self.shared.trouble.lock() = self.shared.last_error.lock().clone();
        } else {
            self.retry.succeeded();
            *self.shared.trouble.lock() = None;
        }
        total > bad
    }

    /// Stages and updates. Returns the inodes that failed.
    fn first_half(
        &mut self,
        snaps: Vec<Snapshot>,
        w: &mut Work,
        keys: &mut Vec<EntryKey>,
    ) -> HashSet<InodeId> {
        let mut failed = HashSet::new();
        let mut seen = HashSet::new();
        for snap in snaps {
            let ino = snap.ino;
            if snap.attr.kind == Kind::Dir {
                self.volume.sweep(ino);
                let mut entries = self.volume.dirty_entries(ino);
                entries.truncate(ENTRIES_MAX);
                for (name, target, _) in entries {
                    let key = EntryKey { parent: ino, name };
                    if let Some(t) = target
                        && let Err(e) = self.prepare(t, w, keys, &mut seen)
                    {
                        self.failed(&format!("storing inode {t}"), &e);
                        failed.insert(ino);
                        continue;
                    }
                    keys.push(key);
                }
            }
            if let Err(e) = self.prepare(ino, w, keys, &mut seen) {
                self.failed(&format!("storing inode {ino}"), &e);
                failed.insert(ino);
            }
        }
        failed
    }

    /// Makes one inode ready to be placed, and the directories above it.
    fn prepare(
        &mut self,
        ino: InodeId,
        w: &mut Work,
        keys: &mut Vec<EntryKey>,
        seen: &mut HashSet<InodeId>,
    ) -> io::Result<()> {
        if !seen.insert(ino) {
            return Ok(());
        }
        let Some(snap) = self.volume.snapshot(ino) else { return Ok(()) };
        let placed = self.volume.places.read().holds(ino);
        if snap.dead {
            // Its names go; its content is nobody's.
            if snap.attr.kind == Kind::Dir && placed {
                w.dirs.entry(ino).or_insert(None);
            }
            return Ok(());
        }
        for key in snap.parents.clone() {
            if !self.volume.places.read().holds(key.parent) {
                self.prepare(key.parent, w, keys, seen)?;
            }
            if !placed {
                keys.push(key);
            }
        }
        if snap.attr.kind == Kind::Dir {
            if placed {
                w.dirs.insert(ino, Some(snap));
                return Ok(());
            }
            w.dirs.insert(ino, Some(snap.clone()));
            return self.stage(snap, w);
        }
        if !placed {
            return self.stage(snap, w);
        }
        if snap.data == Lsn::NONE && snap.meta == Lsn::NONE {
            return Ok(());
        }
        match self.replaceable(&snap) {
            Some(at) => {
                keys.push(at);
                self.stage(snap, w)
            }
            None => self.update(snap, w),
        }
    }

    /// Logs, durably, where things are about to be put.
    fn announce(&mut self, w: &mut Work, keys: &[EntryKey]) -> Result<(), String> {
        let v = &self.volume;
        let mut any = false;
        for key in keys {
            let Some((Some(ino), _, _)) = v.entry(key) else { continue };
            let id = match w.staged.get(&ino) {
                Some(s) => s.stat.id,
                None => match v.places.read().get(ino) {
                    Some(p) if p.at != *key => p.id,
                    _ => continue,
                },
            };
            any = true;
            w.announced.insert((ino, key.clone()));
            let m = Mutation::Intent { ino, id, at: key.clone() };
            v.record(&m).map_err(|e| format!("{e:?}"))?;
        }
        if any {
            v.wal.sync_wait(&[v.system_last()]).map_err(|e| format!("sync: errno {}", e.0))?;
        }
        Ok(())
    }

    /// As `announce`, for one that turned up only while others were being placed.
    pub(super) fn announce_one(
        &mut self,
        ino: InodeId,
        id: crate::types::BackingId,
        key: &EntryKey,
        w: &mut Work,
    ) -> io::Result<()> {
        if !w.announced.insert((ino, key.clone())) {
            return Ok(());
        }
        let v = &self.volume;
        let m = Mutation::Intent { ino, id, at: key.clone() };
        v.record(&m).map_err(|e| io::Error::other(format!("logging a move: {e:?}")))?;
        v.wal.sync_wait(&[v.system_last()]).map_err(|e| io::Error::from_raw_os_error(e.0))
    }

    /// Installs, moves, removes. Returns the inodes that failed.
    fn second_half(&mut self, keys: &[EntryKey], w: &mut Work) -> HashSet<InodeId> {
        let mut failed = HashSet::new();
        let (present, removed): (Vec<_>, Vec<_>) =
            keys.iter().partition(|k| self.volume.entry(k).is_some_and(|e| e.0.is_some()));
        for key in present.into_iter().chain(removed) {
            if let Err(e) = self.agree(key, w) {
                let what = format!("storing the name {}", String::from_utf8_lossy(&key.name));
                self.failed(&what, &e);
                failed.insert(key.parent);
                if let Some((Some(t), _, _)) = self.volume.entry(key) {
                    failed.insert(t);
                }
            }
        }
        failed
    }

    /// Directories' attributes come last: every change of a name in them moved their times.
    fn set_dirs(&mut self, w: &mut Work) -> io::Result<()> {
        let mut paths = Vec::new();
        let inos: Vec<InodeId> = w.dirs.keys().copied().collect();
        for ino in inos {
            let Some(path) = self.volume.places.read().path(ino) else { continue };
            // Afresh: what was stored meanwhile may have changed it again.
            if let Some(snap) = self.volume.snapshot(ino)
                && !snap.dead
            {
                let path = BackingPath(path);
                self.set_attr(&path, &snap)?;
                paths.push(path);
                w.dirs.insert(ino, Some(snap));
            }
        }
        self.volume.backing.sync(&[], &paths)
    }

    /// Logs what the backing has now.
    fn receipts(&mut self, w: Work) -> crate::volume::Result<()> {
        let v = &self.volume;
        for ino in w.gone {
            v.record(&Mutation::Gone { ino })?;
        }
        for (at, as_of, holds) in w.entries {
            v.record(&Mutation::EntryStored { at, as_of, holds })?;
        }
        let stored = |snap: &Snapshot| -> crate::volume::Result<()> {
            let Some(place) = v.places.read().get(snap.ino).cloned() else {
                return match snap.ino {
                    InodeId::ROOT => v.root_stored(snap.meta),
                    _ => Ok(()),
                };
            };
            v.record(&Mutation::Stored {
                ino: snap.ino,
                id: place.id,
                at: place.at,
                data: snap.data,
                meta: snap.meta,
                size: snap.attr.size,
            })
        };
        for s in w.staged.values() {
            // Not installed after all: it stays dirty.
            if v.places.read().get(s.snap.ino).is_some_and(|p| p.id == s.stat.id) {
                stored(&s.snap)?;
            }
        }
        for snap in &w.updated {
            stored(snap)?;
        }
        for snap in w.dirs.values().flatten() {
            stored(snap)?;
        }
        for ino in w.moved {
            // Not in the condition: its lock would be held while the record is applied.
            let place = v.places.read().get(ino).cloned();
            if let Some(p) = place {
                let (data, meta) = (Lsn::NONE, Lsn::NONE);
                v.record(&Mutation::Stored { ino, id: p.id, at: p.at, data, meta, size: 0 })?;
            }
        }
        Ok(())
    }
}
