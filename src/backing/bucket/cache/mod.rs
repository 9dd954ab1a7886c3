//! The read cache: what was read of the bucket's objects, and what their metadata said, on the log's device, for
//! later reads and later mounts. A name in it is made of the object's key, its version and its size, so what is
//! there is right for ever or never asked for again. It may lose anything at any time.

mod files;
mod format;
mod said;

use super::meta::Meta;
use crate::backing::CacheFigures;
use crate::format::checksum::crc;
use crate::sys::disk::{Disk, RealDisk};
use crate::sys::files::{create_dir_private, random_u128};
use crate::sys::worker::{Bell, Worker};
use files::Files;
use parking_lot::Mutex;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::collections::VecDeque;
use std::hash::Hasher;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Contents that wait to be written; more are not kept.
const QUEUE_MAX: usize = 128;
/// How often it is looked whether the device runs short.
const LOOK: Duration = Duration::from_secs(2);

const SALT_FILE: &str = "names";
const SALT_MAGIC: &[u8; 8] = b"flcache1";

/// Most that the cache takes unless told otherwise, and its share of the free space.
const DEFAULT_MAX: u64 = 8 << 30;
const DEFAULT_SHARE: u64 = 10;
/// The smallest cache.
pub const CACHE_MIN: u64 = 16 << 20;

/// Where the cache is and what it may take.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    pub dir: &'a Path,
    /// Bytes; `None`: a tenth of the free space, at most 8 GiB; 0: none.
    pub bytes: Option<u64>,
    /// Bytes of the device that are to stay free.
    pub floor: u64,
}

/// Makes names of what is cached: a keyed hash, so that nobody who stores objects can make two of one name.
pub struct Names {
    salt: [u8; 16],
    /// Which bucket of which store, and for whom.
    scope: Vec<u8>,
}

impl Names {
    fn of(&self, parts: &[&[u8]]) -> u128 {
        let mut h = SipHasher24::new_with_key(&self.salt);
        for p in [self.scope.as_slice()].iter().chain(parts) {
            h.write_u64(p.len() as u64);
            h.write(p);
        }
        h.finish128().as_u128()
    }

    /// Of a version of an object.
    pub fn object(&self, key: &str, etag: &str, size: u64) -> u128 {
        self.of(&[b"object", key.as_bytes(), etag.as_bytes(), &size.to_le_bytes()])
    }

    /// Of a block of it.
    pub fn block(&self, object: u128, n: u64) -> u128 {
        self.of(&[b"block", &object.to_le_bytes(), &n.to_le_bytes()])
    }

    /// Of its metadata, which the store may have changed at this second.
    fn said(&self, object: u128, modified: i64) -> u128 {
        self.of(&[b"said", &object.to_le_bytes(), &modified.to_le_bytes()])
    }
}

struct Inner {
    files: Files,
    queue: Mutex<VecDeque<(u128, Arc<Vec<u8>>)>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Inner {
    fn write(&self) {
        loop {
            let Some((name, content)) = self.queue.lock().pop_front() else { break };
            if let Err(e) = self.files.put(name, &content) {
                log::debug!("the read cache: {e}");
            }
        }
        if let Err(e) = self.files.space_for(0) {
            log::debug!("the read cache: {e}");
        }
    }
}

/// The cache, or the names alone where there is none.
pub struct Cache {
    pub names: Names,
    on: Option<On>,
}

struct On {
    inner: Arc<Inner>,
    bell: Bell,
    capacity: u64,
    _writer: Worker,
}

impl Cache {
    /// No cache.
    pub fn none(scope: Vec<u8>) -> io::Result<Cache> {
        Ok(Cache { names: Names { salt: random_u128()?.to_le_bytes(), scope }, on: None })
    }

    /// Takes up the cache in a directory; where the size is 0 it is removed.
    pub fn open(scope: Vec<u8>, room: Room<'_>) -> io::Result<Cache> {
        if room.bytes == Some(0) {
            if crate::sys::files::is_dir(room.dir) {
                let disk = RealDisk::open(room.dir)?;
                clear(&disk)?;
                drop(disk);
                crate::sys::files::remove_dir(room.dir)?;
            }
            return Cache::none(scope);
        }
        create_dir_private(room.dir)?;
        let disk = RealDisk::open(room.dir)?;
        let salt = salt(&disk)?;
        let taken: u64 = disk.list()?.iter().map(|f| f.1).sum();
        let share = (disk.free_bytes()?.saturating_add(taken) / DEFAULT_SHARE).min(DEFAULT_MAX);
        let capacity = room.bytes.unwrap_or(share);
        if capacity < CACHE_MIN {
            log::info!("no read cache: the log's device is nearly full");
            clear(&disk)?;
            return Cache::none(scope);
        }
        let inner = Arc::new(Inner {
            files: Files::open(Arc::new(disk), capacity, room.floor)?,
            queue: Mutex::default(),
            hits: 0.into(),
            misses: 0.into(),
        });
        let (bell, writes) = (Bell::new(), inner.clone());
        let writer = Worker::every("cache", LOOK, bell.clone(), move || writes.write())?;
        Ok(Cache { names: Names { salt, scope }, on: Some(On { inner, bell, capacity, _writer: writer }) })
    }

