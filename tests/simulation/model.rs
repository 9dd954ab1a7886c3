//! What programs must see: the tree after a list of operations, kept as plainly as possible.

use forelog::testing::Dice;
use forelog::types::{Kind, Stamp};
use std::collections::{BTreeMap, HashMap};

pub type Path = Vec<Vec<u8>>;

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub data: Vec<u8>,
    pub target: Vec<u8>,
    pub entries: BTreeMap<Vec<u8>, usize>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `None`: not known.
    pub mtime: Option<Stamp>,
}

/// Flags of renameat2(2).
pub const EXCHANGE: u32 = 2;
pub const WHITEOUT: u32 = 4;

#[derive(Clone, Debug)]
pub enum Op {
    Make {
        at: Path,
        kind: Kind,
        mode: u32,
        target: Vec<u8>,
    },
    Write {
        at: Path,
        offset: u64,
        seed: u64,
        len: usize,
    },
    Truncate {
        at: Path,
        size: u64,
    },
    Punch {
        at: Path,
        offset: u64,
        len: u64,
    },
    Link {
        at: Path,
        to: Path,
    },
    Remove {
        at: Path,
        dir: bool,
    },
    /// `how`: flags as renameat2(2).
    Rename {
        at: Path,
        to: Path,
        how: u32,
    },
    Mode {
        at: Path,
        mode: u32,
    },
    Mtime {
        at: Path,
        to: Stamp,
    },
    Xattr {
        at: Path,
        name: Vec<u8>,
        value: Vec<u8>,
    },
    Read {
        at: Path,
        offset: u64,
        len: usize,
    },
    Sync {
        at: Path,
    },
    Close {
        at: Path,
    },
}

#[derive(Clone, Debug)]
pub struct Model {
    pub nodes: Vec<Node>,
}

pub fn content(seed: u64, len: usize) -> Vec<u8> {
    Dice::new(seed).bytes(len)
}

fn node(kind: Kind, mode: u32) -> Node {
    Node {
        kind,
        mode,
        data: Vec::new(),
        target: Vec::new(),
        entries: BTreeMap::new(),
        xattrs: BTreeMap::new(),
        mtime: None,
    }
}

impl Default for Model {
    fn default() -> Self {
        Model { nodes: vec![node(Kind::Dir, 0o755)] }
    }
}

impl Model {
    pub fn find(&self, path: &[Vec<u8>]) -> Option<usize> {
        path.iter().try_fold(0, |at, name| self.nodes[at].entries.get(name).copied())
    }

    /// Every path with its node, directories before what is in them.
    pub fn paths(&self) -> Vec<(Path, usize)> {
        let mut out: Vec<(Path, usize)> = vec![(Vec::new(), 0)];
        let mut i = 0;
        while i < out.len() {
            let (path, at) = out[i].clone();
            for (name, &child) in &self.nodes[at].entries {
                let mut p = path.clone();
                p.push(name.clone());
                out.push((p, child));
            }
            i += 1;
        }
        out
    }

    pub fn links(&self) -> HashMap<usize, u32> {
        let mut n = HashMap::new();
        for (_, at) in self.paths() {
            *n.entry(at).or_insert(0) += 1;
        }
        n
    }

    fn parent(&self, path: &Path) -> Option<(usize, Vec<u8>)> {
        let (name, dir) = path.split_last()?;
        let at = self.find(dir)?;
        (self.nodes[at].kind == Kind::Dir).then(|| (at, name.clone()))
    }

    fn set(&mut self, dir: usize, name: Vec<u8>, to: Option<usize>) {
        match to {
            Some(n) => self.nodes[dir].entries.insert(name, n),
            None => self.nodes[dir].entries.remove(&name),
        };
        self.nodes[dir].mtime = None;
    }

    /// Changes the tree as the operation must; false: it must be refused.
    pub fn apply(&mut self, op: &Op) -> bool {
        self.try_apply(op).is_some()
    }

