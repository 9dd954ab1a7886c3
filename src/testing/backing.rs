//! A backing in memory. Object numbers are given out lowest first and used again at once, as ext4
//! does. Every call passes the plug; a call that fails there has done nothing.

use super::plug::{Plug, Trouble};
use crate::backing::{
    AttrChange, Backing, BackingEntry, BackingFile, BackingPath, BackingSpace, BackingStat, Content,
    HeldLease, Limits, NewObject, Note, Piece, Update, Xattr, parked_path, staged_path,
};
use crate::types::{Attr, BackingId, Kind, Name, Stamp};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// One object.
#[derive(Clone, Debug)]
pub struct Thing {
    pub attr: Attr,
    pub target: Vec<u8>,
    pub xattrs: Vec<Xattr>,
    pub data: Vec<u8>,
    pub entries: BTreeMap<Name, u64>,
}

struct Object {
    id: u64,
    thing: Mutex<Thing>,
}

struct Tree {
    objects: HashMap<u64, Arc<Object>>,
    /// Unlinked ones that may still be open: their numbers are taken.
    gone: HashMap<u64, Weak<Object>>,
}

const ROOT: u64 = 2;
const FIRST: u64 = 11;

/// See the module.
pub struct MemBacking {
    tree: Mutex<Tree>,
    /// Syncs of directories fail.
    dir_syncs_fail: AtomicBool,
    /// Called after each file that was staged.
    at_stage: Mutex<Option<Box<dyn FnMut() + Send>>>,
    plug: Arc<Plug>,
}

fn err(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

impl Tree {
    fn add(&mut self, thing: Thing) -> u64 {
        self.gone.retain(|_, w| w.strong_count() > 0);
        let taken = |id: &u64| self.objects.contains_key(id) || self.gone.contains_key(id);
        let id = (FIRST..).find(|i| !taken(i)).unwrap_or(FIRST);
        self.objects.insert(id, Arc::new(Object { id, thing: Mutex::new(thing) }));
        id
    }
    fn get(&self, id: u64) -> io::Result<Arc<Object>> {
        self.objects.get(&id).cloned().ok_or(err(io::ErrorKind::NotFound))
    }
    fn find(&self, path: &[u8]) -> io::Result<u64> {
        let mut at = ROOT;
        for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty()) {
            let dir = self.get(at)?;
            let t = dir.thing.lock();
            if t.attr.kind != Kind::Dir {
                return Err(err(io::ErrorKind::NotADirectory));
            }
            at = *t.entries.get(name).ok_or(err(io::ErrorKind::NotFound))?;
        }
        Ok(at)
    }
    fn parent(&self, path: &[u8]) -> io::Result<(u64, Name)> {
        let cut = path.iter().rposition(|&b| b == b'/');
        let (dir, name) = match cut {
            Some(i) => (&path[..i], &path[i + 1..]),
            None => (&path[..0], path),
        };
        Ok((self.find(dir)?, name.into()))
    }
    fn set(&self, dir: u64, name: &Name, id: Option<u64>) -> io::Result<()> {
        let d = self.get(dir)?;
        let mut t = d.thing.lock();
        match id {
            Some(id) => t.entries.insert(name.clone(), id),
            None => t.entries.remove(name),
        };
        t.attr.mtime = Stamp { secs: 1, nanos: 1 };
        Ok(())
    }
    fn unlinked(&mut self, id: u64) -> io::Result<()> {
        let o = self.get(id)?;
        let mut t = o.thing.lock();
        t.attr.nlink = if t.attr.kind == Kind::Dir { 0 } else { t.attr.nlink - 1 };
        let last = t.attr.nlink == 0;
        drop(t);
        if last {
            self.objects.remove(&id);
            self.gone.insert(id, Arc::downgrade(&o));
        }
        Ok(())
    }
    /// rename(2), but a directory and another kind may replace each other.
    fn rename(&mut self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (fd, fname) = self.parent(from)?;
        let id = self.find(from)?;
        let (td, tname) = self.parent(to)?;
        let mut up = to;
        while let Some(i) = up.iter().rposition(|&b| b == b'/') {
            up = &up[..i];
            if self.find(up)? == id {
                return Err(err(io::ErrorKind::InvalidInput));
            }
        }
        if let Ok(there) = self.find(to) {
            if there == id {
                if fd != td || fname != tname {
                    self.set(fd, &fname, None)?;
                    self.unlinked(id)?;
                }
                return Ok(());
            }
            if !self.get(there)?.thing.lock().entries.is_empty() {
                return Err(err(io::ErrorKind::DirectoryNotEmpty));
            }
            self.set(td, &tname, None)?;
            self.unlinked(there)?;
        }
        self.set(fd, &fname, None)?;
        self.set(td, &tname, Some(id))
    }
}

