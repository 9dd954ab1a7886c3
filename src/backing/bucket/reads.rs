//! Reading: in blocks that are kept in memory up to a bound, each fetched once whoever asks for it, from the cache on
//! the log's device or from the store, and ahead of those who read on.

use super::cache::Names;
use super::{BucketBacking, Core};
use crate::backing::BackingFile;
use crate::sys::clock;
use crate::types::Kind;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

pub const BLOCK: u64 = 512 << 10;
/// Blocks of one request at most: the store's work for one is worth about 4 MiB of its bytes.
const RUN: u64 = 48;
/// Blocks fetched ahead of one reader at most, in a few requests at a time.
const AHEAD: u64 = 96;
const AT_A_TIME: u64 = 2;
/// Blocks kept for all readers.
const KEPT: usize = 192;
/// How long a reader waits for a block that another fetches.
const WAIT: Duration = Duration::from_secs(12);
/// A block that did not come to another in this time is not asked for once more by who waited for it.
const GIVEN_UP: Duration = Duration::from_secs(4);
/// A reader who goes on within this many blocks of where it was reads on: the kernel asks for several at once, and
/// they come in any order.
const NEAR: u64 = 4;

/// Where a file that may be read is now.
#[derive(Debug)]
struct At {
    key: String,
    etag: String,
    size: u64,
    name: OnceLock<u128>,
}

impl At {
    fn new(key: String, etag: String, size: u64) -> Arc<At> {
        Arc::new(At { key, etag, size, name: OnceLock::new() })
    }

    /// Name of this version of the object.
    fn name(&self, names: &Names) -> u128 {
        *self.name.get_or_init(|| names.object(&self.key, &self.etag, self.size))
    }

    fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    fn range(&self, from: u64, to: u64) -> (u64, u64) {
        (from * BLOCK, (to * BLOCK).min(self.size))
    }
}

struct Open {
    at: Mutex<Arc<At>>,
    /// Where a reader who reads on goes on, and how many blocks are fetched ahead of it.
    next: AtomicU64,
    window: AtomicU64,
}

enum Slot {
    Coming,
    Here(Arc<Vec<u8>>, u64),
}

/// All open files and the blocks of them.
#[derive(Default)]
pub struct Files {
    open: Mutex<HashMap<u64, Vec<Weak<Open>>>>,
    blocks: Mutex<HashMap<(u128, u64), Slot>>,
    come: Condvar,
    clock: AtomicU64,
    /// Files that somebody reads on in.
    readers: AtomicU64,
}

impl Files {
    fn each(&self, id: u64, change: impl Fn(&mut Arc<At>)) {
        let mut open = self.open.lock();
        if let Some(all) = open.get_mut(&id) {
            all.retain(|w| w.upgrade().map(|o| change(&mut o.at.lock())).is_some());
            if all.is_empty() {
                open.remove(&id);
            }
        }
    }

    /// A file has another version now.
    pub fn changed(&self, id: u64, key: &str, etag: &str, size: u64) {
        self.each(id, |at| *at = At::new(key.into(), etag.into(), size));
    }

    /// A file has another key now; its version there may be another.
    pub fn moved(&self, id: u64, key: &str) {
        self.each(id, |at| *at = At::new(key.into(), String::new(), at.size));
    }

    /// A file stands under this key no more, but under another.
    pub fn left(&self, id: u64, key: &str, other: &str) {
        self.each(id, |at| {
            if at.key == key {
                *at = At::new(other.into(), String::new(), at.size);
            }
        });
    }

    /// All below a directory have other keys now.
    pub fn moved_tree(&self, from: &str, to: &str) {
        for o in self.open.lock().values().flatten().filter_map(Weak::upgrade) {
            let mut at = o.at.lock();
            if let Some(rest) = at.key.strip_prefix(from) {
                *at = At::new(format!("{to}{rest}"), String::new(), at.size);
            }
        }
    }

    fn make_room(&self, blocks: &mut HashMap<(u128, u64), Slot>) {
        while blocks.len() > KEPT {
            let age = |s: &Slot| if let Slot::Here(_, t) = s { Some(*t) } else { None };
            let oldest = blocks.iter().filter_map(|(k, s)| Some((age(s)?, *k))).min();
            match oldest {
                Some((_, k)) => blocks.remove(&k),
                None => return,
            };
        }
    }

    fn land(&self, block: (u128, u64), bytes: Arc<Vec<u8>>) {
        let mut blocks = self.blocks.lock();
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        blocks.insert(block, Slot::Here(bytes, now));
        self.make_room(&mut blocks);
        drop(blocks);
        self.come.notify_all();
    }
}

/// Blocks on their way. What of them did not come is asked for again by whoever needs it.
struct Coming<'a> {
    files: &'a Files,
    name: u128,
    from: u64,
    to: u64,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut blocks = self.files.blocks.lock();
        for b in self.from..self.to {
            if let Some(Slot::Coming) = blocks.get(&(self.name, b)) {
                blocks.remove(&(self.name, b));
            }
        }
        drop(blocks);
        self.files.come.notify_all();
    }
}