    /// Whether a content may be there.
    pub fn has(&self, name: u128) -> bool {
        self.on.as_ref().is_some_and(|on| on.inner.files.has(name))
    }

    /// A content. Reads the disk.
    pub fn get(&self, name: u128) -> Option<Vec<u8>> {
        let inner = &self.on.as_ref()?.inner;
        let found = inner.files.get(name)?;
        inner.hits.fetch_add(1, Ordering::Relaxed);
        Some(found)
    }

    /// So many were not there.
    pub fn missed(&self, n: u64) {
        if let Some(on) = &self.on {
            on.inner.misses.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Keeps a content, soon, if it can.
    pub fn put(&self, name: u128, content: &Arc<Vec<u8>>) {
        let Some(on) = &self.on else { return };
        {
            let mut queue = on.inner.queue.lock();
            if queue.len() >= QUEUE_MAX {
                return;
            }
            queue.push_back((name, content.clone()));
        }
        on.bell.ring();
    }

    /// What an object's metadata said, by what a listing says of the object.
    pub fn said(&self, key: &str, etag: &str, size: u64, modified: i64) -> Option<Meta> {
        if etag.is_empty() || modified == 0 {
            return None;
        }
        let name = self.names.said(self.names.object(key, etag, size), modified);
        said::read(&self.get(name)?)
    }

    /// Notes it.
    pub fn note_said(&self, key: &str, etag: &str, size: u64, modified: i64, meta: &Meta) {
        if self.on.is_none() || etag.is_empty() || modified == 0 {
            return;
        }
        let name = self.names.said(self.names.object(key, etag, size), modified);
        if let Some(bytes) = said::write(meta).filter(|_| !self.has(name)) {
            self.put(name, &Arc::new(bytes));
        }
    }

    /// What it did.
    pub fn figures(&self) -> CacheFigures {
        let Some(on) = &self.on else { return CacheFigures::default() };
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let (used_bytes, entries) = on.inner.files.used();
        CacheFigures {
            capacity_bytes: on.capacity,
            used_bytes,
            entries: entries as u64,
            hits: of(&on.inner.hits),
            misses: of(&on.inner.misses),
            damaged: of(&on.inner.files.damaged),
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if let Some(on) = &self.on {
            on.bell.stop();
            on.inner.files.close_all();
        }
    }
}

fn clear(disk: &RealDisk) -> io::Result<()> {
    disk.list()?.iter().try_for_each(|(name, _)| disk.remove(name))
}

/// The key of all names, made once for a cache; without it nothing in the cache can be found.
fn salt(disk: &RealDisk) -> io::Result<[u8; 16]> {
    let mut bytes = [0; 28];
    if let Ok(f) = disk.open(SALT_FILE)
        && f.len()? == bytes.len() as u64
    {
        f.read_exact_at(&mut bytes, 0)?;
        if &bytes[..8] == SALT_MAGIC && bytes[24..] == crc(&bytes[..24]).to_le_bytes() {
            let mut salt = [0; 16];
            salt.copy_from_slice(&bytes[8..24]);
            return Ok(salt);
        }
    }
    clear(disk)?;
    let salt = random_u128()?.to_le_bytes();
    bytes[..8].copy_from_slice(SALT_MAGIC);
    bytes[8..24].copy_from_slice(&salt);
    let sum = crc(&bytes[..24]).to_le_bytes();
    bytes[24..].copy_from_slice(&sum);
    disk.create(SALT_FILE, 0)?.write_all_at(&[&bytes], 0)?;
    Ok(salt)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod tests {
    use super::*;

    fn open(dir: &Path, scope: &[u8], bytes: Option<u64>) -> Cache {
        Cache::open(scope.to_vec(), Room { dir, bytes, floor: 0 }).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_by_its_name_alone() {
        let t = tempfile::tempdir().unwrap();
        let dir = t.path().join("cache");
        let c = open(&dir, b"s3://b", Some(CACHE_MIN));
        let of = |c: &Cache| c.names.block(c.names.object("k", "e", 9), 0);
        let name = of(&c);
        c.on.as_ref().unwrap().inner.files.put(name, b"content").unwrap();
        drop(c);
        let c = open(&dir, b"s3://b", Some(CACHE_MIN));
        assert_eq!(of(&c), name, "names stay");
        assert_eq!(c.get(name).unwrap(), b"content");
        let others = [("k", "e", 8), ("k", "f", 9), ("l", "e", 9)].map(|(k, e, n)| c.names.object(k, e, n));
        for o in others {
            assert!(c.get(c.names.block(o, 0)).is_none());
        }
        assert!(c.get(c.names.block(c.names.object("k", "e", 9), 1)).is_none());
        assert_eq!((c.figures().hits, c.figures().entries), (1, 1));
        drop(c);
        let c = open(&dir, b"s3://other", Some(CACHE_MIN));
        assert!(c.get(of(&c)).is_none(), "another bucket's");
        drop(c);
        std::fs::write(dir.join(SALT_FILE), b"torn").unwrap();
        let c = open(&dir, b"s3://b", Some(CACHE_MIN));
        assert!(c.get(name).is_none() && c.figures().entries == 0, "without its names all is gone");
        drop(c);
        open(&dir, b"s3://b", Some(0));
        assert!(!dir.exists());
    }
}