fn folder(mode: u32) -> Thing {
    let attr = Attr {
        kind: Kind::Dir,
        mode,
        uid: 0,
        gid: 0,
        rdev: 0,
        nlink: 2,
        size: 0,
        blocks: 0,
        atime: Stamp::default(),
        mtime: Stamp::default(),
        ctime: Stamp::default(),
    };
    Thing { attr, target: Vec::new(), xattrs: Vec::new(), data: Vec::new(), entries: BTreeMap::new() }
}

impl MemBacking {
    /// An empty one.
    pub fn new(plug: Arc<Plug>) -> MemBacking {
        let root = Arc::new(Object { id: ROOT, thing: Mutex::new(folder(0o755)) });
        let tree = Tree { objects: HashMap::from([(ROOT, root)]), gone: HashMap::new() };
        MemBacking {
            tree: Mutex::new(tree),
            dir_syncs_fail: AtomicBool::new(false),
            at_stage: Mutex::default(),
            plug,
        }
    }

    /// Every object by its path, with its number; ours too.
    pub fn all(&self) -> BTreeMap<Vec<u8>, (u64, Thing)> {
        let tree = self.tree.lock();
        let mut out = BTreeMap::new();
        let mut work = vec![(Vec::new(), ROOT)];
        while let Some((path, id)) = work.pop() {
            let Some(o) = tree.objects.get(&id) else { continue };
            let t = o.thing.lock().clone();
            for (name, child) in &t.entries {
                work.push((BackingPath(path.clone()).join(name).0, *child));
            }
            out.insert(path, (id, t));
        }
        out
    }

    /// What programs do while a batch is under way: called after each file that was staged.
    pub fn at_stage(&self, each: impl FnMut() + Send + 'static) {
        *self.at_stage.lock() = Some(Box::new(each));
    }

    /// From now on syncs of directories fail, or work again.
    pub fn fail_dir_syncs(&self, fail: bool) {
        self.dir_syncs_fail.store(fail, Ordering::Release);
    }

    /// All is as it was when `all` said this: the backing had a power cut.
    pub fn put_back(&self, was: BTreeMap<Vec<u8>, (u64, Thing)>) {
        let object = |(id, thing): (u64, Thing)| (id, Arc::new(Object { id, thing: Mutex::new(thing) }));
        *self.tree.lock() = Tree { objects: was.into_values().map(object).collect(), gone: HashMap::new() };
    }

    fn pass(&self) -> io::Result<()> {
        self.plug.pass(Trouble::Backing)
    }

    fn change(&self, what: std::fmt::Arguments<'_>) -> io::Result<()> {
        self.pass()?;
        log::debug!("backing: {what}");
        Ok(())
    }

    fn on<T>(&self, path: &BackingPath, f: impl FnOnce(u64, &mut Thing) -> io::Result<T>) -> io::Result<T> {
        self.pass()?;
        let tree = self.tree.lock();
        let o = tree.get(tree.find(&path.0)?)?;
        let mut t = o.thing.lock();
        f(o.id, &mut t)
    }

    fn ours(tree: &mut Tree, name: &str) -> io::Result<()> {
        for (path, last) in [(&b""[..], ".forelog"), (&b".forelog"[..], name)] {
            let at = tree.find(path)?;
            if !tree.get(at)?.thing.lock().entries.contains_key(last.as_bytes()) {
                let id = tree.add(folder(0o700));
                tree.set(at, &last.as_bytes().into(), Some(id))?;
            }
        }
        Ok(())
    }
}

struct MemFile(Arc<Object>, Arc<Plug>);

impl BackingFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.pass(Trouble::Backing)?;
        let t = self.0.thing.lock();
        let from = (offset as usize).min(t.data.len());
        let n = buf.len().min(t.data.len() - from);
        buf[..n].copy_from_slice(&t.data[from..from + n]);
        Ok(n)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset).filter(|&o| o < self.0.thing.lock().data.len() as u64))
    }
    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        Ok(offset.max(self.0.thing.lock().data.len() as u64))
    }
}

impl Backing for MemBacking {
    fn describe(&self) -> String {
        "/simulated".into()
    }
    fn remote(&self) -> bool {
        false
    }
    fn limits(&self) -> Limits {
        Limits { xattr_bytes_max: 4096, access_lists: true, ..Limits::NONE }
    }

