//! The tree as it is meant to be: what the store listed, over it the changes that are on their way. A name that
//! was listed is not asked for again for a while; its metadata is asked for once.

use super::client::{Body, Expect, Page};
use super::meta::Meta;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A listing is believed this long: what others change is seen by then.
pub const FRESH_NS: u64 = 30_000_000_000;

/// Names kept in memory; with more of them all listings are dropped.
const NAMES_MAX: usize = 400_000;

/// Failures kept in memory.
const FAILED_MAX: usize = 1000;

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub dir: bool,
    /// The version in the store; empty: it is not there yet, or a directory without a marker.
    pub etag: String,
    pub size: u64,
    /// Whole seconds of the store's clock; 0: not known.
    pub modified: i64,
    pub meta: Option<Arc<Meta>>,
}

/// A change on its way.
#[derive(Clone, Debug)]
pub enum Change {
    Put {
        /// `None`: an object of our own, beside the files.
        meta: Option<Arc<Meta>>,
        body: Body,
        expect: Expect,
        /// Versions of ours that may have arrived though their answers did not.
        mine: Vec<u64>,
    },
    /// New metadata for what is there.
    Meta { etag: String, size: u64, meta: Arc<Meta> },
    /// The last request of an upload in parts.
    Complete { upload: Upload, meta: Arc<Meta>, size: u64, expect: Expect },
    /// The content of another key, after all others.
    Copy { from: String, size: u64, meta: Arc<Meta> },
    Delete {
        expect: Expect,
        /// As for `Put`.
        mine: Vec<u64>,
    },
}

/// A change that the store refused. It is tried again by itself, later each time.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub kind: std::io::ErrorKind,
    pub text: String,
    pub retry: Backoff,
}

/// When to try a refused change again: exponential, capped, with jitter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    tries: u32,
    not_before_ns: u64,
}

impl Backoff {
    const FIRST_NS: u64 = 1_000_000_000;
    const CAP_NS: u64 = 30_000_000_000;

    /// After one more failure. `dice`: any number.
    pub fn later(self, now_ns: u64, dice: u64) -> Backoff {
        let most = (Self::FIRST_NS << self.tries.min(5)).min(Self::CAP_NS);
        let wait = most / 2 + dice % (most / 2);
        Backoff { tries: self.tries + 1, not_before_ns: now_ns + wait }
    }

    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.not_before_ns
    }
}

/// An upload in parts of which all parts are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub id: String,
    pub parts: Vec<String>,
    /// Key of the object by which it is found after a death.
    pub note: String,
}

struct Listing {
    entries: BTreeMap<String, Entry>,
    read_ns: u64,
    /// Used until then though it is old.
    borne_ns: u64,
}

/// See the module. Paths are relative to the prefix; a directory's key ends in a slash.
#[derive(Default)]
pub struct View {
    dirs: HashMap<String, Listing>,
    names: usize,
    pub root: Option<Entry>,
    pub pending: BTreeMap<String, Change>,
    /// Those of them that the store refused.
    pub refused: BTreeMap<String, Refusal>,
    /// What arrived while a listing was on its way.
    landed: Vec<(String, Option<Entry>)>,
    pub loading: HashSet<String>,
    /// Those of them whose directory was moved or made meanwhile: what they say is of another one.
    void: HashSet<String>,
    /// Listings that did not come, when, and why.
    pub failed: HashMap<String, (u64, std::io::Error)>,
    /// Files with several names.
    pub groups: HashMap<u64, BTreeSet<String>>,
}

/// A path as its directory and its last name.
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Whether a name of a listing can be one of a file.
fn is_name(n: &str) -> bool {
    !n.is_empty()
        && n != "."
        && n != ".."
        && n.len() <= crate::types::NAME_BYTES_MAX
        && !n.contains(['\0', '/'])
}

impl Change {
    /// What stands there once it is made.
    fn entry(&self, key: &str) -> Option<Entry> {
        let (size, etag, meta) = match self {
            Change::Put { meta, body, .. } => (body.len() as u64, "", meta.clone()),
            Change::Meta { etag, size, meta } => (*size, etag.as_str(), Some(meta.clone())),
            Change::Complete { meta, size, .. } | Change::Copy { meta, size, .. } => {
                (*size, "", Some(meta.clone()))
            }
            Change::Delete { .. } => return None,
        };
        Some(Entry { dir: key.ends_with('/'), etag: etag.into(), size, modified: 0, meta })
    }
}