struct BucketFile {
    core: Arc<Core>,
    open: Arc<Open>,
}

impl Core {
    /// Fetches a run of blocks that are marked as coming: from the cache what is there, else from the store.
    async fn fetch(self: Arc<Core>, at: Arc<At>, first: u64, n: u64) -> io::Result<()> {
        let (name, end) = (at.name(&self.cache.names), first + n);
        let _coming = Coming { files: &self.files, name, from: first, to: end };
        let mut b = first;
        while b < end {
            if self.from_cache(&at, name, b).await {
                b += 1;
                continue;
            }
            let cached = |n: &u64| self.cache.has(self.cache.names.block(name, *n));
            let to = (b + 1..end).find(cached).unwrap_or(end);
            self.cache.missed(to - b);
            let land = |i: u64, bytes: Vec<u8>| {
                let bytes = Arc::new(bytes);
                self.cache.put(self.cache.names.block(name, b + i), &bytes);
                self.files.land((name, b + i), bytes);
            };
            self.store.get_in_blocks(&at.key, &at.etag, at.range(b, to), BLOCK, land).await?;
            b = to;
        }
        Ok(())
    }

    async fn from_cache(self: &Arc<Core>, at: &At, name: u128, b: u64) -> bool {
        let block = self.cache.names.block(name, b);
        if !self.cache.has(block) {
            return false;
        }
        let (start, end) = at.range(b, b + 1);
        let core = self.clone();
        let found = self.store.runtime.spawn_blocking(move || {
            let bytes = core.cache.get(block).filter(|c| c.len() as u64 == end - start)?;
            core.files.land((name, b), Arc::new(bytes));
            Some(())
        });
        matches!(found.await, Ok(Some(())))
    }

    fn send_for(self: &Arc<Core>, at: &Arc<At>, runs: Vec<(u64, u64)>) {
        for (first, n) in runs {
            let work = self.clone().fetch(at.clone(), first, n);
            self.store.runtime.spawn(async move {
                if let Err(e) = work.await {
                    log::debug!("{e}");
                }
            });
        }
    }
}

impl BucketFile {
    /// Marks as coming what of the blocks is not there yet, and returns it in runs.
    fn missing(&self, at: &At, from: u64, to: u64) -> Vec<(u64, u64)> {
        let name = at.name(&self.core.cache.names);
        let mut blocks = self.core.files.blocks.lock();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for b in from..to {
            if blocks.contains_key(&(name, b)) {
                continue;
            }
            blocks.insert((name, b), Slot::Coming);
            match runs.last_mut() {
                Some((first, n)) if *first + *n == b && *n < RUN => *n += 1,
                _ => runs.push((b, 1)),
            }
        }
        runs
    }

    /// A block, fetched by us or whoever has begun to.
    fn block(&self, at: &Arc<At>, b: u64) -> io::Result<Arc<Vec<u8>>> {
        let key = (at.name(&self.core.cache.names), b);
        let files = &self.core.files;
        let began = clock::boot_ns();
        let waited = || Duration::from_nanos(clock::boot_ns().saturating_sub(began));
        let no_answer = || {
            let text = format!("reading {}: the store does not answer", at.key);
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        };
        loop {
            {
                let mut blocks = files.blocks.lock();
                loop {
                    match blocks.get_mut(&key) {
                        Some(Slot::Here(bytes, used)) => {
                            *used = files.clock.fetch_add(1, Ordering::Relaxed);
                            return Ok(bytes.clone());
                        }
                        Some(Slot::Coming) => {
                            let left = WAIT.saturating_sub(waited());
                            if files.come.wait_for(&mut blocks, left).timed_out() {
                                return no_answer();
                            }
                        }
                        // Whoever fetched it gave up after so long: another try would only double the wait.
                        None if waited() > GIVEN_UP => return no_answer(),
                        None => break,
                    }
                }
            }
            for (first, n) in self.missing(at, b, b + 1) {
                self.core.store.wait(self.core.clone().fetch(at.clone(), first, n))?;
            }
        }
    }

    /// Fetches ahead of one who reads on.
    fn look_ahead(&self, at: &Arc<At>, offset: u64, end: u64) {
        let o = &self.open;
        let reads_on = offset.abs_diff(o.next.swap(end, Ordering::Relaxed)) <= NEAR * BLOCK;
        // All who read share what is kept, with room for what they are at.
        let most =
            (KEPT as u64 * 2 / 3 / self.core.files.readers.load(Ordering::Relaxed).max(1)).clamp(2, AHEAD);
        let window = if reads_on { (o.window.load(Ordering::Relaxed) * 2).clamp(2, most) } else { 0 };
        self.count_reader(o.window.swap(window, Ordering::Relaxed), window);
        let from = end.div_ceil(BLOCK);
        let to = (end / BLOCK + window).min(at.blocks());
        // In steps of whole requests, so that the window does not move by single blocks.
        let step = (window / AT_A_TIME).clamp(1, RUN);
        if window < most || to.is_multiple_of(step) || to == at.blocks() || self.is_missing(at, from) {
            self.core.send_for(at, self.missing(at, from, to));
        }
    }

