//! Writing what was: all contents first into a directory of their own beside, then names, then what is to go, then
//! directories' attributes. Nobody sees half a file, and what is needed of the present is read before it is replaced.

use super::done::Done;
use super::then::{Then, Wanted, join};
use crate::control::queue::escaped;
use crate::sys::restore::{Open, There, Tree};
use crate::types::{Attr, InodeId, Kind, Name};
use crate::undo::{Content, History, Piece, Source, Xattrs};
use std::collections::{HashMap, HashSet};
use std::io;

const PIECE_BYTES: u64 = 1 << 20;

/// What is to be restored.
pub struct Plan<'a> {
    pub history: &'a History,
    pub tree: &'a Tree,
    pub then: &'a Then<'a>,
    /// The path that was asked for, relative to the mount.
    pub top: &'a [u8],
    pub wanted: Vec<Wanted>,
    pub delete: bool,
}

/// A file or symlink on its way.
struct Staged {
    name: Vec<u8>,
    to: Vec<u8>,
}

/// One undo.
pub struct Job<'a> {
    plan: Plan<'a>,
    /// Where it is written; the mount itself unless it goes elsewhere.
    out: &'a Tree,
    elsewhere: bool,
    dry: bool,
    quiet: bool,
    now_ns: i64,
    staging: Vec<u8>,
    staged: Vec<Staged>,
    /// First name of each restored object, for hard links.
    names: HashMap<InodeId, Vec<u8>>,
    done: Done,
}

/// What is to be done with one object.
enum Step {
    Same,
    Attributes,
    Dir,
    Symlink(Vec<u8>),
    File(Content),
}

