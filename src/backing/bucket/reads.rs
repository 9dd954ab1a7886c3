//! Reading: in blocks that are kept in memory up to a bound, each fetched once whoever asks for it, and ahead of those
//! who read on.

use super::meta::id_of;
use super::{BucketBacking, Core};
use crate::backing::BackingFile;
use crate::types::Kind;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

const BLOCK: u64 = 512 << 10;
/// Blocks of one request.
const RUN: u64 = 8;
/// Blocks fetched ahead of one reader at most.
const AHEAD: u64 = 48;
/// Blocks kept for all readers.
const KEPT: usize = 192;
/// How long a reader waits for a block that another fetches.
const WAIT: Duration = Duration::from_secs(12);

/// Where a file that may be read is now.
#[derive(Clone, Debug)]
struct At {
    key: String,
    etag: String,
    size: u64,
}

struct Open {
    at: Mutex<At>,
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
    blocks: Mutex<HashMap<(u64, u64), Slot>>,
    come: Condvar,
    clock: AtomicU64,
}

impl Files {
    fn each(&self, id: u64, change: impl Fn(&mut At)) {
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
        self.each(id, |at| *at = At { key: key.into(), etag: etag.into(), size });
    }

    /// A file has another key now; its version there may be another.
    pub fn moved(&self, id: u64, key: &str) {
        self.each(id, |at| {
            at.key = key.into();
            at.etag.clear();
        });
    }

    /// All below a directory have other keys now.
    pub fn moved_tree(&self, from: &str, to: &str) {
        for o in self.open.lock().values().flatten().filter_map(Weak::upgrade) {
            let mut at = o.at.lock();
            if let Some(rest) = at.key.strip_prefix(from) {
                at.key = format!("{to}{rest}");
                at.etag.clear();
            }
        }
    }

    fn make_room(&self, blocks: &mut HashMap<(u64, u64), Slot>) {
        while blocks.len() > KEPT {
            let age = |s: &Slot| if let Slot::Here(_, t) = s { Some(*t) } else { None };
            let oldest = blocks.iter().filter_map(|(k, s)| Some((age(s)?, *k))).min();
            match oldest {
                Some((_, k)) => blocks.remove(&k),
                None => return,
            };
        }
    }
}

struct BucketFile {
    core: Arc<Core>,
    open: Arc<Open>,
}

fn name_of(at: &At) -> u64 {
    id_of(&[at.key.as_bytes(), at.etag.as_bytes()])
}

impl Core {
    /// Fetches a run of blocks that are marked as coming.
    async fn fetch(&self, at: &At, first: u64, n: u64) -> io::Result<()> {
        let (start, end) = (first * BLOCK, ((first + n) * BLOCK).min(at.size));
        let r = self.store.get(&at.key, Some(&at.etag), Some((start, end))).await;
        let r = r.and_then(|b| match b.len() as u64 == end - start {
            true => Ok(b),
            false => {
                let text = format!("reading {}: {} bytes came of {}", at.key, b.len(), end - start);
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
            }
        });
        let file = name_of(at);
        let mut blocks = self.files.blocks.lock();
        let now = self.files.clock.fetch_add(1, Ordering::Relaxed);
        match &r {
            Ok(bytes) => {
                for (i, part) in bytes.chunks(BLOCK as usize).enumerate() {
                    blocks.insert((file, first + i as u64), Slot::Here(Arc::new(part.to_vec()), now));
                }
            }
            Err(_) => (first..first + n).for_each(|b| {
                blocks.remove(&(file, b));
            }),
        }
        self.files.make_room(&mut blocks);
        drop(blocks);
        self.files.come.notify_all();
        r.map(drop)
    }
}

impl BucketFile {
    /// Marks as coming what of the blocks is not there yet, and returns it in runs.
    fn missing(&self, at: &At, from: u64, to: u64) -> Vec<(u64, u64)> {
        let file = name_of(at);
        let mut blocks = self.core.files.blocks.lock();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for b in from..to {
            if blocks.contains_key(&(file, b)) {
                continue;
            }
            blocks.insert((file, b), Slot::Coming);
            match runs.last_mut() {
                Some((first, n)) if *first + *n == b && *n < RUN => *n += 1,
                _ => runs.push((b, 1)),
            }
        }
        runs
    }