impl View {
    /// What stands under a path, if its directory's listing is fresh: `None`, ask the store.
    pub fn find(&self, path: &str, now_ns: u64) -> Option<Option<Entry>> {
        let (dir, name) = split(path);
        Some(self.listing(dir, now_ns)?.entries.get(name).cloned())
    }

    /// All names of a directory, if its listing is fresh.
    pub fn names(&self, dir: &str, now_ns: u64) -> Option<Vec<(String, Entry)>> {
        Some(self.listing(dir, now_ns)?.entries.iter().map(|(n, e)| (n.clone(), e.clone())).collect())
    }

    fn listing(&self, dir: &str, now_ns: u64) -> Option<&Listing> {
        self.dirs.get(dir).filter(|l| now_ns.saturating_sub(l.read_ns) < FRESH_NS || now_ns < l.borne_ns)
    }

    /// Whether a directory's listing is fresh, or used all the same.
    pub fn is_usable(&self, dir: &str, now_ns: u64) -> bool {
        self.listing(dir, now_ns).is_some()
    }

    /// Whether there is one at all, however old.
    pub fn is_listed(&self, dir: &str) -> bool {
        self.dirs.contains_key(dir)
    }

    /// An older one will do until then.
    pub fn bear(&mut self, dir: &str, until_ns: u64) {
        if let Some(l) = self.dirs.get_mut(dir) {
            l.borne_ns = until_ns;
        }
    }

    /// A listing did not come.
    pub fn fail(&mut self, dir: &str, now_ns: u64, why: std::io::Error) {
        if self.failed.len() >= FAILED_MAX {
            self.failed.clear();
        }
        self.failed.insert(dir.to_owned(), (now_ns, why));
    }

    /// Takes a listing in; what is known of unchanged objects stays.
    pub fn take(&mut self, dir: &str, page: Page, base: &str, now_ns: u64) {
        if self.void.contains(dir) {
            return;
        }
        let at = if dir.is_empty() { base.to_owned() } else { format!("{base}{dir}/") };
        let old = self.dirs.remove(dir).map(|l| l.entries).unwrap_or_default();
        self.names -= old.len();
        if self.names > NAMES_MAX {
            self.dirs.clear();
            self.names = 0;
        }
        let mut entries = BTreeMap::new();
        for o in page.objects {
            let Some(name) = o.key.strip_prefix(&at).filter(|n| is_name(n)) else { continue };
            let mut e = Entry { dir: false, etag: o.etag, size: o.size, modified: o.modified, meta: None };
            if let Some(k) = old.get(name).filter(|k| {
                !k.dir
                    && k.etag == e.etag
                    && k.size == e.size
                    && (k.modified == 0 || k.modified == e.modified)
            }) {
                e.meta = k.meta.clone();
            }
            entries.insert(name.to_owned(), e);
        }
        for f in page.folders {
            let Some(name) = f.strip_prefix(&at).and_then(|n| n.strip_suffix('/')).filter(|n| is_name(n))
            else {
                continue;
            };
            let mut e = Entry { dir: true, etag: String::new(), size: 0, modified: 0, meta: None };
            if let Some(k) = old.get(name).filter(|k| k.dir) {
                e = k.clone();
            }
            entries.insert(name.to_owned(), e);
        }
        self.names += entries.len();
        self.dirs.insert(dir.to_owned(), Listing { entries, read_ns: now_ns, borne_ns: 0 });
        self.failed.remove(dir);
        self.overlay(dir);
    }

    /// Lays over a listing what it may not show yet.
    fn overlay(&mut self, dir: &str) {
        // The latest of each key.
        let mut latest: BTreeMap<String, Option<Entry>> = self.landed.iter().cloned().collect();
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let below = self.pending.range(prefix.clone()..).take_while(|(k, _)| k.starts_with(&prefix));
        let files = below.filter(|(_, c)| !matches!(c, Change::Put { meta: None, .. }));
        latest.extend(files.map(|(k, c)| (k.clone(), c.entry(k))));
        let here = latest.into_iter().filter(|(k, _)| split(k.trim_end_matches('/')).0 == dir);
        let (gone, there): (Vec<_>, Vec<_>) = here.partition(|(_, e)| e.is_none());
        for (key, entry) in gone.into_iter().chain(there) {
            self.put(&key, entry);
        }
    }