impl<'a> Job<'a> {
    pub fn new(plan: Plan<'a>, out: Option<&'a Tree>, dry: bool, quiet: bool, now_ns: i64) -> Job<'a> {
        let (elsewhere, out) = (out.is_some(), out.unwrap_or(plan.tree));
        Job {
            plan,
            out,
            elsewhere,
            dry,
            quiet,
            now_ns,
            staging: Vec::new(),
            staged: Vec::new(),
            names: HashMap::new(),
            done: Done::default(),
        }
    }

    fn say(&self, what: &str, path: &[u8], more: &str) {
        if !self.quiet {
            println!("{what:<11} {}{more}", escaped(path));
        }
    }

    fn fail(&mut self, path: &[u8], why: &dyn std::fmt::Display) {
        self.done.failed += 1;
        eprintln!("forelog: {}: cannot be restored: {why}", escaped(path));
    }

    /// Where a path of the mount is written to.
    fn target(&self, path: &[u8]) -> Vec<u8> {
        if !self.elsewhere {
            return path.to_vec();
        }
        let cut = self.plan.top.iter().rposition(|b| *b == b'/').map_or(0, |n| n + 1);
        match path.get(cut..) {
            Some(p) if !p.is_empty() => p.to_vec(),
            _ => b"root".to_vec(),
        }
        .to_vec()
    }

    /// Does it. Errors: what failed before anything was changed, or the staging directory.
    pub fn run(mut self) -> Result<Done, String> {
        let top = self.target(self.plan.top);
        if self.elsewhere {
            let there = self.out.stat(&top).map_err(|e| e.to_string())?;
            if there.is_some() {
                return Err(format!("{} is there already; give another --output", escaped(&top)));
            }
            if self.plan.top.is_empty() {
                self.plan.wanted.iter_mut().for_each(|w| w.path = join(b"root", &w.path).to_vec());
                self.plan.wanted.iter_mut().filter(|w| w.path == b"root/").for_each(|w| w.path.truncate(4));
            }
        }
        let mut wanted = std::mem::take(&mut self.plan.wanted);
        if self.elsewhere {
            wanted.retain(|w| !is_above(&w.path, self.plan.top));
        }
        let mut steps = Vec::new();
        for w in &wanted {
            match self.step(w) {
                Ok(s) => steps.push((w, s)),
                Err(e) => self.fail(&w.path, &e),
            }
        }
        let extras = if self.elsewhere { Vec::new() } else { self.extras(&wanted)? };
        if self.dry {
            return Ok(self.tell(&steps, &extras));
        }
        let above = parent(&top).to_vec();
        let times = self.out.stat(&above).map_err(|e| e.to_string())?;
        self.begin(&top)?;
        for (w, s) in &steps {
            if let Err(e) = self.stage(w, s) {
                self.fail(&w.path, &e);
            }
        }
        self.place(&steps);
        self.clear(&extras);
        self.finish_dirs(&steps);
        if let Err(e) = self.out.remove(&self.staging, true) {
            eprintln!("forelog: removing {} failed: {e}; remove it by hand", escaped(&self.staging));
        }
        // What we made in it is no change of that directory's own.
        if let Some(t) = times.filter(|_| !self.elsewhere) {
            let dir_is_wanted = wanted.iter().any(|w| w.path == above);
            if !dir_is_wanted && self.out.set_times(&above, t.attr.atime, t.attr.mtime).is_err() {
                log::debug!("the times of {} stay as they are", escaped(&above));
            }
        }
        self.finish_dirs(&steps);
        Ok(self.done)
    }

    /// What an object needs.
    fn step(&self, w: &Wanted) -> Result<Step, String> {
        let attr = w.attr.clone()?;
        let here = w.now.as_ref().is_some_and(|n| n.0 == w.path) && !self.elsewhere;
        let alive = w.now.is_some();
        Ok(match attr.kind {
            Kind::Dir => Step::Dir,
            Kind::File => match self.plan.then.past.content(w.ino, alive)? {
                Content::Same if here => self.attributes(w, &attr)?,
                Content::Same => Step::File(whole(w.now.as_ref().map_or(0, |n| n.1.attr.size))),
                pieces => Step::File(pieces),
            },
            Kind::Symlink if here => self.attributes(w, &attr)?,
            Kind::Symlink => match (&w.now, self.plan.then.past.target(w.ino)) {
                (Some((path, _)), _) => {
                    Step::Symlink(self.plan.tree.readlink(path).map_err(|e| e.to_string())?)
                }
                (None, Some(target)) => Step::Symlink(target),
                (None, None) => return Err("where it led is not known".into()),
            },
            _ if here => self.attributes(w, &attr)?,
            _ => return Err("it is neither a file, a directory nor a symlink".into()),
        })
    }

    fn attributes(&self, w: &Wanted, then: &Attr) -> Result<Step, String> {
        let Some((_, now)) = &w.now else { return Ok(Step::Attributes) };
        let of = |a: &Attr| (a.mode, a.uid, a.gid, a.mtime);
        let same = of(then) == of(&now.attr) && self.plan.then.past.xattrs(w.ino, true)? == Xattrs::Same;
        Ok(if same { Step::Same } else { Step::Attributes })
    }

    /// What is below the path now and was not then, the deepest first.
    fn extras(&self, wanted: &[Wanted]) -> Result<Vec<(Vec<u8>, There)>, String> {
        let then: HashSet<&[u8]> = wanted.iter().map(|w| &w.path[..]).collect();
        let mut out = Vec::new();
        let mut todo = vec![self.plan.top.to_vec()];
        while let Some(path) = todo.pop() {
            let shown = |e: io::Error| format!("{}: {e}", escaped(&path));
            let Some(t) = self.plan.tree.stat(&path).map_err(shown)? else { continue };
            if t.attr.kind == Kind::Dir {
                let names = self.plan.tree.list(&path).map_err(shown)?;
                todo.extend(names.iter().map(|n| join(&path, n)));
            }
            if !then.contains(&path[..]) {
                out.push((path, t));
            }
        }
        out.reverse();
        Ok(out)
    }

    /// What would be done.
    fn tell(mut self, steps: &[(&Wanted, Step)], extras: &[(Vec<u8>, There)]) -> Done {
        for (w, s) in steps {
            self.count(w, s);
        }
        for (path, _) in extras {
            self.say(if self.plan.delete { "remove" } else { "leave" }, path, "");
        }
        let n = extras.len() as u64;
        match self.plan.delete {
            true => self.done.removed = n,
            false => self.done.left = n,
        }
        self.done
    }

    fn count(&mut self, w: &Wanted, s: &Step) {
        match s {
            Step::Same => self.done.same += 1,
            Step::Attributes => {
                self.done.attributes += 1;
                self.say("attributes", &w.path, "");
            }
            Step::Dir if w.now.as_ref().is_some_and(|n| n.0 == w.path) && !self.elsewhere => {
                self.done.same += 1
            }
            Step::Dir | Step::Symlink(_) => {
                self.done.restored += 1;
                self.say(if self.dry { "restore" } else { "restored" }, &w.path, "");
            }
            Step::File(c) => {
                let size = size_of(c);
                self.done.restored += 1;
                self.done.bytes += size;
                self.say(if self.dry { "restore" } else { "restored" }, &w.path, &format!(" ({size} bytes)"));
            }
        }
    }

    /// Makes the directory of what is on its way: beside what is restored, so that names are changed within one filesystem.
    fn begin(&mut self, top: &[u8]) -> Result<(), String> {
        let name = format!(".undo-{}-{}", std::process::id(), self.now_ns / 1_000_000_000);
        let mut above = parent(top).to_vec();
        // A directory above that is gone as well is made again later.
        while !above.is_empty() && self.out.stat(&above).map_err(|e| e.to_string())?.is_none() {
            above = parent(&above).to_vec();
        }
        self.staging = join(&above, name.as_bytes());
        self.out.mkdir(&self.staging).map_err(|e| format!("{}: {e}", escaped(&self.staging)))
    }

    /// Writes an object's content.
    fn stage(&mut self, w: &Wanted, s: &Step) -> Result<(), String> {
        let to = self.target(&w.path);
        let name = join(&self.staging, self.staged.len().to_string().as_bytes());
        let attr = w.attr.clone()?;
        let made = match s {
            Step::Symlink(target) => self.out.symlink(&name, target).map_err(|e| e.to_string()),
            Step::File(c) => match self.names.get(&w.ino) {
                Some(first) => {
                    let first = first.clone();
                    self.out.link(&first, &name).map_err(|e| e.to_string())
                }
                None => self.write(w, c, &name).map_err(|e| e.to_string()),
            },
            _ => return Ok(()),
        };
        let made = made.and_then(|()| self.set(w, &name, &attr));
        if let Err(e) = made {
            drop(self.out.remove(&name, false));
            return Err(e);
        }
        self.names.entry(w.ino).or_insert_with(|| name.clone());
        self.staged.push(Staged { name, to });
        Ok(())
    }

    /// Sets attributes.
    fn set(&self, w: &Wanted, path: &[u8], attr: &Attr) -> Result<(), String> {
        let here = w.now.as_ref().is_some_and(|n| n.0 == path) && !self.elsewhere;
        let list: Option<Vec<(Name, Vec<u8>)>> = match self.plan.then.past.xattrs(w.ino, w.now.is_some())? {
            Xattrs::These(list) => Some(list),
            Xattrs::Same if here => None,
            Xattrs::Same => w.now.as_ref().map(|n| self.plan.tree.xattrs(&n.0)),
        };
        let expected = w.now.as_ref().filter(|_| here).map(|n| n.1.ino);
        match self.out.set(path, attr, list.as_deref(), expected) {
            Ok(true) => Ok(()),
            Ok(false) => {
                log::debug!("{}: only root can give it back to uid {}", escaped(path), attr.uid);
                Ok(())
            }
            Err(e) => Err(format!("setting its attributes: {e}")),
        }
    }

    fn write(&self, w: &Wanted, c: &Content, name: &[u8]) -> io::Result<()> {
        let to = self.out.create(name)?;
        let now = w.now.as_ref().map(|(path, _)| self.plan.tree.read(path));
        let Content::Pieces { size, pieces } = c else { return Ok(()) };
        for p in pieces {
            self.piece(p, now.as_ref(), &to)?;
        }
        to.set_len(*size)?;
        to.sync()
    }

    fn piece(&self, p: &Piece, now: Option<&io::Result<Open>>, to: &Open) -> io::Result<()> {
        let mut at = p.range.start;
        let h = self.plan.history;
        match &p.source {
            Source::Zero => Ok(()),
            Source::Record { data, skip } => to.write_at(&h.bytes(data, *skip, p.range.len() as u32)?, at),
            Source::Old { file, at: pos, len, crc, skip } => {
                let all = h.old_bytes(file, *pos, *len, *crc)?;
                to.write_at(&all[*skip as usize..(*skip + p.range.len()) as usize], at)
            }
            Source::Now => {
                let from = match now {
                    Some(Ok(f)) => f,
                    Some(Err(e)) => return Err(io::Error::new(e.kind(), e.to_string())),
                    None => return Err(io::Error::other("it is not there any more")),
                };
                let mut buf = vec![0; PIECE_BYTES as usize];
                while at < p.range.end {
                    // Holes stay holes.
                    match from.next_data(at)? {
                        Some(data) if data < p.range.end => at = data,
                        _ => break,
                    }
                    let n = (p.range.end - at).min(PIECE_BYTES) as usize;
                    from.read_at(&mut buf[..n], at)?;
                    to.write_at(&buf[..n], at)?;
                    at += n as u64;
                }
                Ok(())
            }
        }
    }

    /// Directories and names, from the top.
    fn place(&mut self, steps: &[(&Wanted, Step)]) {
        let staged: HashMap<Vec<u8>, Vec<u8>> =
            std::mem::take(&mut self.staged).into_iter().map(|s| (s.to, s.name)).collect();
        for (w, s) in steps {
            let to = self.target(&w.path);
            let r = match s {
                Step::Same => Ok(()),
                Step::Attributes => match &w.attr {
                    Ok(a) => self.set(w, &to, a),
                    Err(e) => Err(e.clone()),
                },
                Step::Dir => self.make_dir(&to),
                Step::File(_) | Step::Symlink(_) => match staged.get(&to) {
                    Some(name) => self.install(name, &to),
                    // It was said why it could not be written.
                    None => continue,
                },
            };
            match r {
                Ok(()) => self.count(w, s),
                Err(e) => {
                    self.fail(&w.path, &e);
                    if let Some(name) = staged.get(&to) {
                        drop(self.out.remove(name, false));
                    }
                }
            }
        }
    }

    fn make_dir(&mut self, to: &[u8]) -> Result<(), String> {
        match self.out.stat(to).map_err(|e| e.to_string())? {
            Some(t) if t.attr.kind == Kind::Dir => return Ok(()),
            Some(_) => self.aside(to)?,
            None => {}
        }
        self.out.mkdir(to).map_err(|e| e.to_string())
    }

    fn install(&mut self, name: &[u8], to: &[u8]) -> Result<(), String> {
        if self.out.stat(to).map_err(|e| e.to_string())?.is_some_and(|t| t.attr.kind == Kind::Dir) {
            self.aside(to)?;
        }
        self.out.rename(name, to).map_err(|e| e.to_string())
    }

    /// What is of another kind than it was then makes way, and is kept unless all that is new is to go.
    fn aside(&mut self, path: &[u8]) -> Result<(), String> {
        if self.plan.delete {
            return self.remove_tree(path).map_err(|e| format!("removing what stands there: {e}"));
        }
        let base = format!(".undo-{}", self.now_ns / 1_000_000_000).into_bytes();
        let cut = path.iter().rposition(|b| *b == b'/').map_or(0, |n| n + 1);
        let room = crate::types::NAME_BYTES_MAX - base.len();
        let short = &path[cut..path.len().min(cut + room)];
        let to = [&path[..cut], short, &base].concat();
        if self.out.stat(&to).map_err(|e| e.to_string())?.is_some() {
            return Err(format!("{} is in the way", escaped(&to)));
        }
        self.out.rename(path, &to).map_err(|e| e.to_string())?;
        self.say("moved", path, &format!(" to {}", escaped(&to)));
        Ok(())
    }

    fn remove_tree(&mut self, path: &[u8]) -> io::Result<()> {
        let Some(t) = self.out.stat(path)? else { return Ok(()) };
        let dir = t.attr.kind == Kind::Dir;
        if dir {
            for name in self.out.list(path)? {
                self.remove_tree(&join(path, &name))?;
            }
        }
        self.out.remove(path, dir)?;
        self.done.removed += 1;
        self.say("removed", path, "");
        Ok(())
    }

    /// What was not there then.
    fn clear(&mut self, extras: &[(Vec<u8>, There)]) {
        for (path, t) in extras {
            if !self.plan.delete {
                self.done.left += 1;
                self.say("left", path, "");
                continue;
            }
            // Replaced or moved meanwhile: it is another's now.
            match self.out.stat(path) {
                Ok(Some(now)) if now.ino == t.ino => {}
                _ => continue,
            }
            match self.out.remove(path, t.attr.kind == Kind::Dir) {
                Ok(()) => {
                    self.done.removed += 1;
                    self.say("removed", path, "");
                }
                Err(e) => self.fail(path, &format_args!("removing it: {e}")),
            }
        }
    }

    /// Directories' attributes, from the bottom: every name made in one moved its times.
    fn finish_dirs(&mut self, steps: &[(&Wanted, Step)]) {
        for (w, s) in steps.iter().rev() {
            let (Step::Dir, Ok(attr)) = (s, &w.attr) else { continue };
            let to = self.target(&w.path);
            let now = self.out.stat(&to).ok().flatten();
            let of = |a: &Attr| (a.mode, a.uid, a.gid, a.mtime);
            if now.is_some_and(|n| of(&n.attr) == of(attr)) {
                continue;
            }
            if let Err(e) = self.set(w, &to, attr) {
                self.fail(&w.path, &e);
            }
        }
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |n| &path[..n])
}

/// True for a path above another.
fn is_above(path: &[u8], other: &[u8]) -> bool {
    path.len() < other.len() && (path.is_empty() || other.starts_with(path) && other[path.len()] == b'/')
}

fn size_of(c: &Content) -> u64 {
    match c {
        Content::Pieces { size, .. } => *size,
        Content::Same => 0,
    }
}

/// All of what it is now.
fn whole(size: u64) -> Content {
    let range = crate::types::ByteRange { start: 0, end: size };
    Content::Pieces { size, pieces: vec![Piece { range, source: Source::Now }] }
}
