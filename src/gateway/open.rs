//! Opening: locks, backing, log, recovery.

use super::Gateway;
use super::Mending;
use super::marker;
use super::plan::Seen;
use crate::backing::bucket::{BucketBacking, Room};
use crate::backing::directory::DirectoryBacking;
use crate::backing::lease::Taking;
use crate::backing::timed::{DEADLINE, TimedBacking};
use crate::backing::{AttrChange, Backing, BackingPath, HeldLease, Note};
use crate::config::{Config, Live, Place};
use crate::format::frame::public_tag;
use crate::fs::{Clients, Fs};
use crate::history::{History, Programs};
use crate::kept::{self, KeepingDisk, Store};
use crate::mount::Callers;
use crate::sys::clock::{self, Clock};
use crate::sys::disk::{Disk, RealDisk};
use crate::sys::lock::{LockError, LockFile};
use crate::sys::{files, limits};
use crate::types::{InodeId, Kind};
use crate::volume::{Volume, read_log};
use crate::wal::PoolLimits;
use crate::writeback::{Retry, Shared};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

/// What opening gives.
pub struct Opened {
    pub gateway: Arc<Gateway>,
    pub locks: Vec<LockFile>,
}

/// Locks and opens everything; the log is recovered. Errors: one line for people.
pub fn open(config: &Config) -> Result<Opened, String> {
    let clock = clock::real();
    if let Err(e) = limits::raise_open_files() {
        log::info!("raising the limit of open files failed: {e}");
    }
    limits::set_io_flusher();
    let dir = &config.log_dir;
    files::create_dir_private(dir).map_err(|e| format!("log directory {}: {e}", dir.display()))?;
    let locks = vec![lock(&dir.join("lock"), &*clock)?];
    let mut backing: Arc<dyn Backing> = reach(config)?;
    let (log, changes) = look_at_log(dir);
    let asked = |r: io::Result<bool>| r.map_err(|e| format!("backing {}: {e}", config.backing));
    // Ours stays in a backing: an empty directory in its place is a disk or a share that is not mounted.
    if changes && !asked(backing.has_house())? {
        return Err(format!(
            "backing {}: it has no .forelog, so it is not what the log in {} belongs to: is the right disk or share \
             mounted there?",
            config.backing,
            dir.display()
        ));
    }
    if changes && config.read_only && matches!(config.backing, Place::Bucket(_)) {
        return Err(format!(
            "the log in {} holds changes for {}: mount it without --read-only first, so that they are stored",
            dir.display(),
            config.backing
        ));
    }
    let house =
        |r: io::Result<()>| r.map_err(|e| format!("backing {}: preparing it failed: {e}", config.backing));
    house(backing.make_house())?;
    let how = Taking { takeover: config.takeover, log, wall_ns: clock.wall_ns() };
    let lease = backing.lease(how)?;
    house(backing.prepare())?;
    if backing.remote() && !backing.bounded() {
        backing = Arc::new(TimedBacking::new(backing, DEADLINE));
    }
    let began = clock.monotonic_ns();
    let boot = files::boot_id();
    let real = RealDisk::open(dir).map_err(|e| format!("log directory {}: {e}", dir.display()))?;
    let kept = keep(config, &clock, &boot)?;
    let disk: Arc<dyn Disk> = match &kept {
        Some(store) => Arc::new(KeepingDisk::new(real, store.clone())),
        None => Arc::new(real),
    };
    let opened = Volume::open(
        disk,
        backing.clone(),
        clock.clone(),
        pool_limits(config),
        &boot,
        files::random_u128().map_err(|e| format!("reading random bytes failed: {e}"))?,
    )
    .map_err(|e| format!("log {}: {e}", dir.display()))?;
    let took_ms = (clock.monotonic_ns() - began) / 1_000_000;
    lease.set_log(opened.volume.log_tag());
    tell_others(marker::put(&*backing, config, opened.volume.log_tag()));
    tell(&opened.report, took_ms, dir);
    let gateway = assemble(config, opened.volume, clock, lease)?;
    if let Some(store) = kept {
        store.begin(gateway.volume.wal.marks.appended())?;
        if gateway.writeback.kept.set(store).is_err() {
            log::debug!("kept before");
        }
    }
    Ok(Opened { gateway, locks })
}

