//! F3: what is kept for undo, in `LOG_DIR/kept`: retired segments with their records, and what the backing held before
//! the writeback changed it there.
//!
//! Nothing here is needed by the log, and recovery never reads it. What is given up or lost narrows the window of undo:
//! `since` says from which moment on all is there. Whatever is removed, `since` is moved first.

mod disk;
mod images;
pub mod read;

pub use disk::KeepingDisk;
pub use images::OldPiece;

use crate::sys::clock::Clock;
use crate::sys::disk::{Disk, RealDisk};
use crate::sys::{files, paths};
use crate::types::Lsn;
use images::Writer;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Its directory in that of the log.
pub const DIR: &str = "kept";
const SINCE: &str = "since";
const CLEAN: &str = "clean";

/// Where the history begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Moments before this, in nanoseconds since 1970, may not be whole.
    pub wall_ns: i64,
    /// Records up to this one may be missing, and none is newer than `wall_ns`.
    pub lsn: u64,
}

/// A kept segment's name tells its number, its generation and its last record.
pub fn segment_name(id: u32, generation: u32, last: Lsn) -> String {
    format!("{id:08}-{generation:010}-{:020}.seg", last.0)
}

/// What a kept segment's name tells.
pub fn parse_segment(name: &str) -> Option<(u32, u32, Lsn)> {
    let mut parts = name.strip_suffix(".seg")?.split('-');
    let (id, generation, last) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = id.len() == 8 && generation.len() == 10 && last.len() == 20 && parts.next().is_none();
    whole.then_some(())?;
    Some((id.parse().ok()?, generation.parse().ok()?, Lsn(last.parse().ok()?)))
}

/// The number of a file of old contents.
pub fn parse_images(name: &str) -> Option<u64> {
    name.strip_suffix(".old").filter(|n| n.len() == 16)?.parse().ok()
}

fn images_name(number: u64) -> String {
    format!("{number:016}.old")
}

/// Reads `since` of a directory of kept files, and of which boot it is.
pub fn read_since(dir: &Path) -> Option<(Since, String)> {
    let text = String::from_utf8(files::read(&dir.join(SINCE)).ok()?).ok()?;
    let mut words = text.split_whitespace();
    let since = Since { wall_ns: words.next()?.parse().ok()?, lsn: words.next()?.parse().ok()? };
    Some((since, words.next().unwrap_or_default().to_owned()))
}

/// Cuts a file of old contents behind its last whole entry. Returns its size.
fn mended(dir: &RealDisk, name: &str, bytes: u64) -> io::Result<u64> {
    let seen = read::read(&*dir.open(name)?)?;
    if seen.end < bytes {
        log::info!("undo: {name} is whole up to {} of its {bytes} bytes", seen.end);
        dir.cut(name, seen.end)?;
    }
    Ok(seen.end)
}

/// Figures for the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub segments: u64,
    pub bytes: u64,
    /// Bytes that it may have at most now.
    pub room_bytes: u64,
    /// All changes since then are kept.
    pub since_ns: i64,
    /// Files that had to make room before their time.
    pub given_up: u64,
    /// Old contents that could not be kept.
    pub lost: u64,
}

#[derive(Clone, Debug)]
struct Item {
    name: String,
    bytes: u64,
    /// Nothing in it is newer.
    newest_ns: i64,
    last: Lsn,
}

#[derive(Default)]
struct State {
    /// The oldest first.
    items: Vec<Item>,
    since: Since,
}

/// What is kept. One for a log; shared.
pub struct Store {
    path: PathBuf,
    dir: RealDisk,
    clock: Arc<dyn Clock>,
    boot: String,
    window_ns: i64,
    state: Mutex<State>,
    writer: Mutex<Writer>,
    bytes: AtomicU64,
    room: AtomicU64,
    given_up: AtomicU64,
    lost: AtomicU64,
    /// It was said that room is short.
    told: AtomicBool,
    /// History begins anew: nothing from before this mount counts.
    fresh: bool,
    closed: AtomicBool,
}