    fn count_reader(&self, before: u64, now: u64) {
        let readers = &self.core.files.readers;
        match (before, now) {
            (0, 1..) => readers.fetch_add(1, Ordering::Relaxed),
            (1.., 0) => readers.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    fn is_missing(&self, at: &At, b: u64) -> bool {
        let name = at.name(&self.core.cache.names);
        b < at.blocks() && !self.core.files.blocks.lock().contains_key(&(name, b))
    }

    /// Where the file is, with its version, which a move may have changed.
    fn now(&self) -> io::Result<Arc<At>> {
        let at = self.open.at.lock().clone();
        if !at.etag.is_empty() {
            return Ok(at);
        }
        let s = &self.core.store;
        let seen = s.wait(s.head(&at.key))?.ok_or(io::ErrorKind::NotFound)?;
        let mut kept = self.open.at.lock();
        if kept.key == at.key {
            *kept = At::new(at.key.clone(), seen.etag, seen.size);
        }
        Ok(kept.clone())
    }

    fn read_once(&self, at: &Arc<At>, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = (offset + buf.len() as u64).min(at.size);
        if offset >= end {
            return Ok(0);
        }
        // All that is asked for at once, with what comes after.
        let (from, to) = (offset / BLOCK, end.div_ceil(BLOCK));
        self.core.send_for(at, if to - from > 1 { self.missing(at, from, to) } else { Vec::new() });
        self.look_ahead(at, offset, end);
        for b in from..to {
            let bytes = self.block(at, b)?;
            copy_part(&bytes, b, buf, offset, end)?;
        }
        Ok((end - offset) as usize)
    }
}

/// Copies what of a block is asked for.
fn copy_part(block: &[u8], b: u64, buf: &mut [u8], offset: u64, end: u64) -> io::Result<()> {
    let (start, stop) = ((b * BLOCK).max(offset), ((b + 1) * BLOCK).min(end));
    let part = block.get((start - b * BLOCK) as usize..(stop - b * BLOCK) as usize);
    let part = part.ok_or(io::ErrorKind::UnexpectedEof)?;
    buf[(start - offset) as usize..(stop - offset) as usize].copy_from_slice(part);
    Ok(())
}

impl Drop for BucketFile {
    fn drop(&mut self) {
        self.count_reader(self.open.window.swap(0, Ordering::Relaxed), 0);
    }
}

impl BackingFile for BucketFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let at = self.now()?;
        match self.read_once(&at, buf, offset) {
            // Stored anew by us meanwhile, or by something else.
            Err(e) if super::error::is_changed(&e) || e.kind() == io::ErrorKind::NotFound => {
                let now = self.now()?;
                match (now.etag != at.etag, now.key != at.key) {
                    (false, false) => {
                        Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, e.to_string()))
                    }
                    _ => self.read_once(&now, buf, offset),
                }
            }
            other => other,
        }
    }
    fn read_ready(&self, buf: &mut [u8], offset: u64) -> bool {
        let at = self.open.at.lock().clone();
        let end = offset + buf.len() as u64;
        if at.etag.is_empty() || buf.is_empty() || end > at.size {
            return false;
        }
        let (files, name) = (&self.core.files, at.name(&self.core.cache.names));
        let here = {
            let mut blocks = files.blocks.lock();
            let mut one = |b: u64| match blocks.get_mut(&(name, b)) {
                Some(Slot::Here(bytes, used)) => {
                    *used = files.clock.fetch_add(1, Ordering::Relaxed);
                    Some((b, bytes.clone()))
                }
                _ => None,
            };
            (offset / BLOCK..end.div_ceil(BLOCK)).map(&mut one).collect::<Option<Vec<_>>>()
        };
        let Some(here) = here else { return false };
        self.look_ahead(&at, offset, end);
        here.iter().all(|(b, bytes)| copy_part(bytes, *b, buf, offset, end).is_ok())
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset).filter(|&o| o < self.open.at.lock().size))
    }
    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        Ok(offset.max(self.open.at.lock().size))
    }
}

impl BucketBacking {
    pub(super) fn open_now(&self, path: &str) -> io::Result<Arc<dyn BackingFile>> {
        let (e, m) = self.at(path)?;
        if m.kind != Kind::File {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Of one that is on its way the store has the version before it, as long as it has: that is asked for when it is read.
        let at = At::new(self.store.key(path), e.etag, e.size);
        let open = Arc::new(Open { at: Mutex::new(at), next: 0.into(), window: 0.into() });
        self.files.open.lock().entry(m.id).or_default().push(Arc::downgrade(&open));
        Ok(Arc::new(BucketFile { core: self.core(), open }))
    }
}
