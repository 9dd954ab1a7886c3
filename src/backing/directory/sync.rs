//! Durability. The kernel tells a failed write-back once to each descriptor that was open when it
//! failed, and forgets it with the inode. So what was written stays open until it is synced; and
//! the failure of a whole-store sync is remembered for all whom it concerns. After a failed sync
//! the same objects fail again until they are staged or updated anew: a sync is never retried into
//! success.

use super::DirectoryBacking;
use super::access::Last;
use super::attrs::kind_of;
use crate::backing::BackingPath;
use crate::sys::beneath;
use crate::types::Kind;
use rustix::fs::{OFlags, fstat, fsync, syncfs};
use rustix::io::{Errno, retry_on_intr};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// More objects than this are synced with the whole store, by one syncfs(2), which reports
/// write-back errors since Linux 5.8.
const FEW: usize = 8;

/// Descriptors kept for a sync to come. What has none is synced with the whole store.
const OPEN_MAX: usize = 64;

/// A file written and not yet synced.
#[derive(Clone)]
struct Written {
    /// Failed whole syncs when the writing began: a later one may be about this file.
    since: u64,
    /// Told apart from what is written while a sync runs.
    version: u64,
    file: Option<Arc<OwnedFd>>,
    /// Errno of its failed sync.
    failed: Option<Errno>,
}

/// All files written and not yet synced, by path.
#[derive(Default)]
pub(super) struct Unsynced {
    written: BTreeMap<Vec<u8>, Written>,
    open: usize,
    versions: u64,
    whole_failures: u64,
}

impl Unsynced {
    /// A new file begins at `path`. Returns what `end` wants.
    pub(super) fn begin_new(&mut self, path: &[u8]) -> u64 {
        self.removed(path);
        self.whole_failures
    }

    /// Writes to the file at `path` begin. Returns what `end` wants.
    pub(super) fn begin(&mut self, path: &[u8]) -> u64 {
        if self.written.get(path).is_some_and(|w| self.failure_of(w).is_some()) {
            self.removed(path);
        }
        self.whole_failures
    }

    /// `file`, open, was written at `path`.
    pub(super) fn end(&mut self, path: Vec<u8>, since: u64, file: OwnedFd) {
        self.versions += 1;
        let version = self.versions;
        if let Some(earlier) = self.written.get_mut(&path) {
            let known = earlier.file.as_ref().is_none_or(|f| same_file(f, &file));
            if known {
                // The earlier descriptor has seen more.
                earlier.version = version;
                return;
            }
            self.removed(&path);
        }
        let file = (self.open < OPEN_MAX).then(|| Arc::new(file));
        self.insert(path, Written { since, version, file, failed: None });
    }

    /// `path` was removed, or another object is there now.
    pub(super) fn removed(&mut self, path: &[u8]) {
        if let Some(w) = self.written.remove(path) {
            self.open -= usize::from(w.file.is_some());
        }
    }

    /// An object, with all beneath it, has another path.
    pub(super) fn renamed(&mut self, from: &[u8], to: &[u8]) {
        self.removed(to);
        for old in self.at_and_under(from) {
            if let Some(w) = self.written.remove(&old) {
                self.open -= usize::from(w.file.is_some());
                self.insert([to, &old[from.len()..]].concat(), w);
            }
        }
    }

    /// All at and under `path` are gone.
    pub(super) fn removed_under(&mut self, path: &[u8]) {
        for gone in self.at_and_under(path) {
            self.removed(&gone);
        }
    }

    fn insert(&mut self, path: Vec<u8>, w: Written) {
        self.open += usize::from(w.file.is_some());
        if let Some(old) = self.written.insert(path, w) {
            self.open -= usize::from(old.file.is_some());
        }
    }

    fn at_and_under(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        if self.written.contains_key(path) {
            found.push(path.to_vec());
        }
        // `/` is followed by `0`.
        let (low, high) = ([path, b"/"].concat(), [path, b"0"].concat());
        found.extend(self.written.range(low..high).map(|(p, _)| p.clone()));
        found
    }

    fn failure_of(&self, w: &Written) -> Option<Errno> {
        w.failed.or_else(|| (w.file.is_none() && w.since < self.whole_failures).then_some(Errno::IO))
    }

    fn mark_failed(&mut self, path: &[u8], version: u64, why: Errno) {
        if let Some(w) = self.written.get_mut(path).filter(|w| w.version == version) {
            w.failed = Some(why);
        }
    }

    fn mark_synced(&mut self, path: &[u8], version: u64) {
        if self.written.get(path).is_some_and(|w| w.version == version) {
            self.removed(path);
        }
    }
}

