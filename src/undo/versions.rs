//! The moments at which an object changed.

use super::history::{History, Rec};
use super::past::names_before;
use crate::format::mutation::Mutation;
use crate::types::{InodeId, Name};
use std::collections::{HashMap, HashSet};

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Created,
    Written,
    Truncated,
    Renamed,
    Linked,
    Removed,
    Replaced,
    Mode,
    Owner,
    Times,
    Xattrs,
}

impl What {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            What::Created => "created",
            What::Written => "written",
            What::Truncated => "truncated",
            What::Renamed => "renamed",
            What::Linked => "linked",
            What::Removed => "removed",
            What::Replaced => "replaced",
            What::Mode => "mode",
            What::Owner => "owner",
            What::Times => "times",
            What::Xattrs => "xattrs",
        }
    }
}

/// One moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// When it ended, in nanoseconds since 1970.
    pub wall_ns: i64,
    pub what: What,
    pub ino: InodeId,
    /// The name that changed, or the last that is known of the object.
    pub name: Name,
    /// The name before, of one that was renamed.
    pub from: Option<Name>,
    pub pid: u32,
    pub start: u64,
    /// Size of a file then, where it can be told.
    pub size: Option<u64>,
    /// Bytes that were written.
    pub bytes: u64,
}

/// Writes of one client to one file count as one version while less than this lies between two.
const GROUP_NS: i64 = 2_000_000_000;

/// The objects that a name in any of these directories ever led to within the history.
pub fn candidates(h: &History, dirs: &HashSet<InodeId>, name: &[u8]) -> HashSet<InodeId> {
    let mut out = HashSet::new();
    for r in &h.recs {
        for (key, ino) in leads(&r.change) {
            if dirs.contains(&key.parent) && &*key.name == name {
                out.insert(ino);
            }
        }
    }
    out
}

/// The names that a change touches, with each object that they lead to before or after it.
fn leads(m: &Mutation) -> Vec<(&crate::format::mutation::EntryKey, InodeId)> {
    let mut out: Vec<_> = names_before(m).into_iter().filter_map(|(k, i)| Some((k, i?))).collect();
    match m {
        Mutation::Create { at, ino, .. } | Mutation::Link { at, ino } => out.push((at, *ino)),
        Mutation::Rename { to, ino, .. } | Mutation::Whiteout { to, ino, .. } => out.push((to, *ino)),
        Mutation::Exchange { a, b, ino_a, ino_b } => out.extend([(a, *ino_b), (b, *ino_a)]),
        _ => {}
    }
    out
}

/// What changed of these objects, and of what is below those that are directories; the newest first. `now`: what stands
/// below them now.
pub fn versions(h: &History, of: &HashSet<InodeId>, now: &HashMap<InodeId, Name>) -> Vec<Version> {
    let mut all: HashSet<InodeId> = of.iter().chain(now.keys()).copied().collect();
    // What ever had a name below one of them belongs to it.
    loop {
        let before = all.len();
        for r in &h.recs {
            for (key, ino) in leads(&r.change) {
                if all.contains(&key.parent) {
                    all.insert(ino);
                }
            }
        }
        if all.len() == before {
            break;
        }
    }
    let mut names: HashMap<InodeId, Name> = HashMap::new();
    for r in &h.recs {
        for (key, ino) in leads(&r.change) {
            names.entry(ino).or_insert_with(|| key.name.clone());
        }
    }
    let mut sizes = first_sizes(h, &all);
    let mut out: Vec<Version> = Vec::new();
    let mut last: HashMap<InodeId, usize> = HashMap::new();
    for r in &h.recs {
        for mut v in events(r, &all) {
            if let Some((key, _)) = leads(&r.change).into_iter().rev().find(|l| l.1 == v.ino) {
                names.insert(v.ino, key.name.clone());
            }
            if let Some(n) = names.get(&v.ino).or(now.get(&v.ino)) {
                v.name = n.clone();
            }
            v.size = grow(&mut sizes, v.ino, r);
            let grouped = last.get(&v.ino).map(|&n| &mut out[n]).filter(|p| {
                (p.what, p.pid, p.start) == (v.what, v.pid, v.start)
                    && v.what == What::Written
                    && v.wall_ns.saturating_sub(p.wall_ns) < GROUP_NS
            });
            match grouped {
                Some(p) => (p.wall_ns, p.size, p.bytes) = (v.wall_ns, v.size, p.bytes + v.bytes),
                None => {
                    last.insert(v.ino, out.len());
                    out.push(v);
                }
            }
        }
    }
    out.sort_by_key(|v| std::cmp::Reverse(v.wall_ns));
    out
}

