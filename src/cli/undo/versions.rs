//! `forelog versions`: when an object changed, how, and by whom.

use super::super::args_undo::VersionsArgs;
use super::super::output;
use super::then::join;
use super::{Asked, asked, history, when};
use crate::control::Verdict;
use crate::control::queue::escaped;
use crate::control::render::{bytes, plain};
use crate::sys::restore::Tree;
use crate::types::{InodeId, Kind, Name};
use crate::undo::{History, Version, candidates, versions};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// Version of the JSON.
const VERSION: u32 = 1;

/// Runs the verb.
pub fn run(args: &VersionsArgs) -> Verdict {
    attempt(args).unwrap_or_else(|verdict| verdict)
}

fn attempt(args: &VersionsArgs) -> Result<Verdict, Verdict> {
    let a = asked(&args.path)?;
    let shown = args.path.display();
    let h = history(&a)?;
    let failed = |e: std::io::Error| Verdict::refused(format!("{shown}: {e}"));
    let tree = Tree::open(&a.mountpoint).map_err(failed)?;
    let (of, now) = objects(&h, &tree, &a.path).map_err(failed)?;
    if of.is_empty() {
        return Err(Verdict::refused(format!(
            "{shown}: it is not there, and was not since {}",
            when::show(h.floor_ns)
        )));
    }
    let mut all: Vec<Version> = versions(&h, &of, &now);
    all.retain(|v| v.wall_ns >= h.floor_ns);
    let more = all.len().saturating_sub(args.limit);
    all.truncate(args.limit);
    let programs: HashMap<String, &str> =
        a.status.clients.iter().map(|c| (c.client.clone(), c.program.as_str())).collect();
    let text = match args.json {
        true => as_json(&a, &h, &all, &programs),
        false => as_text(&h, &all, more, &programs),
    };
    for note in &h.notes {
        eprintln!("forelog: {}: {note}", a.status.log_dir);
    }
    Ok(output::print(&text))
}

/// What a path leads to or led to, and what is below it now.
#[allow(clippy::type_complexity)]
fn objects(
    h: &History,
    tree: &Tree,
    path: &[u8],
) -> std::io::Result<(HashSet<InodeId>, HashMap<InodeId, Name>)> {
    let mut at: HashSet<InodeId> = [InodeId::ROOT].into();
    let mut walked: Vec<u8> = Vec::new();
    for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
        let mut next = candidates(h, &at, name);
        walked = join(&walked, name);
        next.extend(tree.stat(&walked)?.map(|t| t.ino));
        at = next;
    }
    let mut now = HashMap::new();
    let mut todo = vec![path.to_vec()];
    while let Some(path) = todo.pop() {
        let Some(t) = tree.stat(&path)? else { continue };
        let cut = path.iter().rposition(|b| *b == b'/').map_or(0, |n| n + 1);
        now.insert(if path.is_empty() { InodeId::ROOT } else { t.ino }, Name::from(&path[cut..]));
        if t.attr.kind == Kind::Dir {
            todo.extend(tree.list(&path)?.iter().map(|n| join(&path, n)));
        }
    }
    Ok((at, now))
}

fn program<'a>(v: &Version, programs: &HashMap<String, &'a str>) -> Option<&'a str> {
    programs.get(&format!("{}:{}", v.pid, v.start)).copied()
}

fn as_json(a: &Asked, h: &History, all: &[Version], programs: &HashMap<String, &str>) -> String {
    let list: Vec<_> = all
        .iter()
        .map(|v| {
            json!({"time": when::show(v.wall_ns), "wall_ns": v.wall_ns, "what": v.what.name(),
                   "name": escaped(&v.name), "from": v.from.as_ref().map(|n| escaped(n)), "size": v.size,
                   "bytes": v.bytes, "pid": v.pid, "program": program(v, programs), "inode": v.ino.0})
        })
        .collect();
    let doc = json!({"version": VERSION, "path": escaped(&a.path), "since": when::show(h.floor_ns),
                     "since_ns": h.floor_ns, "versions": list});
    format!("{doc}\n")
}

fn as_text(h: &History, all: &[Version], more: usize, programs: &HashMap<String, &str>) -> String {
    if all.is_empty() {
        return format!("nothing changed since {}\n", when::show(h.floor_ns));
    }
    let mut out = format!("{:<29} {:>11} {:<10} {:<24} name\n", "time", "size", "what", "by");
    for v in all {
        let size = v.size.map_or_else(String::new, bytes);
        let by = match program(v, programs) {
            Some(p) => format!("{} ({})", plain(p), v.pid),
            None => format!("pid {}", v.pid),
        };
        let from = v.from.as_ref().map(|f| format!(" from {}", escaped(f))).unwrap_or_default();
        let (time, what) = (when::show(v.wall_ns), v.what.name());
        out += &format!("{time:<29} {size:>11} {what:<10} {by:<24} {}{from}\n", escaped(&v.name));
    }
    if more > 0 {
        out += &format!("and {more} more; --limit shows others\n");
    }
    out + &format!("all changes since {} are kept\n", when::show(h.floor_ns))
}
