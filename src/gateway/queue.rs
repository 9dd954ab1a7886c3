//! What waits for the writeback, and why; and having something go first.

use super::Gateway;
use crate::control::Verdict;
use crate::control::queue::{QUEUE_TEXT_BYTES_MAX, QUEUE_VERSION, QueueEntry, QueueView, Waits, escaped};
use crate::control::render::{bytes as amount, seconds};
use crate::extents::Source;
use crate::format::mutation::EntryKey;
use crate::types::{InodeId, Lsn};
use crate::volume::Volume;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Share of the writeback age at which a file is due.
const DUE: f64 = 0.9;

/// Levels of directories looked through.
const DEPTH_MAX: usize = 4096;

/// Has the attribute `user.forelog.state` say what this gateway knows.
pub fn tell_states(g: &Arc<Gateway>) {
    let weak = Arc::downgrade(g);
    let tell = move |ino| weak.upgrade().map_or("unknown".into(), |g| g.state_text(ino));
    if g.fs.state.set(Box::new(tell)).is_err() {
        log::debug!("the states are told already");
    }
}

/// Paths of inodes, each directory's found out once.
struct Paths<'a> {
    volume: &'a Volume,
    dirs: HashMap<InodeId, Option<Arc<[u8]>>>,
}

impl<'a> Paths<'a> {
    fn new(volume: &'a Volume) -> Paths<'a> {
        let root: Arc<[u8]> = Arc::from(&b""[..]);
        Paths { volume, dirs: HashMap::from([(InodeId::ROOT, Some(root))]) }
    }

    /// Path of a directory: as programs have it, or where the backing has it if no name of it is in memory.
    fn dir(&mut self, ino: InodeId) -> Option<Arc<[u8]>> {
        let mut below: Vec<(InodeId, EntryKey)> = Vec::new();
        let mut at = ino;
        let mut path: Option<Arc<[u8]>> = loop {
            if let Some(known) = self.dirs.get(&at) {
                break known.clone();
            }
            match self.volume.name_of(at).filter(|_| below.len() < DEPTH_MAX) {
                Some(key) => {
                    let parent = key.parent;
                    below.push((at, key));
                    at = parent;
                }
                None => {
                    let path = self.volume.places.read().path(at).map(Arc::from);
                    self.dirs.insert(at, path.clone());
                    break path;
                }
            }
        };
        for (dir, key) in below.into_iter().rev() {
            path = path.map(|p| Arc::from(joined(&p, &key.name)));
            self.dirs.insert(dir, path.clone());
        }
        path
    }

    /// A path of an inode; `None`: it has no name any more.
    fn of(&mut self, ino: InodeId) -> Option<Vec<u8>> {
        if ino == InodeId::ROOT {
            return Some(Vec::new());
        }
        match self.volume.name_of(ino) {
            Some(key) => self.dir(key.parent).map(|d| joined(&d, &key.name)),
            None => self.volume.places.read().path(ino),
        }
    }

    /// Whether any of its names is `path` or below it.
    fn is_below(&mut self, ino: InodeId, path: &[u8]) -> bool {
        let below = |p: &[u8]| match p.strip_prefix(path) {
            Some(rest) => path.is_empty() || rest.is_empty() || rest.starts_with(b"/"),
            None => false,
        };
        let names = self.volume.names_of(ino);
        if names.is_empty() {
            return self.of(ino).is_some_and(|p| below(&p));
        }
        names.iter().any(|k| self.dir(k.parent).is_some_and(|d| below(&joined(&d, &k.name))))
    }
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, name].join(&b'/') }
}

/// Where one inode is on its way.
struct Standing {
    state: Waits,
    reason: Option<String>,
    wait_seconds: Option<f64>,
}

