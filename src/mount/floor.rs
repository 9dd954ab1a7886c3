//! The floor that a filesystem behind this transport stands on: it answers at once, out of memory, and keeps no content
//! (reads give zeros). `mount-scripts/bench` measures forelog against it.

use super::answer::*;
use super::ops::{Caller, OwnedNew, WriteAt};
use super::serve::{At, Serve};
use crate::backing::BackingSpace;
use crate::fs::meter::Meter;
use crate::fs::{Located, OpenHow, SetAttrRequest, When};
use crate::sys::clock::{self, Clock};
use crate::types::{Attr, InodeId, Kind, Stamp};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Node {
    attr: Mutex<Attr>,
    /// A directory's.
    names: Mutex<HashMap<Vec<u8>, InodeId>>,
    /// A symlink's.
    target: Vec<u8>,
}

/// An empty filesystem.
pub struct Floor {
    nodes: RwLock<HashMap<InodeId, Arc<Node>>>,
    next: AtomicU64,
    clock: Arc<dyn Clock>,
    /// As forelog counts what it is asked.
    pub meter: Meter,
}

type Result<T> = std::result::Result<T, i32>;

fn answer<T>(reply: impl Reply<T>, r: Result<T>) {
    match r {
        Ok(value) => reply.ok(value),
        Err(errno) => reply.refuse(errno),
    }
}

impl Floor {
    pub fn new(uid: u32, gid: u32) -> Floor {
        let floor = Floor {
            nodes: RwLock::default(),
            next: AtomicU64::new(InodeId::ROOT.0 + 1),
            clock: clock::real(),
            meter: Meter::default(),
        };
        let root = OwnedNew::plain(Kind::Dir, 0o755, 0, 0);
        floor.nodes.write().insert(InodeId::ROOT, Arc::new(floor.fresh((uid, gid), root)));
        floor
    }

    fn fresh(&self, (uid, gid): (u32, u32), new: OwnedNew) -> Node {
        let now = self.now();
        let attr = Attr {
            kind: new.kind,
            mode: new.mode & !new.umask & 0o7777,
            uid,
            gid,
            rdev: new.rdev,
            nlink: if new.kind == Kind::Dir { 2 } else { 1 },
            size: new.target.len() as u64,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
        };
        Node { attr: Mutex::new(attr), names: Mutex::default(), target: new.target }
    }

    fn now(&self) -> Stamp {
        Stamp::from_ns(self.clock.wall_ns())
    }

    /// Counted as a request of forelog is.
    fn node(&self, ino: InodeId) -> Result<Arc<Node>> {
        self.meter.ask();
        self.nodes.read().get(&ino).cloned().ok_or(libc::ESTALE)
    }

    fn located(&self, ino: InodeId) -> Result<Located> {
        Ok(Located { ino, attr: *self.node(ino)?.attr.lock() })
    }

    fn made(&self, by: Caller, parent: InodeId, name: Vec<u8>, new: OwnedNew) -> Result<Located> {
        let dir = self.node(parent)?;
        let mut names = dir.names.lock();
        if names.contains_key(&name) {
            return Err(libc::EEXIST);
        }
        let ino = InodeId(self.next.fetch_add(1, Ordering::Relaxed));
        let node = self.fresh((by.uid, by.gid), new);
        let attr = *node.attr.lock();
        self.nodes.write().insert(ino, Arc::new(node));
        names.insert(name, ino);
        dir.attr.lock().mtime = attr.mtime;
        Ok(Located { ino, attr })
    }

    fn removed(&self, parent: InodeId, name: &[u8], as_dir: bool) -> Result<()> {
        let dir = self.node(parent)?;
        let mut names = dir.names.lock();
        let ino = *names.get(name).ok_or(libc::ENOENT)?;
        self.may_go(ino, as_dir)?;
        names.remove(name);
        dir.attr.lock().mtime = self.now();
        Ok(())
    }

    /// Takes the inode's link away if it is of that kind, and empty.
    fn may_go(&self, ino: InodeId, as_dir: bool) -> Result<()> {
        let node = self.node(ino)?;
        let mut attr = node.attr.lock();
        match (attr.kind == Kind::Dir, as_dir) {
            (true, false) => return Err(libc::EISDIR),
            (false, true) => return Err(libc::ENOTDIR),
            (true, true) if !node.names.lock().is_empty() => return Err(libc::ENOTEMPTY),
            _ => attr.nlink = 0,
        }
        Ok(())
    }

