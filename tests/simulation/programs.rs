//! Programs on a simulated mount: operations done through the filesystem, as the kernel would ask for
//! them, and the comparison of what it shows with the model.

use crate::model::{EXCHANGE, Model, Op, Path, content};
use forelog::fs::{Fs, New, OpenHow, SetAttrRequest, When, Who};
use forelog::sys::patience::impatient;
use forelog::testing::Dice;
use forelog::types::{InodeId, Kind, ProgramId};
use forelog::volume::Error;
use std::collections::HashMap;
use std::sync::Arc;

/// An open file: its handle, its inode, what it must hold.
pub struct Open {
    pub fh: u64,
    pub ino: InodeId,
    pub node: usize,
}

pub struct Programs {
    pub fs: Arc<Fs>,
    /// The directory that is theirs.
    pub root: InodeId,
    pub who: Vec<Who>,
    pub model: Model,
    pub dice: Dice,
    pub open: Vec<Open>,
    /// References that the kernel keeps.
    pub held: Vec<InodeId>,
    pub done: u64,
    pub trace: Vec<String>,
    /// What a power cut may leave, if that is of interest.
    pub past: Option<Past>,
    /// Syncs that were told to have failed.
    pub failed_syncs: u64,
}

/// The states of one program's tree since it was last known to be durable, that one first.
#[derive(Default)]
pub struct Past {
    pub states: Vec<(String, Model)>,
    /// How many of them are not durable for certain: all but the last of those before.
    pub durable: usize,
}

impl Past {
    pub fn of(model: &Model) -> Past {
        Past { states: vec![("before".into(), model.clone())], durable: 0 }
    }
    /// All up to now is durable.
    pub fn synced(&mut self) {
        self.durable = self.states.len() - 1;
    }
}

type Outcome<T> = Result<T, Error>;

impl Programs {
    pub fn new(fs: Arc<Fs>, model: Model, dice: Dice) -> Programs {
        let who = (0..3)
            .map(|n| {
                let client = fs.clients.get_or_make(100 + n, || (ProgramId(n), format!("p{n}")));
                Who { uid: 0, gid: 0, client }
            })
            .collect();
        Programs {
            fs,
            root: InodeId::ROOT,
            who,
            model,
            dice,
            open: Vec::new(),
            held: Vec::new(),
            done: 0,
            trace: Vec::new(),
            past: None,
            failed_syncs: 0,
        }
    }

    fn walk(&mut self, path: &[Vec<u8>]) -> Outcome<InodeId> {
        let mut at = self.root;
        for name in path {
            let found = self.fs.lookup(at, name)?.ok_or(Error::NotFound)?;
            self.held.push(found.ino);
            at = found.ino;
        }
        Ok(at)
    }