impl Gateway {
    /// Bytes of an inode's content that only the log has, and since when it waits if it is not as the backing has it.
    fn unstored(&self, ino: InodeId) -> (u64, Option<i64>) {
        let Some(cell) = self.volume.cell(ino) else { return (0, None) };
        let i = cell.read();
        let of_log = |s: &Source| matches!(s, Source::Log { .. });
        let bytes = match i.node.data_lsn {
            Lsn::NONE => 0,
            _ => i.map.iter().filter(|(_, e)| of_log(&e.source)).map(|(_, e)| e.len).sum(),
        };
        (bytes, i.node.is_dirty().then_some(i.node.dirty_since_ns))
    }

    fn standing(&self, ino: InodeId, since_ns: i64, uploading: bool, paths: &mut Paths<'_>) -> Standing {
        let v = &self.volume;
        let plain = |state| Standing { state, reason: None, wait_seconds: None };
        if uploading {
            return plain(Waits::Uploading);
        }
        let first = v.dirty.is_bumped(ino);
        let (failure, retry_at, shut, parent_failed) = {
            let seen = self.writeback.seen.lock();
            let parent = v.name_of(ino).map(|k| k.parent);
            let parent_failed = parent.filter(|&p| seen.failure(p).is_some() && !v.places.read().holds(p));
            (seen.failure(ino).map(str::to_owned), seen.retry_at_ns, seen.shut && !first, parent_failed)
        };
        let left = retry_at.saturating_sub(v.clock.monotonic_ns()) as f64 / 1e9;
        let retry = (retry_at > 0).then_some(left);
        if let Some(parent) = parent_failed {
            let dir = paths.dir(parent).map(|p| escaped(&p));
            let reason = format!("waits for the directory {}", dir.as_deref().unwrap_or("?"));
            return Standing { state: Waits::Blocked, reason: Some(reason), wait_seconds: retry };
        }
        if let Some(why) = failure {
            return Standing { state: Waits::Failed, reason: Some(why), wait_seconds: retry };
        }
        if v.rewriting_since(ino).is_some() {
            return plain(Waits::Rewriting);
        }
        if shut {
            return plain(Waits::Hours);
        }
        let settings = self.writeback.settings.lock().clone();
        let due_ns =
            since_ns.saturating_add(settings.age.mul_f64(DUE).as_nanos().min(i64::MAX as u128) as i64);
        let young_ns = due_ns.saturating_sub(v.clock.wall_ns());
        if young_ns > 0 && !first && !self.writeback.is_draining() {
            return Standing { wait_seconds: Some(young_ns as f64 / 1e9), ..plain(Waits::Young) };
        }
        let trouble = self.writeback.trouble.lock().clone();
        Standing { wait_seconds: retry.filter(|_| trouble.is_some()), reason: trouble, ..plain(Waits::Due) }
    }

    /// All that wait and how many of them are on their way; each once.
    fn waiting(&self) -> (Vec<(i64, InodeId, bool, bool)>, u64) {
        let current = self.writeback.seen.lock().current.clone();
        let mut known: HashSet<InodeId> = HashSet::new();
        let mut all = Vec::new();
        for (since, ino) in current {
            if known.insert(ino) {
                all.push((since, ino, self.volume.dirty.is_bumped(ino), true));
            }
        }
        let uploading = all.len() as u64;
        let queue = self.volume.dirty.all();
        let fresh = queue.into_iter().filter(|(_, ino, _)| !known.contains(ino));
        all.extend(fresh.map(|(since, ino, first)| (since, ino, first, false)));
        (all, uploading)
    }

