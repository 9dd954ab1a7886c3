//! F4: the writeback: brings the backing to what programs see. One thread loops over `step`.
//!
//! A batch: snapshot the inodes -> make the log durable up to there -> stage new objects and update
//! old ones -> sync them -> log where they are about to go -> install, move, remove -> sync the
//! directories -> log what the backing has now. A crash between any two steps is met again from the
//! log: what is in the backing is never believed newer than what was logged as stored.

mod batch;
mod behind;
mod conflict;
mod hours;
mod keep;
mod names;
mod retry;
mod seen;
mod stage;

pub use retry::Retry;
pub use seen::Seen;

use crate::config::Hours;
use crate::format::mutation::EntryKey;
use crate::kept::Store;
use crate::namespace::places::PARKED;
use crate::sys::limiter::Limiter;
use crate::sys::worker::Bell;
use crate::types::InodeId;
use crate::volume::Volume;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Inodes taken at once.
const BATCH_INODES: usize = 512;
/// Content taken at once.
const BATCH_BYTES: u64 = 64 << 20;
/// Fill of the log from which everything is drained, whatever its age.
const FILL_HIGH: f64 = 0.5;
/// As `FILL_HIGH`, of the inodes in memory. Looking at many files reaches a little of it.
const CROWDED: f64 = 0.25;
/// A checkpoint at least this often while there is something to recycle.
const CHECKPOINT_EVERY_NS: u64 = 10_000_000_000;
/// Fill from which every segment is taken back as soon as it can be.
const FILL_URGENT: f64 = 0.8;
/// Between two checkpoints, times as long as the last one took.
const CHECKPOINT_REST: u64 = 3;
/// But no longer: whoever waits for space gives up after 25 s without any.
const CHECKPOINT_REST_MAX_NS: u64 = 5_000_000_000;

/// What can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A dirty byte is in the backing after at most this.
    pub age: Duration,
    /// Bytes per second to the backing at first, later as `limiter` says; `None`: as fast as it goes.
    pub upload_limit: Option<u64>,
    /// Local hours at which it goes there; `None`: at any time.
    pub hours: Option<Hours>,
    /// Bytes per second at other hours; 0: nothing.
    pub outside: u64,
}

/// What others see of the writeback and ask of it.
pub struct Shared {
    pub bell: Bell,
    pub settings: Mutex<Settings>,
    /// The rate to the backing; it may be changed at any time.
    pub limiter: Arc<Limiter>,
    /// Drain everything, whatever its age.
    draining: AtomicU64,
    pub requests: AtomicU64,
    pub retries: AtomicU64,
    pub errors: AtomicU64,
    pub bytes: AtomicU64,
    /// Set while the backing fails: why.
    pub trouble: Mutex<Option<String>>,
    pub last_error: Mutex<Option<String>>,
    pub conflicts: AtomicU64,
    /// Contents of files brought to the backing.
    pub contents: AtomicU64,
    pub paused: AtomicBool,
    /// No program can reach the mount any more.
    pub closing: AtomicBool,
    parked: AtomicU64,
    in_step: AtomicBool,
    steps: (Mutex<u64>, Condvar),
    /// What is on its way, and what failed.
    pub seen: Mutex<Seen>,
    /// Where old contents are kept for undo, if they are.
    pub kept: OnceLock<Arc<Store>>,
}

impl Shared {
    pub fn new(settings: Settings) -> Arc<Shared> {
        Arc::new(Shared {
            bell: Bell::new(),
            limiter: Arc::new(Limiter::new(settings.upload_limit)),
            settings: Mutex::new(settings),
            draining: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            trouble: Mutex::new(None),
            last_error: Mutex::new(None),
            conflicts: AtomicU64::new(0),
            contents: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            parked: AtomicU64::new(0),
            in_step: AtomicBool::new(false),
            steps: Default::default(),
            seen: Default::default(),
            kept: OnceLock::new(),
        })
    }