fn same_file(a: &OwnedFd, b: &OwnedFd) -> bool {
    match (fstat(a), fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

/// A file to sync, with what we remember of its writing.
type Pending<'a> = (&'a BackingPath, Option<Written>);

impl DirectoryBacking {
    pub(super) fn sync_now(&self, files: &[BackingPath], dirs: &[BackingPath]) -> io::Result<()> {
        let pending: Vec<Pending<'_>> = {
            let unsynced = self.unsynced.lock();
            let known: Vec<_> = files.iter().map(|f| (f, unsynced.written.get(&f.0).cloned())).collect();
            if let Some(e) = known.iter().flat_map(|k| &k.1).find_map(|w| unsynced.failure_of(w)) {
                return Err(e.into());
            }
            known
        };
        let all_open = pending.iter().flat_map(|p| &p.1).all(|w| w.file.is_some());
        let each = all_open && files.len() + dirs.len() <= FEW;
        if !each || !self.sync_each(&pending, dirs)? {
            self.sync_whole(&pending, dirs)?;
        }
        let mut unsynced = self.unsynced.lock();
        for (path, w) in &pending {
            if let Some(w) = w {
                unsynced.mark_synced(&path.0, w.version);
            }
        }
        Ok(())
    }

    /// False when something cannot be synced by itself.
    fn sync_each(&self, files: &[Pending<'_>], dirs: &[BackingPath]) -> io::Result<bool> {
        for (path, written) in files {
            let by_itself = match written {
                Some(Written { file: Some(file), version, .. }) => {
                    let synced = retry_on_intr(|| fsync(file));
                    if let Err(e) = synced {
                        self.unsynced.lock().mark_failed(&path.0, *version, e);
                    }
                    synced?;
                    true
                }
                _ => self.sync_path(path)?,
            };
            if !by_itself {
                return Ok(false);
            }
        }
        for dir in dirs {
            if !self.sync_path(dir)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn sync_path(&self, path: &BackingPath) -> io::Result<bool> {
        let open = || {
            let kind = kind_of(fstat(beneath::open(self.root(), &path.0, OFlags::PATH)?)?.st_mode);
            match kind {
                Some(Kind::File) => self.open_regular(&path.0, OFlags::RDONLY).map(Some),
                Some(Kind::Dir) => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                    beneath::open(self.root(), &path.0, flags).map(Some)
                }
                _ => Ok(None),
            }
        };
        let Some(fd) = self.with_access(&[(&path.0, Last::Any)], open)? else { return Ok(false) };
        match retry_on_intr(|| fsync(&fd)) {
            Ok(()) => Ok(true),
            // Some network stores know no fsync of a directory.
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::BADF) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Syncs the root's filesystem and every other one that holds something of the lists.
    fn sync_whole(&self, files: &[Pending<'_>], dirs: &[BackingPath]) -> io::Result<()> {
        let _one_at_a_time = self.whole_sync.lock();
        let synced = retry_on_intr(|| syncfs(&self.root));
        let mut unsynced = self.unsynced.lock();
        unsynced.whole_failures += u64::from(synced.is_err());
        let failures = unsynced.whole_failures;
        for (path, w) in files {
            if let Some(w) = w.as_ref().filter(|w| w.since < failures) {
                unsynced.mark_failed(&path.0, w.version, synced.err().unwrap_or(Errno::IO));
            }
        }
        drop(unsynced);
        synced?;
        if files.iter().flat_map(|f| &f.1).any(|w| w.since < failures) {
            return Err(Errno::IO.into());
        }
        self.sync_elsewhere(files, dirs)
    }

    fn sync_elsewhere(&self, files: &[Pending<'_>], dirs: &[BackingPath]) -> io::Result<()> {
        let parents = files.iter().filter_map(|(p, _)| Some(beneath::split(&p.0).ok()?.0));
        let places: BTreeSet<&[u8]> = parents.chain(dirs.iter().map(|d| &d.0[..])).collect();
        let mut done = BTreeSet::from([self.dev]);
        for path in places {
            let opened = self.with_access(&[(path, Last::Any)], || {
                let dev = fstat(beneath::dir(self.root(), path)?.as_fd())?.st_dev;
                if done.contains(&dev) {
                    return Ok(None);
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                Ok(Some((dev, beneath::open(self.root(), path, flags)?)))
            });
            match opened {
                Ok(Some((dev, fd))) => {
                    retry_on_intr(|| syncfs(&fd))?;
                    done.insert(dev);
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        for (path, w) in files {
            if let Some(Written { file: Some(file), version, .. }) = w
                && fstat(file)?.st_dev != self.dev
                && let Err(e) = retry_on_intr(|| fsync(file))
            {
                self.unsynced.lock().mark_failed(&path.0, *version, e);
                return Err(e.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    #[test]
    fn paths_move_and_descriptors_are_counted() {
        let mut u = Unsynced::default();
        for p in [&b"d/a"[..], b"d/b/c", b"d0", b"d"] {
            let since = u.begin_new(p);
            u.end(p.to_vec(), since, some_file());
        }
        u.renamed(b"d", b"e");
        let paths: Vec<_> = u.written.keys().map(|k| &k[..]).collect();
        assert_eq!(paths, [&b"d0"[..], b"e", b"e/a", b"e/b/c"]);
        u.removed_under(b"e");
        assert_eq!((u.written.len(), u.open), (1, 1));
        u.renamed(b"x", b"d0");
        assert_eq!((u.written.len(), u.open), (0, 0));
    }

    #[test]
    fn only_so_many_stay_open() {
        let mut u = Unsynced::default();
        for i in 0..OPEN_MAX + 5 {
            u.end(format!("{i}").into_bytes(), 0, some_file());
        }
        assert_eq!(u.open, OPEN_MAX);
        assert_eq!(u.written.values().filter(|w| w.file.is_none()).count(), 5);
    }

    #[test]
    fn a_failure_stays_until_written_anew() {
        let mut u = Unsynced::default();
        u.end(b"f".to_vec(), 0, some_file());
        let version = u.written[&b"f"[..]].version;
        u.mark_failed(b"f", version, Errno::NOSPC);
        assert_eq!(u.failure_of(&u.written[&b"f"[..]]), Some(Errno::NOSPC));
        u.mark_synced(b"f", version + 1);
        assert!(u.written.contains_key(&b"f"[..]));
        let since = u.begin(b"f");
        u.end(b"f".to_vec(), since, some_file());
        assert_eq!(u.failure_of(&u.written[&b"f"[..]]), None);
        // A whole sync failed after this was written, and nothing else can tell of it.
        u.written.get_mut(&b"f"[..]).unwrap().file = None;
        u.open -= 1;
        u.whole_failures += 1;
        assert_eq!(u.failure_of(&u.written[&b"f"[..]]), Some(Errno::IO));
    }
}