    fn renamed(&self, (p, a): At, (q, b): At, flags: u32) -> Result<()> {
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(libc::EINVAL);
        }
        let (from, to) = (self.node(p)?, self.node(q)?);
        // One after the other: the kernel holds both directories meanwhile.
        let ino = *from.names.lock().get(&a).ok_or(libc::ENOENT)?;
        let as_dir = self.node(ino)?.attr.lock().kind == Kind::Dir;
        let there = to.names.lock().get(&b).copied();
        match there {
            Some(_) if flags != 0 => return Err(libc::EEXIST),
            Some(old) if old == ino => return Ok(()),
            Some(old) => self.may_go(old, as_dir)?,
            None => {}
        }
        from.names.lock().remove(&a);
        to.names.lock().insert(b, ino);
        let now = self.now();
        [from, to].iter().for_each(|d| d.attr.lock().mtime = now);
        Ok(())
    }

    fn set(&self, ino: InodeId, set: &SetAttrRequest) -> Result<Attributes> {
        let (node, now) = (self.node(ino)?, self.now());
        let mut a = node.attr.lock();
        let time = |w: Option<When>, old| match w {
            Some(When::At(t)) => t,
            Some(When::Now) => now,
            None => old,
        };
        *a = Attr {
            mode: set.mode.map_or(a.mode, |m| m & 0o7777),
            uid: set.uid.unwrap_or(a.uid),
            gid: set.gid.unwrap_or(a.gid),
            size: set.size.unwrap_or(a.size),
            atime: time(set.atime, a.atime),
            mtime: time(set.mtime, if set.size.is_some() { now } else { a.mtime }),
            ctime: now,
            ..*a
        };
        Ok(Attributes(Located { ino, attr: *a }))
    }

    /// In the order of the inodes, whose numbers are the cookies.
    fn listed(&self, ino: InodeId, offset: u64) -> Result<Vec<(InodeId, Vec<u8>)>> {
        let node = self.node(ino)?;
        let names = node.names.lock();
        let mut v: Vec<_> =
            names.iter().filter(|n| n.1.0 > offset).map(|(name, &ino)| (ino, name.clone())).collect();
        v.sort_unstable();
        Ok(v)
    }

    fn list(&self, ino: InodeId, offset: u64, mut reply: impl ReplyNames, plus: bool) {
        let names = match self.listed(ino, offset) {
            Ok(names) => names,
            Err(errno) => return reply.refuse(errno),
        };
        for (ino, name) in names {
            let Ok(l) = self.located(ino) else { continue };
            let full = match plus {
                true => reply.plus(ino.0, &name, &l),
                false => reply.name(ino, ino.0, l.attr.kind, &name),
            };
            if full {
                break;
            }
        }
        reply.end();
    }

    fn wrote(&self, at: WriteAt, bytes: usize) -> Result<Written> {
        let (node, now) = (self.node(InodeId(at.fh))?, self.now());
        let mut a = node.attr.lock();
        a.size = a.size.max(at.offset + bytes as u64);
        (a.mtime, a.ctime) = (now, now);
        Ok(Written(bytes as u32))
    }
}

/// The handle is the inode's number.
fn opened(ino: InodeId, how: OpenHow) -> Opened {
    Opened { fh: ino.0, how, keeps_pages: true }
}