/// Removes all that was kept: a mount without `--keep-log` would leave a gap. Errors: one line for people.
pub fn discard(log_dir: &Path) -> Result<(), String> {
    let path = log_dir.join(DIR);
    if !files::is_dir(&path) {
        return Ok(());
    }
    let failed = |e: io::Error| format!("removing {}, which is kept no longer, failed: {e}", path.display());
    let dir = RealDisk::open(&path).map_err(failed)?;
    // Not believed any more, should the rest fail.
    files::remove(&path.join(SINCE)).map_err(failed)?;
    for (name, _) in dir.list().map_err(failed)? {
        dir.remove(&name).map_err(failed)?;
    }
    files::remove_dir(&path).map_err(failed)
}

impl Store {
    /// Opens it in a log's directory. `room`: bytes it may have at most. After a power cut, and where another gateway did not
    /// keep, history begins anew. Errors: one line for people.
    pub fn open(
        log_dir: &Path,
        window: Duration,
        room: u64,
        clock: Arc<dyn Clock>,
        boot: &str,
    ) -> Result<Arc<Store>, String> {
        let path = log_dir.join(DIR);
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        files::create_dir_private(&path).map_err(failed)?;
        let dir = RealDisk::open(&path).map_err(failed)?;
        let clean = files::size(&path.join(CLEAN)).map_err(failed)?.is_some();
        let known = read_since(&path).filter(|(_, of)| clean || of == boot && !boot.is_empty());
        files::remove(&path.join(CLEAN)).map_err(failed)?;
        let mut items = Vec::new();
        let mut next = 1;
        for (name, mut bytes, newest_ns) in dir.list_dated().map_err(failed)? {
            let last = match (parse_segment(&name), parse_images(&name)) {
                (Some((_, _, last)), _) => last,
                (None, Some(number)) => {
                    next = next.max(number + 1);
                    // What a death cut short was of a change that was not made.
                    bytes = mended(&dir, &name, bytes).map_err(failed)?;
                    Lsn::NONE
                }
                (None, None) => continue,
            };
            items.push(Item { name, bytes, newest_ns, last });
        }
        if known.is_none() {
            for i in items.drain(..) {
                dir.remove(&i.name).map_err(failed)?;
            }
        }
        items.sort_by_key(|i| i.newest_ns);
        let bytes = items.iter().map(|i| i.bytes).sum();
        let store = Store {
            path,
            dir,
            clock,
            boot: boot.to_owned(),
            window_ns: i64::try_from(window.as_nanos()).unwrap_or(i64::MAX),
            state: Mutex::new(State { items, since: known.as_ref().map(|k| k.0).unwrap_or_default() }),
            writer: Mutex::new(Writer::after(next)),
            bytes: AtomicU64::new(bytes),
            room: AtomicU64::new(room),
            given_up: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            told: AtomicBool::new(false),
            fresh: known.is_none(),
            closed: AtomicBool::new(false),
        };
        Ok(Arc::new(store))
    }

    /// The log was recovered and begins at `lsn`. Call once, before anything changes. Errors: one line for people.
    pub fn begin(&self, lsn: Lsn) -> Result<(), String> {
        let mut st = self.state.lock();
        if self.fresh {
            st.since = Since { wall_ns: self.clock.wall_ns(), lsn: lsn.0 };
            log::info!("undo: what happens from now on is kept in {}", self.path.display());
        }
        self.write_since(st.since).map_err(|e| format!("{}: {e}", self.path.display()))?;
        drop(st);
        self.writer
            .lock()
            .start(&self.dir, self.clock.wall_ns())
            .map_err(|e| format!("{}: {e}", self.path.display()))
    }

    fn write_since(&self, s: Since) -> io::Result<()> {
        let text = format!("{} {} {}\n", s.wall_ns, s.lsn, self.boot);
        paths::write_private(&self.path.join(SINCE), text.as_bytes())
    }