/// What is kept for undo, if it is asked for; else what an earlier mount kept goes.
fn keep(config: &Config, clock: &Arc<dyn Clock>, boot: &str) -> Result<Option<Arc<Store>>, String> {
    if config.keep_log.is_zero() {
        kept::discard(&config.log_dir)?;
        return Ok(None);
    }
    let room = config.log_size_bytes;
    Store::open(&config.log_dir, config.keep_log, room, clock.clone(), boot).map(Some)
}

/// Opens the backing, without changing anything in it.
fn reach(config: &Config) -> Result<Arc<dyn Backing>, String> {
    Ok(match &config.backing {
        Place::Directory(d) => {
            Arc::new(DirectoryBacking::open(d).map_err(|e| format!("backing {}: {e}", config.backing))?)
        }
        Place::Bucket(url) => {
            let dir = config.log_dir.join("cache");
            // What the log may want at once has room.
            let floor = (config.log_size_bytes / 8).clamp(64 << 20, 1 << 30);
            let room = Room { dir: &dir, bytes: config.cache_bytes, floor };
            let b = BucketBacking::open(url, config.sole_writer, config.read_only, room);
            Arc::new(b.map_err(|e| format!("backing {url}: {e}"))?)
        }
    })
}

/// Number of the log in a directory, and whether it has something that the backing lacks. What cannot be read is for
/// recovery to tell.
fn look_at_log(dir: &Path) -> (Option<u64>, bool) {
    let Ok(disk) = RealDisk::open(dir) else { return (None, false) };
    let Ok(l) = read_log(&disk) else { return (None, false) };
    let last = l.checkpoint.as_ref().map_or(0, |c| c.lsn);
    let changed = l.checkpoint.as_ref().is_some_and(|c| !c.inodes.is_empty());
    let newer = l.scans.iter().any(|s| s.3.records.iter().any(|r| r.header.lsn.0 > last));
    (l.checkpoint.as_ref().map(|c| public_tag(c.log)), changed || newer)
}

fn assemble(
    config: &Config,
    volume: Arc<Volume>,
    clock: Arc<dyn Clock>,
    lease: Box<dyn HeldLease>,
) -> Result<Arc<Gateway>, String> {
    let programs = Arc::new(Programs::new());
    let clients = Arc::new(Clients::default());
    let callers = Callers::new(clients.clone(), programs.clone())
        .map_err(|e| format!("watching processes failed: {e}"))?;
    let fs = Arc::new(Fs::new(volume.clone(), Arc::new(History::new()), clients, config.read_only));
    let settings = super::live::of_writeback(&Live::of(config));
    let writeback = Shared::new(settings);
    let bell = writeback.bell.clone();
    *fs.pressure.wake.lock() = Some(Box::new(move || bell.ring()));
    Ok(Arc::new(Gateway {
        config: config.clone(),
        volume,
        fs,
        callers: Arc::new(callers),
        programs,
        writeback,
        prediction: Mutex::new(Seen::default()),
        recorders: Default::default(),
        series: Default::default(),
        by_program: Default::default(),
        metrics: OnceLock::new(),
        live: super::live::Current::new(Live::of(config)),
        started_ns: clock.monotonic_ns(),
        rate: AtomicU64::new(0),
        mending: Mutex::new(Mending { retry: Retry::new(clock.monotonic_ns()), trouble: None }),
        sign_of_life: Default::default(),
        draining: AtomicBool::new(false),
        transport: OnceLock::new(),
        life: Default::default(),
        hold: Default::default(),
        tree: OnceLock::new(),
        lease: Mutex::new(Some(lease)),
    }))
}

