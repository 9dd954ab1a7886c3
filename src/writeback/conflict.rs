//! Something else changed the backing. Its version and ours are both kept: a file that was changed, replaced or
//! removed there while it had changes here is written whole, and what stands under its name there, if anything,
//! gets a conflict name first. A file is known to be as it was left by its number, size and modification time.

use super::Writeback;
use super::batch::is_gone;
use super::stage::{Staged, Work};
use crate::backing::{BackingFile, BackingPath, BackingStat, staged_path};
use crate::format::mutation::{EntryKey, Mutation};
use crate::types::{InodeId, Kind, Lsn};
use crate::volume::Snapshot;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Most conflict names of one file in one second.
const NAMES_MAX: u32 = 1000;

impl Writeback {
    /// Notes in the log that the file of an inode is about to change in the backing: until that is done its time and
    /// size there say nothing. It is durable before anything changes, with the sync at the beginning of the batch.
    pub(super) fn will_update(&mut self, snap: &Snapshot) {
        if snap.attr.kind != Kind::File || snap.seen.is_none() {
            return;
        }
        if let Err(e) = self.volume.record(&Mutation::Updating { ino: snap.ino }) {
            log::debug!("inode {}: noting its update: {e}", snap.ino);
        }
    }

    /// Whether something else changed the content of a file since we left it.
    pub(super) fn is_changed(&self, snap: &Snapshot, now: &BackingStat) -> bool {
        snap.attr.kind == Kind::File && snap.seen.is_some_and(|s| !now.is_as_seen(s))
    }

    /// Both have changed: ours becomes a file of its own, with what it has of the old content taken from theirs.
    pub(super) fn stage_beside(
        &mut self,
        snap: Snapshot,
        path: &BackingPath,
        w: &mut Work,
    ) -> io::Result<()> {
        let theirs = self.volume.backing.open(path)?;
        log::warn!("{path} was changed here and, by something else, in the backing: both versions are kept");
        let ino = snap.ino;
        w.keys.extend(snap.parents.iter().cloned());
        self.stage_over(snap, Some(theirs), w)?;
        if let Some(s) = w.staged.get_mut(&ino) {
            s.keeps = true;
        }
        Ok(())
    }

    /// Only attributes were changed here, and the content there: theirs is the content.
    pub(super) fn take_theirs(&mut self, snap: Snapshot, path: &BackingPath, w: &mut Work) -> io::Result<()> {
        log::warn!("{path} was changed in the backing by something else: only its mode and owner are set");
        self.set_attr_of(path, &snap, false)?;
        let now = self.volume.backing.stat(path)?;
        self.volume.take_in(snap.ino, &now);
        w.sync_files.push(path.clone());
        w.updated.push((Snapshot { attr: now.attr, ..snap }, Some(now.attr.mtime)));
        Ok(())
    }

    /// The file is gone from the backing. What was changed here is written, over what is left of the old content.
    pub(super) fn stage_lost(&mut self, snap: Snapshot, w: &mut Work) -> io::Result<()> {
        let name = self.volume.name_of(snap.ino).map(|k| String::from_utf8_lossy(&k.name).into_owned());
        let name = name.unwrap_or_default();
        if snap.data == Lsn::NONE {
            log::warn!(
                "{name} (inode {}) was removed in the backing by something else; so is it here",
                snap.ino
            );
            self.shared.conflicts.fetch_add(1, Ordering::Relaxed);
            w.updated.push((snap, None));
            return Ok(());
        }
        let lasts = self.volume.backing.open_files_last();
        let open = match lasts {
            true => self.volume.cell(snap.ino).and_then(|c| c.file.lock().clone()),
            // What replaced it stands for what it was: it was mostly made from that.
            false => self.theirs(&snap)?,
        };
        let rest = match open {
            Some(_) if lasts => "its old content was open still and is kept",
            Some(_) => "what stands there now stands for its old content",
            None => "zeros stand for its old content, which is lost",
        };
        log::warn!(
            "{name} (inode {}) was removed in the backing by something else while it was changed here: it is written \
             again; {rest}",
            snap.ino
        );
        self.shared.conflicts.fetch_add(1, Ordering::Relaxed);
        w.keys.extend(snap.parents.iter().cloned());
        self.stage_over(snap, Some(open.unwrap_or_else(|| Arc::new(Nothing))), w)
    }

