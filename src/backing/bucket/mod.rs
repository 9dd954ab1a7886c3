//! A bucket of an S3-compatible store as the backing: a key is a path, a body a file's bytes, so that every program
//! that reads buckets reads it.
//!
//! A change is first one of the `view`, which all reads look at, and then on its way; `sync` makes all that are
//! (`flush`), many at once. A small file waits in memory and costs one request; a large one is uploaded in parts while
//! it is staged, and installing it is the last request of that. What a bucket cannot hold lies beside the files under
//! `.forelog/`: extended attributes, which names are of one file, a move of a tree that is under way, the lease.

mod cache;
mod client;
mod download;
mod error;
mod flush;
mod house;
mod lease;
mod links;
mod listing;
mod looks;
mod markers;
mod meta;
mod moves;
mod multipart;
mod paced;
mod reads;
mod stage;
mod threads;
mod update;
mod view;
mod wall;

pub use cache::{CACHE_MIN, Room};

use super::fence::Fence;
use super::lease::Taking;
use super::{
    AttrChange, Backing, BackingEntry, BackingFile, BackingPath, BackingSpace, BackingStat, CacheFigures,
    Content, HeldLease, Limits, NewObject, Note, Update, Xattr,
};
use crate::config::BucketUrl;
use crate::sys::limiter::Limiter;
use crate::types::Kind;
use cache::Cache;
use client::Store;
use moves::Move;
use parking_lot::{Condvar, Mutex};
use stage::Staged;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock, Weak};
use view::{Upload, View};

/// Our own folder.
const OURS: &str = ".forelog";

/// What tasks of the client share with the backing.
pub struct Core {
    store: Store,
    me: Weak<Core>,
    /// Names are looked up in older listings while the store is in trouble.
    goes_on: bool,
    view: Mutex<View>,
    /// Rung when a listing has come.
    come: Condvar,
    files: reads::Files,
    cache: Cache,
    /// Uploads that came to nothing, to be ended.
    given_up: Mutex<Vec<(String, Upload)>>,
}

/// See the module.
pub struct BucketBacking {
    core: Arc<Core>,
    staged: Mutex<HashMap<String, Staged>>,
    flushing: Mutex<()>,
    moving: Mutex<Option<Move>>,
    limits: OnceLock<Limits>,
    /// False once the store was found unable to copy ranges.
    copies_ranges: std::sync::atomic::AtomicBool,
    /// False once it was found to take no uploads in parts.
    takes_parts: std::sync::atomic::AtomicBool,
    sole_writer: bool,
    read_only: bool,
}

impl std::ops::Deref for BucketBacking {
    type Target = Core;
    fn deref(&self) -> &Core {
        &self.core
    }
}

impl BucketBacking {
    /// Reaches the bucket. Errors: one line for people.
    pub fn open(
        url: &BucketUrl,
        sole_writer: bool,
        read_only: bool,
        room: Room<'_>,
    ) -> Result<BucketBacking, String> {
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let store = Store::open(url, owner)?;
        // The cheapest request that fails where the bucket, the credentials or the region are wrong.
        store.wait(store.list(&store.base, false, None)).map_err(|e| e.to_string())?;
        if read_only {
            store.fence.forbid("the mount is read-only");
        }
        let cache = open_cache(&store, room)?;
        let core = Arc::new_cyclic(|me| Core {
            store,
            me: me.clone(),
            goes_on: !read_only,
            cache,
            view: Mutex::default(),
            come: Condvar::new(),
            files: reads::Files::default(),
            given_up: Mutex::default(),
        });
        Ok(BucketBacking {
            core,
            staged: Mutex::default(),
            flushing: Mutex::new(()),
            moving: Mutex::default(),
            limits: OnceLock::new(),
            copies_ranges: true.into(),
            takes_parts: true.into(),
            sole_writer,
            read_only,
        })
    }

    fn core(&self) -> Arc<Core> {
        self.core.clone()
    }
}

/// A mount can do without its cache, but not without names.
fn open_cache(store: &Store, room: Room<'_>) -> Result<Cache, String> {
    let scope = || store.scope().into_bytes();
    Cache::open(scope(), room).or_else(|e| {
        log::warn!("read cache {}: {e}; the mount goes on without one", room.dir.display());
        Cache::none(scope()).map_err(|e| format!("reading random bytes failed: {e}"))
    })
}

/// A path as text. Errors: `InvalidFilename` for what cannot be a key.
fn text(path: &BackingPath) -> io::Result<&str> {
    std::str::from_utf8(&path.0).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidFilename, format!("{path}: no key, since it is not UTF-8"))
    })
}

impl Store {
    /// Key of a path, or of a directory's marker where it ends in a slash; `/` is the root's.
    pub(super) fn key(&self, path: &str) -> String {
        match path {
            "/" if self.base.is_empty() => format!("{OURS}/root/"),
            "/" => self.base.clone(),
            _ => format!("{}{path}", self.base),
        }
    }
}