    fn parent<'a>(&mut self, path: &'a Path) -> Outcome<(InodeId, &'a [u8])> {
        let (name, dir) = path.split_last().ok_or(Error::Invalid)?;
        Ok((self.walk(dir)?, name))
    }

    /// The kernel's cache shrinks.
    pub fn forget(&mut self) {
        for ino in std::mem::take(&mut self.held) {
            self.fs.forget(ino, 1);
        }
    }

    /// One random operation, checked against the model. Errors: what is wrong.
    pub fn step(&mut self) -> Result<(), String> {
        let op = self.model.random(&mut self.dice);
        if self.past.is_none() && self.dice.chance(6) {
            return self.handles();
        }
        let told = op.to_string();
        let mut expected = self.model.clone();
        let possible = expected.apply(&op);
        self.remember_parts(&op);
        let got = self.run(&op, &expected);
        log::info!("{told}: {}", if got.is_ok() { "done" } else { "refused" });
        self.trace.push(told);
        self.done += 1;
        match got {
            Ok(None) if possible => self.model = expected,
            // Only a part of the bytes found room.
            Ok(Some(n)) if possible => {
                if let Op::Write { at, offset, seed, len } = &op {
                    let all = content(*seed, *len);
                    let i = self.model.find(at).ok_or("lost")?;
                    let d = &mut self.model.nodes[i];
                    let end = *offset as usize + n;
                    if n > 0 && d.data.len() < end {
                        d.data.resize(end, 0);
                    }
                    d.data[*offset as usize..end].copy_from_slice(&all[..n]);
                    d.mtime = None;
                }
            }
            Ok(_) => return Err(format!("{op:?} was done, the model refuses it")),
            Err(Error::Full) => {}
            // Told, and nothing has become durable for certain.
            Err(Error::SyncFailed(_)) if matches!(op, Op::Sync { .. }) => {
                self.failed_syncs += 1;
                return Ok(());
            }
            Err(_) if !possible => {}
            Err(e) => {
                // It may be there all the same, if the power went.
                self.past
                    .iter_mut()
                    .for_each(|p| p.states.push((format!("in flight: {op}"), expected.clone())));
                return Err(format!("{op:?} was refused: {e:?}"));
            }
        }
        if let Some(p) = &mut self.past {
            p.states.push((op.to_string(), self.model.clone()));
            if matches!(op, Op::Sync { .. }) && possible {
                p.synced();
            }
        }
        if self.dice.chance(80) {
            self.forget();
        }
        if self.dice.chance(60) {
            self.fs.volume.trim_names(0);
            self.fs.volume.surplus(0);
        }
        // To find the first operation after which something is wrong.
        if std::env::var_os("FORELOG_PARANOID").is_some() {
            self.verify()?;
        }
        Ok(())
    }

    /// Looks at something without waiting. Errors: it is not as the model says.
    pub fn peek(&mut self) -> Result<(), String> {
        let Some((path, at)) = self.dice.pick(&self.model.paths()).cloned() else { return Ok(()) };
        let (n, shown) = (self.model.nodes[at].clone(), show(&path));
        let fs = self.fs.clone();
        let seen = impatient(|| {
            let ino = self.walk(&path)?;
            let data = if n.kind == Kind::File { fs.read(ino, 0, 1 << 20)?.to_vec() } else { Vec::new() };
            Ok((fs.getattr(ino)?.attr.kind, data))
        });
        match seen {
            Err(Error::WouldBlock) => Ok(()),
            Err(e) => Err(format!("{shown}: {e:?}")),
            Ok((kind, _)) if kind != n.kind => Err(format!("{shown}: is a {kind:?}, not a {:?}", n.kind)),
            Ok((_, data)) if data != n.data => Err(format!("{shown}: {}", difference(&data, &n.data))),
            Ok(_) => Ok(()),
        }
    }

    /// A large write goes into the log in parts where a segment ends: after a power cut some of them may be there.
    fn remember_parts(&mut self, op: &Op) {
        let (Some(p), Op::Write { at, offset, seed, len }) = (&mut self.past, op) else { return };
        let all = content(*seed, *len);
        for n in (4096..*len).step_by(4096) {
            let mut part = self.model.clone();
            let Some(i) = part.find(at).filter(|&i| part.nodes[i].kind == Kind::File) else { return };
            let d = &mut part.nodes[i];
            let end = *offset as usize + n;
            if d.data.len() < end {
                d.data.resize(end, 0);
            }
            d.data[*offset as usize..end].copy_from_slice(&all[..n]);
            d.mtime = None;
            p.states.push((format!("{n} bytes of: {op}"), part));
        }
    }

    /// Opens, uses and closes files that may have lost their names.
    fn handles(&mut self) -> Result<(), String> {
        if self.open.len() < 4 && self.dice.chance(50) {
            let op = Op::Read { at: vec![], offset: 0, len: 0 };
            let files: Vec<(Path, usize)> =
                self.model.paths().into_iter().filter(|p| self.model.nodes[p.1].kind == Kind::File).collect();
            let Some((path, node)) = self.dice.pick(&files).cloned() else { return Ok(()) };
            log::info!("open {}", show(&path));
            let ino = self.walk(&path).map_err(|e| format!("{op:?} {path:?}: {e:?}"))?;
            let how = OpenHow { writes: true, sync: false };
            let fh = self.fs.open(&self.who[0], ino, how).map_err(|e| format!("open: {e:?}"))?;
            self.open.push(Open { fh, ino, node });
            return Ok(());
        }
        if self.open.is_empty() {
            return Ok(());
        }
        let i = self.dice.below(self.open.len() as u64) as usize;
        let (fh, ino, node) = (self.open[i].fh, self.open[i].ino, self.open[i].node);
        let want = self.model.nodes[node].data.clone();
        let got = self.fs.read(ino, 0, 1 << 20).map_err(|e| format!("read of an open file: {e:?}"))?;
        log::info!("check handle {fh} of {ino}");
        if got[..] != want[..] {
            return Err(format!("open file {ino}: {}", difference(&got, &want)));
        }
        match self.dice.below(3) {
            0 => {
                let b = self.dice.bytes(300);
                let h = self.fs.handle(fh).map_err(|e| format!("{e:?}"))?;
                let mut done = 0;
                let at = want.len() as u64;
                match self.fs.write(&self.who[1], &h.cell, at, &b, false, &mut done) {
                    Ok(_) | Err(Error::Full) => {}
                    Err(e) => return Err(format!("write to an open file: {e:?}")),
                }
                self.model.nodes[node].data.extend_from_slice(&b[..done]);
                if done > 0 {
                    self.model.nodes[node].mtime = None;
                }
            }
            1 => {
                self.open.swap_remove(i);
                self.fs.release(fh);
                log::info!("release {ino}");
            }
            _ => {}
        }
        Ok(())
    }

    /// `Ok(Some(n))`: a write of which only `n` bytes were taken.
    fn run(&mut self, op: &Op, after: &Model) -> Outcome<Option<usize>> {
        let fs = self.fs.clone();
        let who = self.who[self.dice.below(3) as usize].clone();
        match op {
            Op::Make { at, kind, mode, target } => {
                let (p, name) = self.parent(at)?;
                let new = New { kind: *kind, mode: *mode, umask: 0, rdev: 0, target };
                let made = fs.make(&who, p, name, &new)?;
                self.held.push(made.ino);
            }
            Op::Write { at, offset, seed, len } => {
                let ino = self.walk(at)?;
                let fh = fs.open(&who, ino, OpenHow { writes: true, sync: false })?;
                let h = fs.handle(fh)?;
                let mut done = 0;
                let r = fs.write(&who, &h.cell, *offset, &content(*seed, *len), false, &mut done);
                drop(h);
                fs.release(fh);
                match r {
                    Err(Error::Full) => return Ok(Some(done)),
                    r => r.map(drop)?,
                }
            }
            Op::Truncate { at, size } => {
                let ino = self.walk(at)?;
                fs.setattr(&who, ino, &SetAttrRequest { size: Some(*size), ..Default::default() })?;
                if self.past.is_some() {
                    // Else its old content may come back: whole it is when it is closed.
                    fs.flush(&who, ino)?;
                }
            }
            Op::Punch { at, offset, len } => {
                let ino = self.walk(at)?;
                fs.fallocate(&who, ino, *offset, *len, 3)?;
            }
            Op::Link { at, to } => {
                let ino = self.walk(at)?;
                let (p, name) = self.parent(to)?;
                let l = fs.link(&who, ino, p, name)?;
                self.held.push(l.ino);
            }
            Op::Remove { at, dir } => {
                let (p, name) = self.parent(at)?;
                fs.remove(&who, p, name, *dir)?;
            }
            Op::Rename { at, to, how } => {
                // The kernel refuses these itself.
                if to.len() > at.len() && to.starts_with(at)
                    || *how == EXCHANGE && at.len() > to.len() && at.starts_with(to)
                {
                    return Err(Error::Invalid);
                }
                let (p, name) = self.parent(at)?;
                let (q, new) = self.parent(to)?;
                fs.rename(&who, (p, name), (q, new), *how)?;
            }
            Op::Mode { at, mode } => {
                let ino = self.walk(at)?;
                fs.setattr(&who, ino, &SetAttrRequest { mode: Some(*mode), ..Default::default() })?;
            }
            Op::Mtime { at, to } => {
                let ino = self.walk(at)?;
                let set = SetAttrRequest { mtime: Some(When::At(*to)), ..Default::default() };
                fs.setattr(&who, ino, &set)?;
            }
            Op::Xattr { at, name, value } => {
                let ino = self.walk(at)?;
                fs.setxattr(&who, ino, name, value, 0)?;
            }
            Op::Read { at, offset, len } => {
                let ino = self.walk(at)?;
                let got = fs.read(ino, *offset, *len)?;
                let data = after.find(at).map(|n| &after.nodes[n].data).ok_or(Error::Invalid)?;
                let from = (*offset as usize).min(data.len());
                let want = &data[from..(from + len).min(data.len())];
                if got[..] != *want {
                    self.trace.push(format!("WRONG BYTES: {}", difference(&got, want)));
                    return Err(Error::Damaged);
                }
            }
            Op::Sync { at } => {
                let ino = self.walk(at)?;
                let (tx, rx) = std::sync::mpsc::channel();
                fs.fsync(&who, ino, Box::new(move |r| tx.send(r).unwrap_or(())));
                rx.recv().map_err(|_| Error::Stale)??;
            }
            Op::Close { at } => {
                let ino = self.walk(at)?;
                fs.flush(&who, ino)?;
            }
        }
        Ok(None)
    }

    /// Compares all that programs can see with the model. Errors: the differences.
    pub fn verify(&mut self) -> Result<(), String> {
        let mut wrong = Vec::new();
        let links = self.model.links();
        let mut inodes: HashMap<usize, InodeId> = HashMap::new();
        for (path, at) in self.model.paths() {
            let shown = show(&path);
            let ino = match self.walk(&path) {
                Ok(i) => i,
                Err(e) => {
                    wrong.push(format!("{shown}: missing ({e:?})"));
                    continue;
                }
            };
            if *inodes.entry(at).or_insert(ino) != ino {
                wrong.push(format!("{shown}: its names lead to different inodes"));
            }
            let n = self.model.nodes[at].clone();
            let Ok(l) = self.fs.getattr(ino) else {
                wrong.push(format!("{shown}: no attributes"));
                continue;
            };
            if l.attr.kind != n.kind {
                wrong.push(format!("{shown}: is a {:?}, not a {:?}", l.attr.kind, n.kind));
                continue;
            }
            if at != 0 && l.attr.mode != n.mode {
                wrong.push(format!("{shown}: mode {:o}, not {:o}", l.attr.mode, n.mode));
            }
            if n.mtime.is_some_and(|m| m != l.attr.mtime) {
                wrong.push(format!("{shown}: mtime {:?}, not {:?}", l.attr.mtime, n.mtime));
            }
            if n.kind != Kind::Dir && l.attr.nlink != links[&at] {
                wrong.push(format!("{shown}: {} links, not {}", l.attr.nlink, links[&at]));
            }
            for (k, v) in &n.xattrs {
                match self.fs.getxattr(ino, k) {
                    Ok(g) if g == *v => {}
                    other => wrong.push(format!("{shown}: xattr is {other:?}")),
                }
            }
            match n.kind {
                Kind::File => match self.fs.read(ino, 0, 1 << 20) {
                    Ok(d) if d[..] == n.data[..] => {}
                    Ok(d) => wrong.push(format!("{shown} ({ino}): {}", difference(&d, &n.data))),
                    Err(e) => wrong.push(format!("{shown} ({ino}): read: {e:?}")),
                },
                Kind::Symlink => match self.fs.readlink(ino) {
                    Ok(t) if t == n.target => {}
                    other => wrong.push(format!("{shown}: target {other:?}")),
                },
                Kind::Dir => {
                    let names = self.names(ino);
                    let want: Vec<Vec<u8>> = n.entries.keys().cloned().collect();
                    if names.as_ref().ok() != Some(&want) {
                        let text: Vec<String> = names.into_iter().flatten().map(|n| show(&[n])).collect();
                        wrong.push(format!("{shown}: lists {text:?}"));
                    }
                }
                _ => {}
            }
        }
        self.forget();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
    }

    fn names(&self, dir: InodeId) -> Outcome<Vec<Vec<u8>>> {
        let mut v: Vec<Vec<u8>> = self.fs.listing(dir, true)?.items.iter().map(|i| i.name.to_vec()).collect();
        v.retain(|n| n != b"." && n != b"..");
        v.sort();
        Ok(v)
    }
}

pub fn show(path: &[Vec<u8>]) -> String {
    format!("/{}", String::from_utf8_lossy(&path.join(&b'/')))
}

pub fn difference(got: &[u8], want: &[u8]) -> String {
    let at = got.iter().zip(want).position(|(a, b)| a != b).unwrap_or(got.len().min(want.len()));
    format!("{} bytes, not {}; the first difference is at {at}", got.len(), want.len())
}