/// Sizes of files before the history, where an image tells.
fn first_sizes(h: &History, all: &HashSet<InodeId>) -> HashMap<InodeId, u64> {
    let mut out = HashMap::new();
    for i in h.images.iter().rev() {
        if let crate::kept::read::Kept::Old { old, .. } = &i.kept
            && all.contains(&InodeId(old.ino))
        {
            out.insert(InodeId(old.ino), old.attr.size);
        }
    }
    out
}

fn grow(sizes: &mut HashMap<InodeId, u64>, ino: InodeId, r: &Rec) -> Option<u64> {
    match &r.change {
        Mutation::Create { ino: i, attr, .. } | Mutation::Adopt { ino: i, attr, .. } if *i == ino => {
            sizes.insert(ino, attr.size);
        }
        Mutation::SetAttr { set, .. } => {
            if let Some(n) = set.size {
                sizes.insert(ino, n);
            }
        }
        Mutation::Write { offset, .. } => {
            let end = offset + r.content.len as u64;
            sizes.entry(ino).and_modify(|s| *s = end.max(*s));
        }
        Mutation::Zero { size, .. } => {
            sizes.entry(ino).and_modify(|s| *s = (*size).max(*s));
        }
        _ => {}
    }
    sizes.get(&ino).copied()
}

fn events(r: &Rec, all: &HashSet<InodeId>) -> Vec<Version> {
    let make = |ino: InodeId, what: What, from: Option<&Name>| Version {
        wall_ns: r.wall_ns,
        what,
        ino,
        name: Name::from(&b""[..]),
        from: from.cloned(),
        pid: r.pid,
        start: r.start,
        size: None,
        bytes: if what == What::Written { r.content.len as u64 } else { 0 },
    };
    // What the gateway does for itself is no change of anybody's.
    if matches!(&r.change, Mutation::SetAttr { .. }) && r.pid == 0 {
        return Vec::new();
    }
    let list: Vec<Version> = match &r.change {
        Mutation::Create { ino, .. } => vec![make(*ino, What::Created, None)],
        Mutation::Link { ino, .. } => vec![make(*ino, What::Linked, None)],
        Mutation::Unlink { ino, .. } | Mutation::Rmdir { ino, .. } => vec![make(*ino, What::Removed, None)],
        Mutation::Rename { from, ino, replaced, .. } | Mutation::Whiteout { from, ino, replaced, .. } => {
            let gone = replaced.iter().map(|i| make(*i, What::Replaced, None));
            gone.chain([make(*ino, What::Renamed, Some(&from.name))]).collect()
        }
        Mutation::Exchange { a, b, ino_a, ino_b } => {
            vec![make(*ino_a, What::Renamed, Some(&a.name)), make(*ino_b, What::Renamed, Some(&b.name))]
        }
        Mutation::Write { ino, .. } | Mutation::Zero { ino, .. } => vec![make(*ino, What::Written, None)],
        Mutation::SetAttr { ino, set } => {
            let what = match () {
                () if set.size.is_some() => What::Truncated,
                () if set.mode.is_some() => What::Mode,
                () if set.uid.is_some() || set.gid.is_some() => What::Owner,
                () => What::Times,
            };
            vec![make(*ino, what, None)]
        }
        Mutation::SetXattrs { ino } => vec![make(*ino, What::Xattrs, None)],
        _ => Vec::new(),
    };
    list.into_iter().filter(|v| all.contains(&v.ino)).collect()
}