    /// What `forelog queue` shows.
    pub(super) fn queue(&self, limit: usize) -> QueueView {
        let (mut all, uploading) = self.waiting();
        let files = all.len() as u64;
        let now = self.volume.clock.wall_ns();
        let age = |since: i64| now.saturating_sub(since).max(0) as f64 / 1e9;
        if limit < all.len() && limit > 0 {
            all.select_nth_unstable_by_key(limit - 1, |i| i.0);
        }
        let oldest_seconds = all.iter().map(|i| i.0).min().map_or(0.0, age);
        all.truncate(limit);
        all.sort_by_key(|i| i.0);
        let mut paths = Paths::new(&self.volume);
        let (mut entries, mut text) = (Vec::new(), 0);
        for (since, ino, first, on_its_way) in all {
            let Some(path) = paths.of(ino) else { continue };
            let s = self.standing(ino, since, on_its_way, &mut paths);
            let path = if path.is_empty() { ".".into() } else { escaped(&path) };
            text += path.len() + s.reason.as_ref().map_or(0, String::len) + 64;
            if text > QUEUE_TEXT_BYTES_MAX {
                break;
            }
            entries.push(QueueEntry {
                path,
                bytes: self.unstored(ino).0,
                age_seconds: age(since),
                state: s.state,
                reason: s.reason,
                wait_seconds: s.wait_seconds,
                first,
            });
        }
        let seen = self.writeback.seen.lock();
        QueueView {
            version: QUEUE_VERSION,
            files,
            bytes: self.volume.dirty_bytes(),
            uploading,
            failed: seen.failures() as u64,
            oldest_seconds,
            note: seen.note.clone(),
            entries,
        }
    }

    /// Has what waits at or below a path go first.
    pub(super) fn bump(&self, path: &[u8]) -> Verdict {
        let (all, _) = self.waiting();
        let mut paths = Paths::new(&self.volume);
        let mut chosen: HashSet<InodeId> = HashSet::new();
        let (mut bytes, mut under_way) = (0, 0);
        for (_, ino, _, on_its_way) in all {
            if paths.is_below(ino, path) {
                bytes += self.unstored(ino).0;
                under_way += usize::from(on_its_way);
                chosen.insert(ino);
            }
        }
        chosen.extend(self.changed_names(path));
        let n = self.volume.dirty.bump(&chosen);
        self.writeback.bell.ring();
        log::info!("{} and what is below it go first: {n} of the queue", escaped(path));
        Verdict::done(match (n, under_way) {
            (0, 0) => "nothing waits there: it is in the backing".to_owned(),
            (0, _) => "it is on its way already".to_owned(),
            (1, _) => format!("1 file or directory goes first, {}", amount(bytes)),
            (n, _) => format!("{n} files and directories go first, {}", amount(bytes)),
        })
    }

    /// Directories on the way to a path in which the next name of it is not as in the backing, though what it leads to is
    /// there: under another name.
    fn changed_names(&self, path: &[u8]) -> Vec<InodeId> {
        let v = &self.volume;
        let (mut at, mut out) = (InodeId::ROOT, Vec::new());
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            let key = EntryKey { parent: at, name: name.into() };
            let Some((Some(next), lsn)) = v.entry(&key) else { break };
            if lsn != Lsn::NONE && v.places.read().holds(next) {
                out.push(at);
            }
            at = next;
        }
        out
    }

    /// What the attribute `user.forelog.state` says.
    fn state_text(&self, ino: InodeId) -> String {
        let (bytes, since) = self.unstored(ino);
        let current = self.writeback.seen.lock().current.iter().find(|i| i.1 == ino).copied();
        let Some(since) = current.map(|c| c.0).or(since) else { return "stored".into() };
        let s = self.standing(ino, since, current.is_some(), &mut Paths::new(&self.volume));
        let age = self.volume.clock.wall_ns().saturating_sub(since).max(0) as f64 / 1e9;
        let dirty = format!("dirty {bytes} bytes, {} old", seconds(age));
        let again = s.wait_seconds.map(|w| format!(", tried again in {}", seconds(w))).unwrap_or_default();
        let reason = s.reason.unwrap_or_default();
        match s.state {
            Waits::Uploading => format!("uploading {bytes} bytes"),
            Waits::Failed | Waits::Blocked => format!("failed: {reason}{again}; {dirty}"),
            Waits::Rewriting => format!("{dirty}, being written anew"),
            Waits::Hours => format!("{dirty}, outside the upload hours"),
            Waits::Due if !reason.is_empty() => format!("{dirty}, waits: {reason}{again}"),
            Waits::Young | Waits::Due => dirty,
        }
    }
}