    /// Notes what stands under a key now, also for listings that are on their way.
    pub fn set(&mut self, key: &str, entry: Option<Entry>) {
        if !self.loading.is_empty() {
            self.landed.push((key.to_owned(), entry.clone()));
        }
        self.put(key, entry);
    }

    fn put(&mut self, key: &str, entry: Option<Entry>) {
        let is_dir = key.ends_with('/');
        let path = key.trim_end_matches('/');
        if path.is_empty() {
            self.root = entry;
            return;
        }
        let (dir, name) = split(path);
        let Some(l) = self.dirs.get_mut(dir) else { return };
        match entry {
            Some(e) => self.names += usize::from(l.entries.insert(name.to_owned(), e).is_none()),
            // A file's removal is none of the directory that has its name, and the reverse.
            None if l.entries.get(name).is_some_and(|e| e.dir == is_dir) => {
                l.entries.remove(name);
                self.names -= 1;
            }
            None => {}
        }
    }

    /// Notes an object's metadata, if it is still the one that was asked for.
    pub fn learned(&mut self, path: &str, asked: &Entry, now: Entry) {
        let (dir, name) = split(path);
        if let Some(e) = self.dirs.get_mut(dir).and_then(|l| l.entries.get_mut(name))
            && e == asked
        {
            *e = now;
        }
    }

    /// A directory that was just made has no names but those to come.
    pub fn is_new(&mut self, dir: &str, now_ns: u64) {
        self.void.extend(self.loading.get(dir).cloned());
        if let Some(l) = self
            .dirs
            .insert(dir.to_owned(), Listing { entries: BTreeMap::new(), read_ns: now_ns, borne_ns: 0 })
        {
            self.names -= l.entries.len();
        }
    }

    /// A change is on its way.
    pub fn change(&mut self, key: &str, change: Change) {
        let entry = change.entry(key);
        let etag = match (&entry, &change) {
            // What is read until then is what is there now.
            (Some(e), Change::Complete { .. }) if !e.dir => self.etag_of(key),
            _ => None,
        };
        let beside = matches!(change, Change::Put { meta: None, .. });
        if !beside {
            self.put(key, entry.map(|e| Entry { etag: etag.unwrap_or(e.etag), ..e }));
        }
        self.pending.insert(key.to_owned(), change);
    }

    fn etag_of(&self, key: &str) -> Option<String> {
        let (dir, name) = split(key);
        self.dirs.get(dir)?.entries.get(name).map(|e| e.etag.clone())
    }

    /// A change has arrived, as this version.
    pub fn arrived(&mut self, key: &str, change: &Change, etag: String) {
        self.pending.remove(key);
        self.refused.remove(key);
        if matches!(change, Change::Put { meta: None, .. }) {
            return;
        }
        let entry = change.entry(key).map(|e| Entry { etag, ..e });
        if !self.loading.is_empty() {
            self.landed.push((key.to_owned(), entry.clone()));
        }
        // A removed key's name may belong to something else by now.
        if entry.is_some() {
            self.put(key, entry);
        }
    }

    /// A listing has come, or not.
    pub fn loaded(&mut self, dir: &str) {
        self.loading.remove(dir);
        self.void.remove(dir);
        if self.loading.is_empty() {
            self.landed.clear();
        }
    }

    /// Something else changed what a directory holds: ask again.
    pub fn doubt(&mut self, dir: &str) {
        self.void.extend(self.loading.get(dir).cloned());
        if let Some(l) = self.dirs.get_mut(dir) {
            (l.read_ns, l.borne_ns) = (0, 0);
        }
    }

    /// Forgets the listings of a directory and of all below.
    pub fn forget_below(&mut self, dir: &str) {
        let below = format!("{dir}/");
        let gone = |k: &String| k == dir || k.starts_with(&below);
        self.void.extend(self.loading.iter().filter(|k| gone(k)).cloned());
        let names: usize = self.dirs.iter().filter(|(k, _)| gone(k)).map(|(_, l)| l.entries.len()).sum();
        self.names -= names;
        self.dirs.retain(|k, _| !gone(k));
    }

    /// Forgets all listings.
    pub fn forget(&mut self) {
        self.void.clone_from(&self.loading);
        self.dirs.clear();
        self.names = 0;
        self.root = None;
    }

    /// Bytes that wait in memory.
    pub fn waiting_bytes(&self) -> usize {
        let size = |c: &Change| if let Change::Put { body, .. } = c { body.len() } else { 0 };
        self.pending.values().map(size).sum()
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