    fn stat(&self, path: &BackingPath) -> io::Result<BackingStat> {
        let answer = self.on(path, |id, t| {
            let size = if t.attr.kind == Kind::File { t.data.len() as u64 } else { t.attr.size };
            Ok(BackingStat { id: BackingId(id), attr: Attr { size, ..t.attr } })
        });
        self.plug.answer(answer)
    }
    fn list(&self, path: &BackingPath, each: &mut dyn FnMut(BackingEntry)) -> io::Result<()> {
        self.pass()?;
        let mut out = Vec::new();
        {
            let tree = self.tree.lock();
            let dir = tree.get(tree.find(&path.0)?)?;
            let t = dir.thing.lock();
            for (name, &id) in t.entries.iter().filter(|e| !path.0.is_empty() || &**e.0 != b".forelog") {
                let kind = tree.get(id)?.thing.lock().attr.kind;
                out.push(BackingEntry { name: name.clone(), id: BackingId(id), kind });
            }
        }
        self.plug.answer(out).into_iter().for_each(each);
        Ok(())
    }
    fn open(&self, path: &BackingPath) -> io::Result<Arc<dyn BackingFile>> {
        self.pass()?;
        let found = {
            let tree = self.tree.lock();
            tree.get(tree.find(&path.0)?)?
        };
        Ok(self.plug.answer(Arc::new(MemFile(found, self.plug.clone()))))
    }
    fn readlink(&self, path: &BackingPath) -> io::Result<Vec<u8>> {
        self.plug.answer(self.on(path, |_, t| Ok(t.target.clone())))
    }
    fn xattrs(&self, path: &BackingPath) -> io::Result<Vec<Xattr>> {
        self.plug.answer(self.on(path, |_, t| Ok(t.xattrs.clone())))
    }
    fn space(&self) -> io::Result<BackingSpace> {
        Ok(BackingSpace::default())
    }

