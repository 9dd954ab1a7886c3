//! Looking at names: listings, metadata, each asked for once.

use super::client::{REQUESTS, Request};
use super::flush::many;
use super::meta::Meta;
use super::view::{Entry, split};
use super::{BucketBacking, Core, OURS, text};
use crate::backing::{BackingEntry, BackingPath, BackingStat, Xattr};
use crate::sys::clock::{Clock, RealClock};
use crate::types::{BackingId, Kind};
use std::io;
use std::sync::Arc;

/// Objects asked for their metadata at a time.
const HEADS_AT_ONCE: usize = 64;

/// An object that old is not stored anew with the time that it has.
const SETTLED_SECONDS: i64 = 2;

/// Number of the root.
const ROOT_ID: u64 = 2;

pub(super) fn now_ns() -> u64 {
    RealClock.monotonic_ns()
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path}: not there"))
}

impl Core {
    /// What stands under a path, with its metadata.
    pub(super) fn find(&self, path: &str) -> io::Result<Option<(Entry, Arc<Meta>)>> {
        if path.is_empty() {
            return self.root().map(Some);
        }
        let (dir, _) = split(path);
        let entry = loop {
            if let Some(found) = self.view.lock().find(path, now_ns()) {
                break found;
            }
            self.load(dir)?;
        };
        let Some(entry) = entry else { return Ok(None) };
        match entry.meta.clone().or_else(|| self.remembered(path, &entry)) {
            Some(m) => Ok(Some((entry, m))),
            None => self.store.wait(self.learn(path, &entry)),
        }
    }

    /// As `find`, where it must be there.
    pub(super) fn at(&self, path: &str) -> io::Result<(Entry, Arc<Meta>)> {
        self.find(path)?.ok_or_else(|| not_found(path))
    }

    fn implicit(&self, key: &str) -> Meta {
        Meta::implicit(key, self.store.owner.0, self.store.owner.1, Default::default())
    }

    fn root(&self) -> io::Result<(Entry, Arc<Meta>)> {
        if let Some(e) = self.view.lock().root.clone()
            && let Some(m) = e.meta.clone()
        {
            return Ok((e, m));
        }
        let key = self.store.key("/");
        let seen = self.store.wait(self.store.head_marker(&key))?;
        let (etag, mut meta) = match seen {
            Some(s) => (s.etag, s.meta),
            None => (String::new(), self.implicit(&key)),
        };
        (meta.id, meta.kind) = (ROOT_ID, Kind::Dir);
        let meta = Arc::new(meta);
        let e = Entry { dir: true, etag, size: 0, modified: 0, meta: Some(meta.clone()) };
        self.view.lock().root = Some(e.clone());
        Ok((e, meta))
    }

    /// The metadata of what was listed, if an earlier mount asked for it and the object is the same since.
    fn remembered(&self, path: &str, entry: &Entry) -> Option<Arc<Meta>> {
        if entry.dir {
            return None;
        }
        let said = self.cache.said(&self.store.key(path), &entry.etag, entry.size, entry.modified)?;
        let meta = Arc::new(said);
        self.view.lock().learned(path, entry, Entry { meta: Some(meta.clone()), ..entry.clone() });
        Some(meta)
    }

    /// Asks for the metadata of what was listed.
    async fn learn(&self, path: &str, entry: &Entry) -> io::Result<Option<(Entry, Arc<Meta>)>> {
        let key = self.store.key(&if entry.dir { format!("{path}/") } else { path.to_owned() });
        let now_there = self.store.wall.at_least();
        let seen = match entry.dir {
            true => self.store.head_marker(&key).await?,
            false => self.store.head(&key).await?,
        };
        // What was stored in this very second may be stored anew with the same time.
        if let Some(s) = seen.as_ref().filter(|s| !entry.dir && s.modified + SETTLED_SECONDS < now_there) {
            self.cache.note_said(&key, &s.etag, s.size, s.modified, &s.meta);
        }
        let now = match (seen, entry.dir) {
            (Some(s), dir) => {
                let (size, modified) = (if dir { 0 } else { s.size }, s.modified);
                Entry { dir, etag: s.etag, size, modified, meta: Some(Arc::new(s.meta)) }
            }
            (None, true) if self.store.is_shadow(path).await? => return Ok(None),
            (None, true) => Entry { meta: Some(Arc::new(self.implicit(&key))), ..entry.clone() },
            (None, false) => {
                self.view.lock().doubt(split(path).0);
                return Ok(None);
            }
        };
        self.view.lock().learned(path, entry, now.clone());
        Ok(now.meta.clone().map(|m| (now, m)))
    }
}