    fn try_apply(&mut self, op: &Op) -> Option<()> {
        match op {
            Op::Make { at, kind, mode, target } => {
                let (dir, name) = self.parent(at)?;
                if self.nodes[dir].entries.contains_key(&name) {
                    return None;
                }
                let mut n = node(*kind, if *kind == Kind::Symlink { 0o777 } else { *mode });
                n.target = target.clone();
                self.nodes.push(n);
                self.set(dir, name, Some(self.nodes.len() - 1));
            }
            Op::Write { at, offset, seed, len } => {
                let n = self.file(at)?;
                let end = *offset as usize + len;
                if n.data.len() < end {
                    n.data.resize(end, 0);
                }
                n.data[*offset as usize..end].copy_from_slice(&content(*seed, *len));
                n.mtime = None;
            }
            Op::Truncate { at, size } => {
                let n = self.file(at)?;
                n.data.resize(*size as usize, 0);
                n.mtime = None;
            }
            Op::Punch { at, offset, len } => {
                let n = self.file(at)?;
                let size = n.data.len();
                let (from, to) = ((*offset as usize).min(size), ((offset + len) as usize).min(size));
                n.data[from..to].fill(0);
                n.mtime = if from < to { None } else { n.mtime };
            }
            Op::Link { at, to } => {
                let from = self.find(at)?;
                let (dir, name) = self.parent(to)?;
                if self.nodes[from].kind == Kind::Dir || self.nodes[dir].entries.contains_key(&name) {
                    return None;
                }
                self.set(dir, name, Some(from));
            }
            Op::Remove { at, dir } => {
                let (parent, name) = self.parent(at)?;
                let n = self.find(at)?;
                let is_dir = self.nodes[n].kind == Kind::Dir;
                if is_dir != *dir || !self.nodes[n].entries.is_empty() {
                    return None;
                }
                self.set(parent, name, None);
            }
            Op::Rename { at, to, how } => return self.rename(at, to, *how),
            Op::Mode { at, mode } => {
                let n = self.find(at)?;
                self.nodes[n].mode = *mode;
            }
            Op::Mtime { at, to } => {
                let n = self.find(at)?;
                self.nodes[n].mtime = Some(*to);
            }
            Op::Xattr { at, name, value } => {
                let n = self.find(at)?;
                self.nodes[n].xattrs.insert(name.clone(), value.clone());
            }
            Op::Read { at, .. } => {
                self.file(at)?;
            }
            Op::Sync { at } | Op::Close { at } => {
                self.find(at)?;
            }
        }
        Some(())
    }

    fn file(&mut self, at: &Path) -> Option<&mut Node> {
        let n = self.find(at)?;
        (self.nodes[n].kind == Kind::File).then(|| &mut self.nodes[n])
    }

    fn rename(&mut self, at: &Path, to: &Path, how: u32) -> Option<()> {
        let exchange = how == EXCHANGE;
        let (from_dir, from_name) = self.parent(at)?;
        let (to_dir, to_name) = self.parent(to)?;
        let n = self.find(at)?;
        let there = self.find(to);
        // Not into itself.
        if to.len() > at.len() && to.starts_with(at) || exchange && at.len() > to.len() && at.starts_with(to)
        {
            return None;
        }
        if exchange {
            let t = there?;
            self.set(from_dir, from_name, Some(t));
            self.set(to_dir, to_name, Some(n));
            return Some(());
        }
        if let Some(t) = there {
            if t == n {
                return Some(());
            }
            let dir = |i: usize| self.nodes[i].kind == Kind::Dir;
            if dir(t) != dir(n) || !self.nodes[t].entries.is_empty() {
                return None;
            }
        }
        self.set(from_dir, from_name.clone(), None);
        if how == WHITEOUT {
            let white = self.nodes.len();
            self.nodes.push(node(Kind::CharDev, 0));
            self.set(from_dir, from_name, Some(white));
        }
        self.set(to_dir, to_name, Some(n));
        Some(())
    }

