//! The first half of a batch: content on its way, nothing of it visible in the backing yet.

use super::Writeback;
use crate::backing::{
    AttrChange, BackingFile, BackingPath, BackingStat, NewObject, Piece, Update, staged_path,
};
use crate::format::mutation::EntryKey;
use crate::namespace::Place;
use crate::sys::limiter::Limiter;
use crate::types::{InodeId, Kind, Lsn, Stamp};
use crate::volume::{Error, Snapshot};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An object staged under a name of ours.
pub(super) struct Staged {
    pub name: String,
    pub stat: BackingStat,
    pub snap: Snapshot,
    pub installed: bool,
    /// Not to be installed after all.
    pub dropped: bool,
    /// What it replaces was changed by something else, and is kept.
    pub keeps: bool,
}

/// What a batch is about, and what it has done so far.
#[derive(Default)]
pub(super) struct Work {
    /// The inodes to store, as they were when the batch began, and their bytes.
    pub plan: Vec<Snapshot>,
    pub bytes: u64,
    /// The names to make agree.
    pub keys: Vec<EntryKey>,
    /// What names led to when the batch began, and as of which record.
    pub was: HashMap<EntryKey, (InodeId, Lsn)>,
    /// Directories of which only a part is in this batch.
    pub partial: HashSet<InodeId>,
    /// The log is durable up to here: nothing newer goes to the backing.
    pub upto: Lsn,
    pub staged: HashMap<InodeId, Staged>,
    /// Updated where they are, and the modification time that each file has there now.
    pub updated: Vec<(Snapshot, Option<Stamp>)>,
    /// Directories whose attributes must be set at the end.
    pub dirs: HashSet<InodeId>,
    pub sync_files: Vec<BackingPath>,
    /// Names that agree now, and as of which record.
    pub agreed: HashMap<EntryKey, Lsn>,
    /// Directories whose times the log holds, or need not.
    pub timed: HashSet<InodeId>,
    pub visiting: Vec<EntryKey>,
    /// Logged as about to be put there.
    pub announced: HashSet<(InodeId, EntryKey)>,
}

impl Writeback {
    /// Stages a new object, or a file that is replaced as a whole.
    pub(super) fn stage(&mut self, snap: Snapshot, w: &mut Work) -> io::Result<()> {
        if snap.base_end > 0 {
            return self.stage_lost(snap, w);
        }
        self.stage_over(snap, None, w)
    }

    /// Stages an object; where it has bytes of the backing's old file, they are taken from `base`.
    pub(super) fn stage_over(
        &mut self,
        snap: Snapshot,
        base: Option<Arc<dyn BackingFile>>,
        w: &mut Work,
    ) -> io::Result<()> {
        let name = self.name(snap.ino);
        let xattrs = match &snap.xattrs {
            Some(x) => x.clone(),
            None => self.known_xattrs(&snap)?,
        };
        let at = self.volume.place_to_be(&snap).map(BackingPath);
        let object = NewObject { attr: snap.attr, target: snap.target.clone(), xattrs, at };
        let (volume, limiter) = (self.volume.clone(), self.limiter());
        let mut bytes = 0;
        let mut content = |sink: &mut dyn FnMut(Piece<'_>) -> io::Result<()>| {
            volume.pull(&snap, base.as_deref(), &mut |p| {
                if let Piece::Data { bytes: b, .. } = &p {
                    bytes += b.len() as u64;
                }
                paced(limiter.as_deref(), p, sink)
            })
        };
        let stat = self.volume.backing.stage(&name, &object, &mut content)?;
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        self.shared.contents.fetch_add((snap.attr.kind == Kind::File) as u64, Ordering::Relaxed);
        w.sync_files.push(staged_path(&name));
        let staged = Staged { name, stat, snap, installed: false, dropped: false, keeps: false };
        w.staged.insert(staged.snap.ino, staged);
        Ok(())
    }

    /// What content has to wait for here.
    fn limiter(&self) -> Option<Arc<Limiter>> {
        (!self.backing_paces).then(|| self.shared.limiter.clone())
    }

    fn known_xattrs(&self, snap: &Snapshot) -> io::Result<Vec<(crate::types::Name, Vec<u8>)>> {
        let Some(cell) = self.volume.cell(snap.ino) else { return Ok(Vec::new()) };
        match self.volume.xattrs(&cell) {
            Ok(x) => Ok(x),
            // Gone with the file that had them.
            Err(Error::Backing(e)) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(io::Error::other(format!("reading xattrs: {e}"))),
        }
    }