impl BucketBacking {
    pub(super) fn stat_now(&self, path: &BackingPath) -> io::Result<BackingStat> {
        let Ok(path) = text(path) else { return Err(not_found(&path.to_string())) };
        if self.hides(path) {
            return Err(not_found(path));
        }
        let (e, m) = self.at(path)?;
        Ok(self.as_stat(&e, &m))
    }

    pub(super) fn as_stat(&self, e: &Entry, m: &Meta) -> BackingStat {
        let links = self.view.lock().groups.get(&m.id).map_or(1, |g| g.len().max(1) as u32);
        BackingStat { id: BackingId(m.id), attr: m.attr(e.size, links) }
    }

    pub(super) fn list_now(&self, dir: &str, each: &mut dyn FnMut(BackingEntry)) -> io::Result<()> {
        let names = loop {
            if let Some(names) = self.view.lock().names(dir, now_ns()) {
                break names;
            }
            self.load(dir)?;
        };
        let path = |n: &str| if dir.is_empty() { n.to_owned() } else { format!("{dir}/{n}") };
        let ours = |n: &str| dir.is_empty() && n == OURS || self.hides(&path(n));
        let wanted = |(n, _): &(String, Entry)| !ours(n);
        let remembers = |(n, mut e): (String, Entry)| {
            if e.meta.is_none() {
                e.meta = self.remembered(&path(&n), &e);
            }
            (n, e)
        };
        let (known, asked): (Vec<_>, Vec<_>) =
            names.into_iter().filter(wanted).map(remembers).partition(|(_, e)| e.meta.is_some());
        let work = asked.into_iter().map(|(n, e)| {
            let (core, path) = (self.core(), path(&n));
            async move { core.learn(&path, &e).await.map(|found| (n, found)) }
        });
        let learned = self.store.wait(many(work, HEADS_AT_ONCE));
        let mut entry = |n: String, m: &Meta| {
            each(BackingEntry { name: n.into_bytes().into(), id: BackingId(m.id), kind: m.kind });
        };
        for (n, e) in known {
            if let Some(m) = e.meta {
                entry(n, &m);
            }
        }
        for r in learned {
            if let (n, Some((_, m))) = r? {
                entry(n, &m);
            }
        }
        Ok(())
    }

    /// The body of a small object.
    pub(super) fn whole(&self, path: &str, e: &Entry) -> io::Result<Vec<u8>> {
        if let Some(super::view::Change::Put { body, .. }) = self.view.lock().pending.get(path) {
            return Ok(body.to_vec());
        }
        let etag = Some(e.etag.as_str()).filter(|t| !t.is_empty());
        let key = self.store.key(path);
        let names = &self.cache.names;
        let block = names.block(names.object(&key, &e.etag, e.size), 0);
        let kept = etag.is_some() && e.size <= super::reads::BLOCK;
        if let Some(bytes) = kept.then(|| self.cache.get(block)).flatten() {
            return Ok(bytes);
        }
        let bytes = self.store.wait(self.store.get(&key, etag, None))?;
        if kept && bytes.len() as u64 == e.size {
            let bytes = Arc::new(bytes);
            self.cache.put(block, &bytes);
            return Ok(Arc::unwrap_or_clone(bytes));
        }
        Ok(bytes)
    }

    pub(super) fn xattrs_now(&self, path: &str) -> io::Result<Vec<Xattr>> {
        let (_, m) = self.at(path)?;
        if !m.xattrs {
            return Ok(Vec::new());
        }
        let beside = super::stage::xattrs_path(m.id);
        if let Some(super::view::Change::Put { body, .. }) = self.view.lock().pending.get(&beside) {
            return Ok(super::stage::xattrs_of(body));
        }
        match self.store.wait(self.store.get(&self.store.key(&beside), None, None)) {
            Ok(bytes) => Ok(super::stage::xattrs_of(&bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                log::warn!("{path}: its extended attributes are gone from the bucket");
                Ok(Vec::new())
            }
            Err(e) => Err(e),
        }
    }
}

const _: () = assert!(REQUESTS.len() > Request::PartCopy as usize);
