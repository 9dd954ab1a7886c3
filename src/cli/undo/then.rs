//! The tree of a moment: by its history, and by the mount for what did not change since.

use crate::sys::restore::{There, Tree};
use crate::types::{Attr, InodeId, Kind, Name};
use crate::undo::Past;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::io;

/// Deeper than trees are: a circle is not followed for ever.
const DEPTH_MAX: usize = 4096;

/// An object of the moment.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it was, relative to the mount.
    pub path: Vec<u8>,
    pub ino: InodeId,
    /// Where it is now, and what it is there.
    pub now: Option<(Vec<u8>, There)>,
    /// Its attributes then, or why they cannot be told.
    pub attr: Result<Attr, String>,
}

/// The names of a moment over those of now.
pub struct Then<'a> {
    pub past: &'a Past<'a>,
    tree: &'a Tree,
    /// Where directories are now.
    known: RefCell<HashMap<InodeId, Option<Vec<u8>>>>,
    all: OnceCell<HashMap<InodeId, Vec<u8>>>,
}

/// `dir/name`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir {
        b"" => name.to_vec(),
        _ => [dir, b"/", name].concat(),
    }
}

impl<'a> Then<'a> {
    pub fn new(past: &'a Past<'a>, tree: &'a Tree) -> Then<'a> {
        Then { past, tree, known: RefCell::default(), all: OnceCell::new() }
    }

    /// What was at a path and below it, each directory before what was in it; nothing if there was nothing.
    ///
    /// # Errors
    /// The mount cannot be read.
    pub fn collect(&self, path: &[u8]) -> io::Result<Vec<Wanted>> {
        let mut at = InodeId::ROOT;
        let mut out = Vec::new();
        let mut walked = Vec::new();
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            // A directory above that is gone has to come back with it.
            if !walked.is_empty() && self.tree.stat(&walked)?.is_none() {
                out.push(Wanted { path: walked.clone(), ino: at, now: None, attr: self.past.attr(at, None) });
            }
            match self.child(at, name)? {
                Some(ino) => at = ino,
                None => return Ok(Vec::new()),
            }
            walked = join(&walked, name);
        }
        let mut todo = vec![(path.to_vec(), at, 0)];
        while let Some((path, ino, depth)) = todo.pop() {
            let now = self.now(ino, &path)?;
            let attr = self.past.attr(ino, now.as_ref().map(|n| n.1.attr));
            if attr.as_ref().is_ok_and(|a| a.kind == Kind::Dir) && depth < DEPTH_MAX {
                let here = self.children(ino)?;
                todo.extend(here.into_iter().rev().map(|(n, i)| (join(&path, &n), i, depth + 1)));
            }
            out.push(Wanted { path, ino, now, attr });
        }
        Ok(out)
    }

    fn child(&self, dir: InodeId, name: &[u8]) -> io::Result<Option<InodeId>> {
        if let Some(was) = self.past.name(dir, name) {
            return Ok(was);
        }
        match self.dir(dir)? {
            Some(d) => Ok(self.tree.stat(&join(&d, name))?.map(|t| t.ino)),
            None => Ok(None),
        }
    }

    fn children(&self, dir: InodeId) -> io::Result<Vec<(Name, InodeId)>> {
        let mut out: Vec<(Name, InodeId)> =
            self.past.names(dir).filter_map(|(n, i)| Some((n.clone(), i?))).collect();
        if let Some(d) = self.dir(dir)? {
            for name in self.tree.list(&d)? {
                if self.past.name(dir, &name).is_none()
                    && let Some(t) = self.tree.stat(&join(&d, &name))?
                {
                    out.push((name, t.ino));
                }
            }
        }
        out.sort();
        Ok(out)
    }

    /// Where an object is now: where it was then, or where it was moved to.
    fn now(&self, ino: InodeId, then: &[u8]) -> io::Result<Option<(Vec<u8>, There)>> {
        let is = |path: Vec<u8>| -> io::Result<Option<(Vec<u8>, There)>> {
            let t = self.tree.stat(&path)?;
            Ok(t.filter(|t| t.ino == ino || path.is_empty() && ino == InodeId::ROOT).map(|t| (path, t)))
        };
        if let Some(found) = is(then.to_vec())? {
            return Ok(Some(found));
        }
        if let Some(Some(key)) = self.past.moved(ino) {
            return match self.dir(key.parent)? {
                Some(d) => is(join(&d, &key.name)),
                None => Ok(None),
            };
        }
        // It stands where it stood, below a directory that was moved, or it is a directory.
        if let Some(d) = self.dir(ino)? {
            return is(d);
        }
        let cut = then.iter().rposition(|b| *b == b'/').unwrap_or(0);
        let (above, name) = then.split_at(cut);
        let mut at = InodeId::ROOT;
        for part in above.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            match self.child(at, part)? {
                Some(i) => at = i,
                None => return Ok(None),
            }
        }
        match self.dir(at)? {
            Some(d) => is(join(&d, name.strip_prefix(b"/").unwrap_or(name))),
            None => Ok(None),
        }
    }

    /// Where a directory is now.
    fn dir(&self, ino: InodeId) -> io::Result<Option<Vec<u8>>> {
        if ino == InodeId::ROOT {
            return Ok(Some(Vec::new()));
        }
        if let Some(known) = self.known.borrow().get(&ino) {
            return Ok(known.clone());
        }
        // Against a circle.
        self.known.borrow_mut().insert(ino, None);
        let at = match self.past.moved(ino) {
            Some(None) => None,
            Some(Some(key)) => {
                let path = self.dir(key.parent)?.map(|d| join(&d, &key.name));
                match path {
                    Some(p) => self.tree.stat(&p)?.filter(|t| t.ino == ino).map(|_| p),
                    None => None,
                }
            }
            None => self.everywhere()?.get(&ino).cloned(),
        };
        self.known.borrow_mut().insert(ino, at.clone());
        Ok(at)
    }

    /// All directories of the mount.
    fn everywhere(&self) -> io::Result<&HashMap<InodeId, Vec<u8>>> {
        if let Some(all) = self.all.get() {
            return Ok(all);
        }
        let mut all = HashMap::new();
        let mut todo = vec![Vec::new()];
        while let Some(dir) = todo.pop() {
            let names = match self.tree.list(&dir) {
                Ok(n) => n,
                Err(e) if !dir.is_empty() && e.kind() != io::ErrorKind::TimedOut => {
                    log::debug!("not looked into: {e}");
                    continue;
                }
                Err(e) => return Err(e),
            };
            for name in names {
                let path = join(&dir, &name);
                if let Some(t) = self.tree.stat(&path)?.filter(|t| t.attr.kind == Kind::Dir) {
                    all.insert(t.ino, path.clone());
                    todo.push(path);
                }
            }
        }
        Ok(self.all.get_or_init(|| all))
    }
}