    /// Changes a file or its attributes where it is.
    pub(super) fn update(&mut self, snap: Snapshot, w: &mut Work) -> io::Result<()> {
        // Never into what something else put there.
        let Some((_, path, there)) = self.standing(snap.ino, 1)?.into_iter().next() else {
            return match snap.attr.kind {
                Kind::File => self.stage_lost(snap, w),
                _ => Err(lost(snap.ino)),
            };
        };
        if self.is_changed(&snap, &there) {
            return match snap.data {
                Lsn::NONE => self.take_theirs(snap, &path, w),
                _ => self.stage_beside(snap, &path, w),
            };
        }
        if snap.attr.kind == Kind::File && snap.data != Lsn::NONE {
            let (volume, limiter) = (self.volume.clone(), self.limiter());
            let mut bytes = 0;
            let mut content = |sink: &mut dyn FnMut(Piece<'_>) -> io::Result<()>| {
                volume.pull(&snap, None, &mut |p| {
                    if let Piece::Data { bytes: b, .. } = &p {
                        bytes += b.len() as u64;
                    }
                    paced(limiter.as_deref(), p, sink)
                })
            };
            let then = change_of(&snap, true);
            let update =
                Update { keep: snap.base_end, size: snap.attr.size, content: &mut content, then: &then };
            self.volume.backing.update(&path, update)?;
            self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.shared.contents.fetch_add(1, Ordering::Relaxed);
        }
        self.set_attr(&path, &snap)?;
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        let seen = match snap.attr.kind {
            Kind::File => Some(self.volume.backing.stat(&path)?.attr.mtime),
            _ => None,
        };
        w.sync_files.push(path);
        w.updated.push((snap, seen));
        Ok(())
    }

    /// A file may be replaced as a whole when nothing of the backing's content is part of it, it has
    /// one name, and that name is where it is.
    pub(super) fn replaceable(&self, snap: &Snapshot) -> Option<EntryKey> {
        if snap.attr.kind != Kind::File
            || snap.data == Lsn::NONE
            || snap.base_end > 0
            || snap.attr.nlink != 1
            || snap.attr.size == 0
        {
            return None;
        }
        let places = self.volume.places.read();
        let Place { at, .. } = places.get(snap.ino)?;
        let here = places.names(snap.ino).len() == 1 && snap.parents == [at.clone()];
        drop(places);
        (here && self.volume.entry(&at)?.0 == Some(snap.ino)).then_some(at)
    }

    pub(super) fn set_attr(&self, path: &BackingPath, snap: &Snapshot) -> io::Result<()> {
        self.set_attr_of(path, snap, true)
    }

    pub(super) fn set_attr_of(&self, path: &BackingPath, snap: &Snapshot, times: bool) -> io::Result<()> {
        self.volume.backing.set_attr(path, snap.attr.kind, &change_of(snap, times))
    }
}

/// Hands a piece on, not faster than the limiter allows.
fn paced(
    limiter: Option<&Limiter>,
    piece: Piece<'_>,
    sink: &mut dyn FnMut(Piece<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let (Some(l), Piece::Data { offset, bytes }) = (limiter, &piece) else { return sink(piece) };
    let mut at = 0;
    while at < bytes.len() {
        let n = l.piece().min(bytes.len() - at);
        if !l.wait(n as u64) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the gateway is ending"));
        }
        sink(Piece::Data { offset: offset + at as u64, bytes: &bytes[at..at + n] })?;
        at += n;
    }
    Ok(())
}

fn change_of(snap: &Snapshot, times: bool) -> AttrChange {
    AttrChange {
        mode: (snap.attr.kind != Kind::Symlink).then_some(snap.attr.mode),
        owner: Some((snap.attr.uid, snap.attr.gid)),
        times: times.then_some((snap.attr.atime, snap.attr.mtime)),
        xattrs: snap.xattrs.clone(),
    }
}

fn lost(ino: InodeId) -> io::Error {
    let text =
        format!("the backing no longer has the file that inode {ino} was; its changes stay in the log");
    io::Error::new(io::ErrorKind::NotFound, text)
}