    /// A block, fetched by us or whoever has begun to.
    fn block(&self, at: &At, b: u64) -> io::Result<Arc<Vec<u8>>> {
        let key = (name_of(at), b);
        let files = &self.core.files;
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
                            if files.come.wait_for(&mut blocks, WAIT).timed_out() {
                                let text = format!("reading {}: the store does not answer", at.key);
                                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                            }
                        }
                        None => break,
                    }
                }
            }
            for (first, n) in self.missing(at, b, b + 1) {
                self.core.store.wait(self.core.fetch(at, first, n))?;
            }
        }
    }

    /// Fetches ahead of one who reads on.
    fn look_ahead(&self, at: &At, offset: u64, end: u64) {
        let o = &self.open;
        let reads_on = offset.abs_diff(o.next.swap(end, Ordering::Relaxed)) <= BLOCK;
        let window = if reads_on { (o.window.load(Ordering::Relaxed) * 2).clamp(2, AHEAD) } else { 0 };
        o.window.store(window, Ordering::Relaxed);
        let last = at.size.div_ceil(BLOCK);
        let from = end.div_ceil(BLOCK);
        let to = (end / BLOCK + window).min(last);
        // In steps of whole requests, so that the window does not move by single blocks.
        if window < AHEAD || from.is_multiple_of(RUN) || self.is_missing(at, from) {
            for (first, n) in self.missing(at, from, to) {
                let (core, at) = (self.core.clone(), at.clone());
                self.core.store.runtime.spawn(async move {
                    if let Err(e) = core.fetch(&at, first, n).await {
                        log::debug!("{e}");
                    }
                });
            }
        }
    }

    fn is_missing(&self, at: &At, b: u64) -> bool {
        b * BLOCK < at.size && !self.core.files.blocks.lock().contains_key(&(name_of(at), b))
    }

    /// Where the file is, with its version, which a move may have changed.
    fn now(&self) -> io::Result<At> {
        let at = self.open.at.lock().clone();
        if !at.etag.is_empty() {
            return Ok(at);
        }
        let s = &self.core.store;
        let seen = s.wait(s.head(&at.key))?.ok_or(io::ErrorKind::NotFound)?;
        let mut kept = self.open.at.lock();
        if kept.key == at.key {
            *kept = At { etag: seen.etag, size: seen.size, ..at };
        }
        Ok(kept.clone())
    }

    fn read_once(&self, at: &At, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = (offset + buf.len() as u64).min(at.size);
        if offset >= end {
            return Ok(0);
        }
        // All that is asked for at once, with what comes after.
        self.look_ahead(at, offset, end);
        let (from, to) = (offset / BLOCK, end.div_ceil(BLOCK));
        let runs = if to - from > 1 { self.missing(at, from, to) } else { Vec::new() };
        for (first, n) in runs {
            let (core, at) = (self.core.clone(), at.clone());
            self.core.store.runtime.spawn(async move {
                if let Err(e) = core.fetch(&at, first, n).await {
                    log::debug!("{e}");
                }
            });
        }
        for b in from..to {
            let bytes = self.block(at, b)?;
            let (start, stop) = ((b * BLOCK).max(offset), ((b + 1) * BLOCK).min(end));
            let part = bytes.get((start - b * BLOCK) as usize..(stop - b * BLOCK) as usize);
            let part = part.ok_or(io::ErrorKind::UnexpectedEof)?;
            buf[(start - offset) as usize..(stop - offset) as usize].copy_from_slice(part);
        }
        Ok((end - offset) as usize)
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
        if e.etag.is_empty() {
            return Err(io::Error::other(format!("{path}: it is not in the bucket yet")));
        }
        let at = At { key: self.store.key(path), etag: e.etag, size: e.size };
        let open = Arc::new(Open { at: Mutex::new(at), next: 0.into(), window: 0.into() });
        self.files.open.lock().entry(m.id).or_default().push(Arc::downgrade(&open));
        Ok(Arc::new(BucketFile { core: self.core(), open }))
    }
}