    /// Bytes of what is kept.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// For the status.
    pub fn figures(&self) -> Figures {
        let st = self.state.lock();
        Figures {
            segments: st.items.iter().filter(|i| i.last != Lsn::NONE).count() as u64,
            bytes: self.bytes(),
            room_bytes: self.room.load(Ordering::Relaxed),
            since_ns: st.since.wall_ns,
            given_up: self.given_up.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    /// Takes a retired segment in; see `Disk::keep`.
    fn take(&self, log: &RealDisk, name: &str, generation: u32, end: u32, last: Lsn) -> bool {
        let Some(id) = crate::wal::pool::parse_file_name(name) else { return false };
        let new = segment_name(id.0, generation, last);
        if let Err(e) = log.move_to(name, &self.dir, &new) {
            log::warn!("undo: keeping {name} failed: {e}; moments before now cannot be restored");
            return false;
        }
        let bytes = match self.dir.cut(&new, end as u64) {
            Ok(()) => end as u64,
            Err(e) => {
                log::debug!("undo: cutting {new} failed: {e}");
                files::size(&self.path.join(&new)).ok().flatten().unwrap_or(end as u64)
            }
        };
        let newest_ns = self.clock.wall_ns();
        self.state.lock().items.push(Item { name: new, bytes, newest_ns, last });
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.shrink();
        true
    }

    /// Gives up at least so many bytes, the oldest first. Returns how many it were.
    pub fn give_up(&self, bytes: u64) -> u64 {
        let mut st = self.state.lock();
        let (mut n, mut sum) = (0, 0);
        for i in &st.items {
            if sum >= bytes {
                break;
            }
            sum += i.bytes;
            n += 1;
        }
        if n == 0 {
            return 0;
        }
        self.given_up.fetch_add(n as u64, Ordering::Relaxed);
        if !self.told.swap(true, Ordering::Relaxed) {
            log::warn!(
                "undo: there is no room to keep all of the last {} s: the oldest is given up; a larger --log-size keeps more",
                self.window_ns / 1_000_000_000
            );
        }
        self.drop_first(&mut st, n)
    }

    /// Nothing from before now counts any more.
    fn forget(&self) {
        let mut st = self.state.lock();
        st.since.wall_ns = self.clock.wall_ns();
        self.put_since(st.since);
    }

    fn put_since(&self, since: Since) {
        if let Err(e) = self.write_since(since) {
            // Where it is missing nobody believes what is left.
            log::warn!("undo: noting what was given up failed: {e}");
            files::remove(&self.path.join(SINCE))
                .unwrap_or_else(|e| log::warn!("undo: and removing it: {e}"));
        }
    }

    /// Forgets the oldest `n`. Returns their bytes.
    fn drop_first(&self, st: &mut State, n: usize) -> u64 {
        let gone: Vec<Item> = st.items.drain(..n).collect();
        for i in &gone {
            st.since.wall_ns = st.since.wall_ns.max(i.newest_ns);
            st.since.lsn = st.since.lsn.max(i.last.0);
        }
        self.put_since(st.since);
        let mut bytes = 0;
        for i in gone {
            match self.dir.remove(&i.name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    log::warn!("undo: removing {} failed: {e}", i.name)
                }
                _ => bytes += i.bytes,
            }
            self.bytes.fetch_sub(i.bytes, Ordering::Relaxed);
        }
        bytes
    }

    /// Forgets what is older than the window, and what there is no room for.
    fn shrink(&self) {
        let oldest = self.clock.wall_ns().saturating_sub(self.window_ns);
        let mut st = self.state.lock();
        let old = st.items.iter().take_while(|i| i.newest_ns < oldest).count();
        if old > 0 {
            self.drop_first(&mut st, old);
        }
        drop(st);
        let over = self.bytes().saturating_sub(self.room.load(Ordering::Relaxed));
        if over > 0 {
            self.give_up(over);
        }
    }

    /// To be called about once a second: `room` is what the log leaves of its size, `spare` what the device must have
    /// free for others.
    pub fn tick(&self, room: u64, spare: u64) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        self.room.store(room, Ordering::Relaxed);
        // Not while a long content is being copied: who ticks has other things to do.
        if let Some(mut w) = self.writer.try_lock() {
            w.rotate(self, room, self.clock.wall_ns());
        }
        self.shrink();
        match self.dir.free_bytes() {
            Ok(free) if free < spare && self.bytes() > 0 => drop(self.give_up(spare - free)),
            _ => {}
        }
    }

    /// The gateway ends in good order: what is kept is on stable storage, so the next one goes on with it, after a new
    /// start of the machine too.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let synced = self.writer.lock().end(self);
        let all = || -> io::Result<()> {
            synced?;
            for (name, _) in self.dir.list()? {
                self.dir.open(&name)?.sync_data()?;
            }
            paths::write_private(&self.path.join(CLEAN), b"")?;
            self.dir.sync_dir()
        };
        if let Err(e) = all() {
            log::warn!(
                "undo: syncing {} failed: {e}; after a power cut its history ends",
                self.path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests;