    fn stage(&self, name: &str, object: &NewObject, content: Content<'_>) -> io::Result<BackingStat> {
        self.change(format_args!("stage {name} {:?} {}", object.attr.kind, object.attr.size))?;
        let mut data = vec![0; if object.attr.kind == Kind::File { object.attr.size as usize } else { 0 }];
        if object.attr.kind == Kind::File {
            content(&mut |p| {
                if let Piece::Data { offset, bytes } = p {
                    data[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
                }
                Ok(())
            })?;
        }
        let mut thing = folder(0);
        thing.attr = Attr { nlink: if object.attr.kind == Kind::Dir { 2 } else { 1 }, ..object.attr };
        (thing.target, thing.xattrs, thing.data) = (object.target.clone(), object.xattrs.clone(), data);
        let mut tree = self.tree.lock();
        Self::ours(&mut tree, "tmp")?;
        if tree.find(&staged_path(name).0).is_ok() {
            return Err(err(io::ErrorKind::AlreadyExists));
        }
        let attr = thing.attr;
        let id = tree.add(thing);
        let (dir, last) = tree.parent(&staged_path(name).0)?;
        tree.set(dir, &last, Some(id))?;
        drop(tree);
        if let Some(each) = &mut *self.at_stage.lock() {
            each();
        }
        Ok(BackingStat { id: BackingId(id), attr })
    }
    fn stage_link(&self, name: &str, from: &BackingPath) -> io::Result<()> {
        self.change(format_args!("stage_link {name} {from}"))?;
        let mut tree = self.tree.lock();
        let id = tree.find(&from.0)?;
        if tree.get(id)?.thing.lock().attr.kind == Kind::Dir {
            return Err(err(io::ErrorKind::PermissionDenied));
        }
        Self::ours(&mut tree, "tmp")?;
        let (dir, last) = tree.parent(&staged_path(name).0)?;
        tree.get(id)?.thing.lock().attr.nlink += 1;
        tree.set(dir, &last, Some(id))
    }
    fn install(&self, name: &str, to: &BackingPath) -> io::Result<()> {
        self.change(format_args!("install {name} {to}"))?;
        self.tree.lock().rename(&staged_path(name).0, &to.0)
    }

    fn update(&self, path: &BackingPath, update: Update<'_>) -> io::Result<()> {
        self.change(format_args!("update {path} keep {} size {}", update.keep, update.size))?;
        let o = {
            let tree = self.tree.lock();
            tree.get(tree.find(&path.0)?)?
        };
        o.thing.lock().data.truncate(update.keep as usize);
        // Each piece is a call of its own: a death may leave any number of them done.
        (update.content)(&mut |p| {
            self.pass()?;
            let data = &mut o.thing.lock().data;
            let (at, len) = match &p {
                Piece::Data { offset, bytes } => (*offset as usize, bytes.len()),
                Piece::Zero { offset, len } => (*offset as usize, *len as usize),
            };
            if data.len() < at + len {
                data.resize(at + len, 0);
            }
            match p {
                Piece::Data { bytes, .. } => data[at..at + len].copy_from_slice(bytes),
                Piece::Zero { .. } => data[at..at + len].fill(0),
            }
            Ok(())
        })?;
        o.thing.lock().data.resize(update.size as usize, 0);
        Ok(())
    }
    fn set_attr(&self, path: &BackingPath, kind: Kind, change: &AttrChange) -> io::Result<()> {
        self.on(path, |_, t| {
            if t.attr.kind != kind {
                return Err(io::Error::from_raw_os_error(libc::ESTALE));
            }
            t.attr.mode = change.mode.unwrap_or(t.attr.mode);
            if let Some((uid, gid)) = change.owner {
                (t.attr.uid, t.attr.gid) = (uid, gid);
            }
            if let Some((atime, mtime)) = change.times {
                (t.attr.atime, t.attr.mtime) = (atime, mtime);
            }
            if let Some(x) = &change.xattrs {
                t.xattrs = x.clone();
            }
            Ok(())
        })
    }
    fn rename(&self, from: &BackingPath, to: &BackingPath) -> io::Result<()> {
        self.change(format_args!("rename {from} {to}"))?;
        self.tree.lock().rename(&from.0, &to.0)
    }
    fn park(&self, from: &BackingPath, name: &str) -> io::Result<()> {
        self.change(format_args!("park {from} {name}"))?;
        let mut tree = self.tree.lock();
        Self::ours(&mut tree, "park")?;
        tree.rename(&from.0, &parked_path(name).0)
    }
    fn unlink(&self, path: &BackingPath) -> io::Result<()> {
        self.change(format_args!("unlink {path}"))?;
        let mut tree = self.tree.lock();
        let id = tree.find(&path.0)?;
        if tree.get(id)?.thing.lock().attr.kind == Kind::Dir {
            return Err(err(io::ErrorKind::IsADirectory));
        }
        let (dir, name) = tree.parent(&path.0)?;
        tree.set(dir, &name, None)?;
        tree.unlinked(id)
    }
    fn rmdir(&self, path: &BackingPath) -> io::Result<()> {
        self.change(format_args!("rmdir {path}"))?;
        let mut tree = self.tree.lock();
        let id = tree.find(&path.0)?;
        {
            let o = tree.get(id)?;
            let t = o.thing.lock();
            if t.attr.kind != Kind::Dir {
                return Err(err(io::ErrorKind::NotADirectory));
            }
            if !t.entries.is_empty() {
                return Err(err(io::ErrorKind::DirectoryNotEmpty));
            }
        }
        let (dir, name) = tree.parent(&path.0)?;
        tree.set(dir, &name, None)?;
        tree.unlinked(id)
    }

    fn sync(&self, _: &[BackingPath], dirs: &[BackingPath]) -> io::Result<()> {
        self.pass()?;
        match self.dir_syncs_fail.load(Ordering::Acquire) && !dirs.is_empty() {
            true => Err(io::Error::other("simulated failure")),
            false => Ok(()),
        }
    }

    fn prepare(&self) -> io::Result<()> {
        self.pass()?;
        let mut tree = self.tree.lock();
        Self::ours(&mut tree, "tmp")?;
        let tmp = tree.get(tree.find(b".forelog/tmp")?)?;
        let left = std::mem::take(&mut tmp.thing.lock().entries);
        for id in left.into_values() {
            tree.unlinked(id)?;
        }
        Ok(())
    }
    fn parked(&self) -> io::Result<Vec<String>> {
        let mut out = Vec::new();
        match self.list(&BackingPath(b".forelog/park".to_vec()), &mut |e| {
            out.push(String::from_utf8_lossy(&e.name).into_owned());
        }) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            r => r.map(|()| out),
        }
    }
    fn lease(&self, _: crate::backing::lease::Taking) -> Result<Box<dyn HeldLease>, String> {
        Err("a simulated backing has no lease".into())
    }
    fn clean(&self) -> io::Result<()> {
        self.prepare()
    }
    fn notes(&self) -> io::Result<Vec<Note>> {
        Ok(Vec::new())
    }
    fn put_note(&self, _: &str, _: &str) -> io::Result<()> {
        self.pass()
    }
    fn drop_note(&self, _: &str) -> io::Result<()> {
        self.pass()
    }
}