impl Serve for Floor {
    fn has_access_lists(&self) -> bool {
        true
    }
    fn forget(&self, ino: InodeId, _: u64) {
        let is_gone = self.nodes.read().get(&ino).is_some_and(|n| n.attr.lock().nlink == 0);
        if is_gone {
            self.nodes.write().remove(&ino);
        }
    }
    fn lookup(&self, parent: InodeId, name: Vec<u8>, reply: impl Reply<Entry>) {
        let found = self.node(parent).map(|d| d.names.lock().get(&name).copied());
        answer(reply, found.and_then(|i| i.map(|i| self.located(i)).transpose()).map(Entry));
    }
    fn getattr(&self, ino: InodeId, reply: impl Reply<Attributes>) {
        answer(reply, self.located(ino).map(Attributes));
    }
    fn setattr(&self, _: Caller, ino: InodeId, set: SetAttrRequest, reply: impl Reply<Attributes>) {
        answer(reply, self.set(ino, &set));
    }
    fn readlink(&self, ino: InodeId, reply: impl Reply<Bytes>) {
        answer(reply, self.node(ino).map(|n| Bytes(n.target.clone().into())));
    }
    fn make(&self, by: Caller, parent: InodeId, name: Vec<u8>, new: OwnedNew, reply: impl Reply<Entry>) {
        answer(reply, self.made(by, parent, name, new).map(|l| Entry(Some(l))));
    }
    fn remove(&self, _: Caller, parent: InodeId, name: Vec<u8>, dir: bool, reply: impl Reply<()>) {
        answer(reply, self.removed(parent, &name, dir));
    }
    fn rename(&self, _: Caller, from: At, to: At, flags: u32, reply: impl Reply<()>) {
        answer(reply, self.renamed(from, to, flags));
    }
    fn open(&self, _: Caller, ino: InodeId, how: OpenHow, reply: impl Reply<Opened>) {
        answer(reply, self.node(ino).map(|_| opened(ino, how)));
    }
    fn create(
        &self,
        by: Caller,
        parent: InodeId,
        name: Vec<u8>,
        (mode, umask): (u32, u32),
        how: OpenHow,
        reply: impl Reply<Created>,
    ) {
        let made = self.made(by, parent, name, OwnedNew::plain(Kind::File, mode, umask, 0));
        answer(reply, made.map(|l| Created(l, opened(l.ino, how))));
    }
    fn read(&self, ino: InodeId, offset: u64, size: u32, reply: impl Reply<Bytes>) {
        let left = self.node(ino).map(|n| n.attr.lock().size.saturating_sub(offset));
        answer(reply, left.map(|n| Bytes(vec![0; n.min(size as u64) as usize].into())));
    }
    fn write(&self, _: Caller, at: WriteAt, carried: impl Carries) {
        let r = self.wrote(at, carried.bytes().len());
        answer(carried.into_reply(), r);
    }
    fn flush(&self, _: Caller, ino: InodeId, reply: impl Reply<()>) {
        answer(reply, self.node(ino).map(drop));
    }
    fn release(&self, _: u64, reply: impl Reply<()>) {
        reply.ok(());
    }
    fn fsync(&self, _: Caller, ino: InodeId, reply: impl Reply<()>) {
        answer(reply, self.node(ino).map(drop));
    }
    fn readdir(&self, ino: InodeId, offset: u64, reply: impl ReplyNames) {
        self.list(ino, offset, reply, false);
    }
    fn readdirplus(&self, ino: InodeId, offset: u64, reply: impl ReplyNames) {
        self.list(ino, offset, reply, true);
    }
    fn syncfs(&self, reply: impl Reply<()>) {
        reply.ok(());
    }
    fn destroy(&self, reply: impl Reply<()>) {
        reply.ok(());
    }
    fn statfs(&self, reply: impl Reply<Space>) {
        let (many, block_bytes, name_bytes_max) = (1 << 28, 4096, 255);
        let (blocks, blocks_free, blocks_available, files, files_free) = (many, many, many, many, many);
        let space = BackingSpace {
            block_bytes,
            blocks,
            blocks_free,
            blocks_available,
            files,
            files_free,
            name_bytes_max,
        };
        reply.ok(Space(space));
    }
    fn getxattr(&self, _: InodeId, _: Vec<u8>, _: u32, reply: impl Reply<Attribute>) {
        reply.refuse(libc::ENODATA);
    }
    fn listxattr(&self, _: InodeId, size: u32, reply: impl Reply<Attribute>) {
        reply.ok(if size == 0 { Attribute::Length(0) } else { Attribute::Value(Vec::new()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: Caller = Caller { uid: 1, gid: 2, tid: 3 };

    #[test]
    fn a_tree_is_kept_without_content() {
        let f = Floor::new(0, 0);
        let file = |umask| OwnedNew::plain(Kind::File, 0o666, umask, 0);
        let name = |n: &str| (InodeId::ROOT, n.as_bytes().to_vec());
        let (root, a) = name("a");
        let l = f.made(BY, root, a.clone(), file(0o22)).unwrap();
        assert_eq!((l.attr.mode, l.attr.uid), (0o644, 1));
        assert_eq!(f.made(BY, root, a, file(0)).unwrap_err(), libc::EEXIST);
        let at = WriteAt { fh: l.ino.0, offset: 10, cached: false, kill: false };
        assert_eq!(f.wrote(at, 5).unwrap().0, 5);
        assert_eq!(f.located(l.ino).unwrap().attr.size, 15);
        let d = f.made(BY, root, b"d".to_vec(), OwnedNew::plain(Kind::Dir, 0o755, 0, 0)).unwrap();
        f.made(BY, d.ino, b"x".to_vec(), file(0)).unwrap();
        assert_eq!(f.removed(root, b"d", true).unwrap_err(), libc::ENOTEMPTY);
        assert_eq!(f.removed(root, b"d", false).unwrap_err(), libc::EISDIR);
        assert_eq!(f.renamed(name("a"), name("d"), 0).unwrap_err(), libc::EISDIR);
        f.renamed(name("a"), name("b"), libc::RENAME_NOREPLACE).unwrap();
        assert_eq!(f.renamed(name("b"), name("d"), libc::RENAME_NOREPLACE).unwrap_err(), libc::EEXIST);
        let names = f.listed(root, 0).unwrap();
        assert_eq!(names, [(l.ino, b"b".to_vec()), (d.ino, b"d".to_vec())]);
        assert_eq!(f.listed(root, l.ino.0).unwrap().len(), 1);
        f.removed(root, b"b", false).unwrap();
        f.forget(l.ino, 1);
        assert_eq!(f.located(l.ino).unwrap_err(), libc::ESTALE);
        f.forget(d.ino, 1);
        assert!(f.located(d.ino).is_ok());
    }
}