    /// A random operation, most of them possible.
    pub fn random(&self, dice: &mut Dice) -> Op {
        let all = self.paths();
        let any = |dice: &mut Dice| dice.pick(&all[1..]).map_or(vec![b"a".to_vec()], |p| p.0.clone());
        let dirs: Vec<&Path> =
            all.iter().filter(|p| self.nodes[p.1].kind == Kind::Dir && p.0.len() < 4).map(|p| &p.0).collect();
        let files: Vec<&Path> =
            all.iter().filter(|p| self.nodes[p.1].kind == Kind::File).map(|p| &p.0).collect();
        let spot = |dice: &mut Dice| {
            let mut p = dice.pick(&dirs).map_or(Vec::new(), |d| (*d).clone());
            p.push(vec![b'a' + dice.below(6) as u8]);
            p
        };
        let file = |dice: &mut Dice| dice.pick(&files).map_or(vec![b"a".to_vec()], |p| (*p).clone());
        match dice.below(100) {
            0..=13 => Op::Make { at: spot(dice), kind: Kind::File, mode: 0o644, target: Vec::new() },
            14..=20 => Op::Make { at: spot(dice), kind: Kind::Dir, mode: 0o755, target: Vec::new() },
            21..=22 => {
                Op::Make { at: spot(dice), kind: Kind::Symlink, mode: 0o777, target: b"to/x".to_vec() }
            }
            23..=40 => Op::Write {
                at: file(dice),
                offset: dice.below(30_000) & if dice.chance(50) { !4095 } else { !0 },
                seed: dice.number(),
                len: 1 + dice.below(9000) as usize,
            },
            41..=46 => {
                let size = if dice.chance(50) { 0 } else { dice.below(30_000) };
                Op::Truncate { at: file(dice), size }
            }
            47..=50 => Op::Punch { at: file(dice), offset: dice.below(20_000), len: 1 + dice.below(9000) },
            51..=57 => Op::Link { at: any(dice), to: spot(dice) },
            58..=65 => {
                let at = any(dice);
                let dir = self.find(&at).is_some_and(|n| self.nodes[n].kind == Kind::Dir);
                Op::Remove { at, dir }
            }
            66..=77 => Op::Rename { at: any(dice), to: spot(dice), how: 0 },
            78..=79 => Op::Rename { at: any(dice), to: spot(dice), how: WHITEOUT },
            80..=82 => Op::Rename { at: any(dice), to: any(dice), how: EXCHANGE },
            83..=84 if !files.is_empty() => Op::Mode { at: file(dice), mode: 0o600 + dice.below(8) as u32 },
            83..=84 => Op::Sync { at: any(dice) },
            85..=87 => {
                Op::Mtime { at: any(dice), to: Stamp { secs: dice.below(1 << 30) as i64 - 1000, nanos: 7 } }
            }
            88..=89 => Op::Xattr { at: any(dice), name: b"user.x".to_vec(), value: dice.bytes(20) },
            90..=95 => {
                Op::Read { at: file(dice), offset: dice.below(20_000), len: 1 + dice.below(40_000) as usize }
            }
            96..=97 => Op::Sync { at: any(dice) },
            _ => Op::Close { at: file(dice) },
        }
    }
}

fn show(path: &Path) -> String {
    format!("/{}", String::from_utf8_lossy(&path.join(&b'/')))
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Op::Make { at, kind, .. } => write!(f, "make {kind:?} {}", show(at)),
            Op::Write { at, offset, len, .. } => write!(f, "write {} {offset}+{len}", show(at)),
            Op::Truncate { at, size } => write!(f, "truncate {} {size}", show(at)),
            Op::Punch { at, offset, len } => write!(f, "punch {} {offset}+{len}", show(at)),
            Op::Link { at, to } => write!(f, "link {} {}", show(at), show(to)),
            Op::Remove { at, dir } => write!(f, "remove {} dir {dir}", show(at)),
            Op::Rename { at, to, how } => {
                write!(f, "rename {} {} flags {how}", show(at), show(to))
            }
            Op::Mode { at, mode } => write!(f, "chmod {} {mode:o}", show(at)),
            Op::Mtime { at, to } => write!(f, "touch {} {to:?}", show(at)),
            Op::Xattr { at, .. } => write!(f, "setxattr {}", show(at)),
            Op::Read { at, offset, len } => write!(f, "read {} {offset}+{len}", show(at)),
            Op::Sync { at } => write!(f, "fsync {}", show(at)),
            Op::Close { at } => write!(f, "close {}", show(at)),
        }
    }
}