    /// The file that stands under a name of an inode, whoever made it.
    fn theirs(&self, snap: &Snapshot) -> io::Result<Option<Arc<dyn BackingFile>>> {
        let Some(path) = self.volume.place_to_be(snap).map(BackingPath) else { return Ok(None) };
        match self.volume.backing.stat(&path) {
            Ok(s) if s.attr.kind == Kind::File => self.volume.backing.open(&path).map(Some),
            Ok(_) => Ok(None),
            Err(e) if is_gone(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Something that is not ours stands under a name: it is kept under another that says so.
    pub(super) fn set_aside(&mut self, key: &EntryKey, path: &BackingPath) -> io::Result<()> {
        let (at, to) = self.conflict_path(key)?;
        let volume = self.volume.clone();
        let _moving = volume.moves.begin(&[key, &at]);
        volume.backing.rename(path, &to)?;
        volume.unplaced(key);
        self.told_conflict(key, path, &to);
        Ok(())
    }

    /// Gives the file that stands under a name a conflict name as well, before ours takes its own: by a link, so
    /// that a death in between loses neither.
    pub(super) fn keep_theirs(&mut self, key: &EntryKey, path: &BackingPath) -> io::Result<()> {
        let (at, to) = self.conflict_path(key)?;
        let name = self.name(InodeId(0));
        let volume = self.volume.clone();
        let linked = {
            let _moving = volume.moves.begin(&[key, &at]);
            volume.backing.stage_link(&name, path).and_then(|()| volume.backing.install(&name, &to))
        };
        match linked {
            Ok(()) => {
                self.told_conflict(key, path, &to);
                Ok(())
            }
            Err(e) => {
                log::debug!("linking {path} to {to}: {e}; it is moved");
                if let Err(e) = volume.backing.unlink(&staged_path(&name)) {
                    log::debug!("removing the unused link {name}: {e}; the next mount does it");
                }
                self.set_aside(key, path)
            }
        }
    }

    fn told_conflict(&self, key: &EntryKey, path: &BackingPath, to: &BackingPath) {
        self.volume.look_again(key.parent);
        self.shared.conflicts.fetch_add(1, Ordering::Relaxed);
        log::warn!("{path} was changed in the backing by something else: its version is kept as {to}");
    }

    /// A conflict name that nothing has yet.
    fn conflict_path(&self, key: &EntryKey) -> io::Result<(EntryKey, BackingPath)> {
        let stamp = self.volume.clock.wall_ns() / 1_000_000_000;
        for n in 0..NAMES_MAX {
            let mut name = key.name.to_vec();
            name.truncate(200);
            name.extend_from_slice(format!(".conflict-{stamp}").as_bytes());
            if n > 0 {
                name.extend_from_slice(format!("-{n}").as_bytes());
            }
            let at = EntryKey { parent: key.parent, name: name.as_slice().into() };
            let to = self.path(&at).ok_or(io::ErrorKind::NotFound)?;
            match self.volume.backing.stat(&to) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((at, to)),
                Err(e) => return Err(e),
                Ok(_) => {}
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Makes directories again that something else removed in the backing, from the top. Returns whether any was.
    pub(super) fn restore_dirs(&mut self, dir: InodeId, w: &mut Work) -> io::Result<bool> {
        let Some(key) = self.volume.name_of(dir).filter(|_| dir != InodeId::ROOT) else { return Ok(false) };
        let above = self.restore_dirs(key.parent, w)?;
        // Where the backing has it, which need not be where programs have it by now.
        let (id, path) = {
            let places = self.volume.places.read();
            (places.id(dir), places.path(dir).map(BackingPath))
        };
        let Some(path) = path else { return Ok(above) };
        match self.volume.backing.stat(&path) {
            Ok(s) if Some(s.id) == id => return Ok(above),
            Err(e) if !is_gone(&e) => return Err(e),
            _ => {}
        }
        let Some(snap) = self.volume.snapshot(dir).filter(|s| !s.dead) else { return Ok(above) };
        log::warn!("{path} was removed in the backing by something else: it is made again for what is in it");
        self.shared.conflicts.fetch_add(1, Ordering::Relaxed);
        self.volume.track(dir).map_err(io::Error::other)?;
        self.stage(snap, w)?;
        if let Some(s) = w.staged.get(&dir) {
            let staged = staged_path(&s.name);
            self.volume.backing.sync(&[staged], &[])?;
        }
        self.agree(&key, w)
    }

    /// What was staged is not installed: the evidence against the file there counts again.
    pub(super) fn not_kept(&self, s: &Staged) {
        if s.keeps {
            self.volume.saw(s.snap.ino, s.snap.seen);
        }
    }
}

/// The content of a file that is gone.
struct Nothing;

impl BackingFile for Nothing {
    fn read_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
        Ok(0)
    }
    fn next_data(&self, _offset: u64) -> io::Result<Option<u64>> {
        Ok(None)
    }
    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }
}