impl Backing for BucketBacking {
    fn describe(&self) -> String {
        self.store.url.to_string()
    }
    fn limits(&self) -> Limits {
        self.limits.get().copied().unwrap_or(house::WIDEST)
    }
    fn open_files_last(&self) -> bool {
        false
    }
    fn bounded(&self) -> bool {
        true
    }
    fn pace(&self, limiter: &Arc<Limiter>) -> bool {
        self.store.pace.set(limiter);
        true
    }
    fn answers(&self) -> u64 {
        self.store.pace.answers()
    }
    fn requests(&self) -> Vec<(String, u64)> {
        self.store.requests()
    }
    fn cache(&self) -> CacheFigures {
        self.cache.figures()
    }

    fn stat(&self, path: &BackingPath) -> io::Result<BackingStat> {
        self.stat_now(path)
    }
    fn list(&self, path: &BackingPath, each: &mut dyn FnMut(BackingEntry)) -> io::Result<()> {
        self.list_now(text(path)?, each)
    }
    fn open(&self, path: &BackingPath) -> io::Result<Arc<dyn BackingFile>> {
        self.open_now(text(path)?)
    }
    fn readlink(&self, path: &BackingPath) -> io::Result<Vec<u8>> {
        let path = text(path)?;
        let (e, _) = self.at(path)?;
        self.whole(path, &e)
    }
    fn xattrs(&self, path: &BackingPath) -> io::Result<Vec<Xattr>> {
        self.xattrs_now(text(path)?)
    }
    fn space(&self) -> io::Result<BackingSpace> {
        // A bucket has no end; this much can be counted in 32 bits of mebibytes.
        const BLOCKS: u64 = 1 << 40;
        Ok(BackingSpace {
            block_bytes: 4096,
            blocks: BLOCKS,
            blocks_free: BLOCKS,
            blocks_available: BLOCKS,
            files: BLOCKS,
            files_free: BLOCKS,
            name_bytes_max: crate::types::NAME_BYTES_MAX as u32,
        })
    }

    fn stage(&self, name: &str, object: &NewObject, content: Content<'_>) -> io::Result<BackingStat> {
        self.stage_now(name, object, content)
    }
    fn stage_link(&self, name: &str, from: &BackingPath) -> io::Result<()> {
        let from = text(from)?.to_owned();
        self.staged.lock().insert(name.to_owned(), Staged::Link(from));
        Ok(())
    }
    fn install(&self, name: &str, to: &BackingPath) -> io::Result<()> {
        self.install_now(name, text(to)?)
    }

    fn update(&self, path: &BackingPath, update: Update<'_>) -> io::Result<()> {
        self.update_now(text(path)?, update)
    }
    fn set_attr(&self, path: &BackingPath, kind: Kind, change: &AttrChange) -> io::Result<()> {
        self.set_attr_now(text(path)?, kind, change)
    }
    fn rename(&self, from: &BackingPath, to: &BackingPath) -> io::Result<()> {
        self.rename_now(text(from)?, text(to)?)
    }
    fn park(&self, from: &BackingPath, name: &str) -> io::Result<()> {
        self.rename_now(text(from)?, &format!("{OURS}/park/{name}"))
    }
    fn unlink(&self, path: &BackingPath) -> io::Result<()> {
        self.unlink_now(text(path)?)
    }
    fn rmdir(&self, path: &BackingPath) -> io::Result<()> {
        self.rmdir_now(text(path)?)
    }

    fn sync(&self, _: &[BackingPath], _: &[BackingPath]) -> io::Result<()> {
        self.end_uploads();
        self.flush()
    }

    fn refused(&self) -> Vec<(BackingPath, io::Error)> {
        let all = self.refused_now();
        all.into_iter().map(|(k, e)| (BackingPath(k.into_bytes()), e)).collect()
    }

    fn has_house(&self) -> io::Result<bool> {
        self.has_house_now()
    }
    fn lease(&self, how: Taking) -> Result<Box<dyn HeldLease>, String> {
        if self.read_only {
            return Ok(Box::new(lease::NoLease));
        }
        Ok(lease::take_of(&self.core, how, self.sole_writer)?.1)
    }
    fn fence(&self) -> Option<&Fence> {
        Some(&self.store.fence)
    }
    fn prepare(&self) -> io::Result<()> {
        self.prepare_now()
    }
    fn parked(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        self.list_now(&format!("{OURS}/park"), &mut |e| {
            names.extend(String::from_utf8(e.name.to_vec()).ok());
        })?;
        Ok(names)
    }
    fn clean(&self) -> io::Result<()> {
        self.clean_now()
    }
    fn notes(&self) -> io::Result<Vec<Note>> {
        self.notes_now()
    }
    fn put_note(&self, name: &str, text: &str) -> io::Result<()> {
        self.put_note_now(name, text)
    }
    fn drop_note(&self, name: &str) -> io::Result<()> {
        self.drop_note_now(name)
    }
}