    /// Asks for everything to be drained, until the guard is dropped.
    pub fn drain(self: &Arc<Self>) -> Draining {
        self.draining.fetch_add(1, Ordering::AcqRel);
        self.bell.ring();
        Draining(self.clone())
    }
    /// Objects parked in the backing, as of the last step.
    pub fn parked(&self) -> u64 {
        self.parked.load(Ordering::Acquire)
    }
    /// True while inodes may be out of the queue and not in the backing yet.
    pub fn in_step(&self) -> bool {
        self.in_step.load(Ordering::SeqCst)
    }
    /// True while someone wants everything drained.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire) > 0
    }
    /// Waits for the end of a step, or the timeout.
    pub fn wait_step(&self, at_most: Duration) {
        let (m, c) = &self.steps;
        let mut g = m.lock();
        c.wait_for(&mut g, at_most);
    }
    fn stepped(&self) {
        let (m, c) = &self.steps;
        *m.lock() += 1;
        c.notify_all();
    }
}

/// While it lives, everything is drained.
pub struct Draining(Arc<Shared>);

impl Drop for Draining {
    fn drop(&mut self) {
        self.0.draining.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The writeback's own state.
pub struct Writeback {
    volume: Arc<Volume>,
    shared: Arc<Shared>,
    retry: Retry,
    /// Names of the backing that were changed there and not logged yet.
    changed: HashSet<EntryKey>,
    /// Names for staged objects.
    next_name: u64,
    /// A sync of the log failed in this batch.
    log_failed: bool,
    /// When the last checkpoint ended, and how long it took.
    checkpoint_ns: u64,
    checkpoint_took_ns: u64,
    /// The backing keeps to the upload limit by itself.
    backing_paces: bool,
    gate: hours::Gate,
    memory: keep::Memory,
}

/// A file that was truncated may take this long to be whole again, whatever else wants its room in the log.
const REWRITING_LEAST: Duration = Duration::from_secs(2);

impl Writeback {
    pub fn new(volume: Arc<Volume>, shared: Arc<Shared>) -> Writeback {
        let seed = volume.clock.monotonic_ns();
        let backing_paces = volume.backing.pace(&shared.limiter);
        Writeback {
            volume,
            shared,
            retry: Retry::new(seed),
            changed: HashSet::new(),
            next_name: 0,
            log_failed: false,
            checkpoint_ns: 0,
            checkpoint_took_ns: 0,
            backing_paces,
            gate: hours::Gate::default(),
            memory: keep::Memory::default(),
        }
    }

    /// Does what is due. Returns how long to wait until the next step if nobody rings.
    pub fn step(&mut self) -> Duration {
        self.shared.in_step.store(true, Ordering::SeqCst);
        let wait = self.step_inner();
        let parked = self.volume.places.read().below(PARKED).count() as u64;
        self.shared.parked.store(parked, Ordering::Release);
        self.shared.in_step.store(false, Ordering::SeqCst);
        self.shared.stepped();
        wait
    }

    fn step_inner(&mut self) -> Duration {
        let now = self.volume.clock.monotonic_ns();
        let idle = Duration::from_millis(200);
        if let Some(wait) = self.retry.wait(now) {
            self.recycle(now);
            return wait.min(idle);
        }
        if self.volume.is_lost() {
            return idle;
        }
        if self.shared.paused.load(Ordering::Acquire) && !self.shared.is_draining() {
            return idle;
        }
        let pass = self.pass();
        let full = self.is_tight();
        if full {
            self.volume.wal.seal_older(200_000_000);
        }
        let open = matches!(pass, hours::Pass::Open(_));
        let taken = match open {
            true => self.volume.dirty.take(BATCH_INODES, self.due_before(full)),
            false => self.volume.dirty.take_first(BATCH_INODES),
        };
        let (waiting, items): (Vec<_>, Vec<_>) =
            taken.into_iter().partition(|t| self.waits_for_rewriting(t.1));
        waiting.into_iter().for_each(|(since, ino)| self.volume.dirty.requeue(since, ino));
        let mut more = false;
        let parked = || open && !self.idle_parked(self.shared.closing.load(Ordering::Acquire)).is_empty();
        if !items.is_empty() || parked() {
            if self.keeps() {
                let now = self.volume.clock.wall_ns();
                self.memory.batch(now, self.volume.dirty.oldest_ns(), &items);
            }
            more = self.batch(items);
            self.shared.seen.lock().current.clear();
        }
        self.recycle(self.volume.clock.monotonic_ns());
        if more { Duration::ZERO } else { idle }
    }

    /// True for a file that was truncated lately and is not whole yet: its old content is the backing's until it
    /// is. When it took too long, or the log's room or a drain want it, it counts as whole.
    fn waits_for_rewriting(&self, ino: InodeId) -> bool {
        let Some(since) = self.volume.rewriting_since(ino) else { return false };
        let age = self.shared.settings.lock().age.max(REWRITING_LEAST);
        let most = if self.is_tight() { REWRITING_LEAST } else { age };
        let waited = self.volume.clock.wall_ns().saturating_sub(since);
        let waits = (0..most.as_nanos().min(i64::MAX as u128) as i64).contains(&waited);
        if waits && !self.shared.is_draining() {
            return true;
        }
        log::debug!("inode {ino}: written anew for {} ms, counts as whole", waited / 1_000_000);
        if let Err(e) = self.volume.settle_rewriting(ino) {
            log::warn!("inode {ino}: giving up its old content: {e}");
            return true;
        }
        false
    }

    /// Inodes dirty since before this wall clock time are due.
    fn due_before(&self, full: bool) -> i64 {
        let now = self.volume.clock.wall_ns();
        if full || self.shared.is_draining() {
            return i64::MAX;
        }
        // A margin, so that the bytes are there by the promised age.
        let age = self.shared.settings.lock().age.mul_f64(0.9);
        let due = now.saturating_sub(age.as_nanos().min(i64::MAX as u128) as i64);
        // A clock set back makes things seem to come from the future: those are due as well.
        match self.volume.dirty.first_ns() {
            Some(t) if t > now.saturating_add(60_000_000_000) => t,
            _ => due,
        }
    }

    /// What may go to the backing at this hour.
    fn pass(&mut self) -> hours::Pass {
        let settings = self.shared.settings.lock().clone();
        let minute = settings.hours.as_ref().map_or(0, |_| self.volume.clock.local_minute());
        let (fill, crowding) = (self.fill(), self.volume.crowding());
        let draining = self.shared.is_draining() || self.shared.closing.load(Ordering::Acquire);
        let now = hours::Now { minute, fill, crowding, draining };
        let (pass, note) = self.gate.look(&settings, now);
        let mut seen = self.shared.seen.lock();
        (seen.note, seen.shut) = (note, matches!(pass, hours::Pass::Chosen(_)));
        if self.shared.limiter.rate() != pass.rate() {
            self.shared.limiter.set_rate(pass.rate());
        }
        pass
    }

    fn fill(&self) -> f64 {
        let pool = &self.volume.wal.pool;
        pool.counts().busy_bytes as f64 / pool.limits.capacity.max(1) as f64
    }

    /// The log or the memory for files with changes is filling up.
    fn is_tight(&self) -> bool {
        self.fill() > FILL_HIGH || self.volume.crowding() > CROWDED
    }

    /// Takes a checkpoint when enough segments could be recycled by it.
    fn recycle(&mut self, now: u64) {
        let idle = self.reclaimable();
        if idle == 0 {
            self.volume.wal.nudge_epochs();
            return;
        }
        let capacity = self.volume.wal.pool.limits.capacity;
        let last = self.shared.is_draining() && self.volume.dirty.is_empty();
        let worth = idle >= capacity / 16
            || idle >= capacity / 64 && self.fill() > FILL_HIGH
            || self.fill() > FILL_URGENT
            || now.saturating_sub(self.checkpoint_ns) > CHECKPOINT_EVERY_NS;
        // With many files that wait it takes long: most of the time is for them.
        let rest = (CHECKPOINT_REST * self.checkpoint_took_ns).min(CHECKPOINT_REST_MAX_NS);
        let rested = now.saturating_sub(self.checkpoint_ns) >= rest;
        if last || worth && rested {
            if let Err(e) = self.volume.checkpoint() {
                log::error!("taking a checkpoint failed: {e}; the log keeps its segments");
            }
            self.checkpoint_ns = self.volume.clock.monotonic_ns();
            self.checkpoint_took_ns = self.checkpoint_ns.saturating_sub(now);
        }
    }

    /// Bytes of sealed segments that hold nothing live.
    fn reclaimable(&self) -> u64 {
        self.volume.wal.idle_sealed_bytes()
    }

    fn name(&mut self, ino: InodeId) -> String {
        self.next_name += 1;
        format!("{:x}-{:x}", ino.0, self.next_name)
    }

    /// Notes a failure of the backing: what failed, and why.
    fn failed(&self, what: &str, e: &dyn std::fmt::Display) {
        self.shared.errors.fetch_add(1, Ordering::Relaxed);
        let line = format!("{what}: {e}");
        log::warn!("writeback: {line}");
        *self.shared.last_error.lock() = Some(line);
    }
}