/// A log that a dead gateway left may be forgotten.
fn tell_others(others: io::Result<Vec<Note>>) {
    match others {
        Err(e) => log::warn!("noting this log in the backing failed: {e}"),
        Ok(others) => others.iter().for_each(|n| {
            log::warn!(
                "another log may still hold changes for this backing: {}; mount with it to store them, or remove {} if \
                 that log is gone",
                n.text,
                n.place
            );
        }),
    }
}

fn tell(r: &crate::volume::Report, took_ms: u64, dir: &Path) {
    if r.fresh {
        log::info!("new log in {}", dir.display());
    } else {
        log::info!("log {}: {} records replayed in {took_ms} ms", dir.display(), r.replayed);
    }
    if r.dropped > 0 {
        log::warn!("{} records were left out: the power went before they were durable", r.dropped);
    }
    if let Some(e) = &r.checkpoint_damage {
        log::error!(
            "{e}; its other copy is whole, nothing is lost, both are written anew; is the log's disk failing?"
        );
    }
    for d in r.damage.iter().filter(|d| d.mended) {
        log::error!(
            "log segment {} at {}..{}: {}; nothing is lost; is the log's disk failing?",
            d.segment.0,
            d.start,
            d.end,
            d.what
        );
    }
    for d in r.damage.iter().filter(|d| !d.mended) {
        log::error!(
            "log segment {} is damaged at {}..{}: {}; reads of what it held give EIO",
            d.segment.0,
            d.start,
            d.end,
            d.what
        );
    }
}

/// The log's sizes.
fn pool_limits(c: &Config) -> PoolLimits {
    pool_limits_of(c.log_size_bytes, &Live::of(c))
}

/// The static segment is small enough that a small log still has sixteen of them.
pub fn pool_limits_of(capacity: u64, c: &Live) -> PoolLimits {
    let fit = (capacity / 16).max(1);
    let fit = 1u64 << fit.ilog2();
    let min = c.segment_bytes_min.min(fit).max(64 << 10);
    PoolLimits {
        capacity,
        segment_min: min as u32,
        segment_max: c.segment_bytes_max.min(fit.max(min) * 4).max(min) as u32,
        segment_static: c.segment_bytes.min(fit).max(min) as u32,
    }
}

fn lock(path: &Path, clock: &dyn Clock) -> Result<LockFile, String> {
    LockFile::acquire(path, clock.wall_ns()).map_err(|e| match e {
        LockError::Held(by) => format!("the log is in use: {} {by}; unmount that first", path.display()),
        LockError::Io(e) => format!("locking {} failed: {e}", path.display()),
    })
}

fn restore_times(backing: &dyn Backing, attr: &crate::types::Attr) {
    let change = AttrChange { times: Some((attr.atime, attr.mtime)), ..AttrChange::default() };
    if let Err(e) = backing.set_attr(&BackingPath::root(), Kind::Dir, &change) {
        log::debug!("restoring the backing root's times failed: {e}");
    }
}

/// After a complete drain nothing of ours stays.
pub fn leave_backing(g: &Gateway) -> io::Result<()> {
    let b = &g.volume.backing;
    let attr = match g.volume.cell(InodeId::ROOT) {
        Some(c) => c.read().node.attr,
        None => b.stat(&BackingPath::root())?.attr,
    };
    if let Some(l) = &*g.lease.lock() {
        l.renew();
    }
    marker::remove(&**b, g.volume.log_tag())?;
    b.clean()?;
    if !b.bounded() {
        restore_times(&**b, &attr);
    }
    // What is changed there after the lease is given back could be another's.
    release(g)?;
    if b.bounded() { Ok(()) } else { b.sync(&[], &[BackingPath::root()]) }
}

fn release(g: &Gateway) -> io::Result<()> {
    match &mut *g.lease.lock() {
        Some(l) => l.release(),
        None => Ok(()),
    }
}
