//! The predict flow: samples -> history -> forecast -> plan -> the log reads it.

use super::Gateway;
use super::awake::Awake;
use super::open::pool_limits_of;
use crate::config::{Live, Predict};
use crate::history::{Pattern, Sample};
use crate::predict::{Choice, Forecast, ManagerConfig, PredictiveLogManager};
use crate::segmenter::{self, Costs, Limits, OwnerState, PoolState, SegmentPool, Segmenter};
use crate::sys::files;
use crate::sys::worker::spawn;
use crate::volume::Volume;
use crate::wal::{Owner, PoolLimits};
use hdrhistogram::Histogram;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

/// The kept Write Pattern History, in the log directory.
const HISTORY: &str = "history";
/// Beside it, for each model that learns, what it learned: `weights.<model>`.
const WEIGHTS: &str = "weights.";
/// How often it is kept while mounted; at the end in any case.
const KEEP_EVERY_NS: u64 = 60_000_000_000;

/// What `status` says of the prediction.
pub struct Seen {
    pub forecast: Forecast,
    pub ticks: Histogram<u32>,
}

impl Default for Seen {
    fn default() -> Self {
        // Bounds are constant and valid: 1 ns to 10 s.
        let ticks = Histogram::new_with_bounds(1, 10_000_000_000, 2).expect("constant bounds are valid");
        Seen { forecast: Forecast::none(1_000_000_000), ticks }
    }
}

/// The predictor thread's state.
pub struct Planner {
    gateway: Arc<Gateway>,
    manager: PredictiveLogManager,
    segmenter: Segmenter,
    samples: Vec<Sample>,
    last_cost_ns: u64,
    fallback: Option<String>,
    /// When the history was kept last; `None` before the one of the last mount was taken up.
    kept_ns: Option<u64>,
    historian: Option<JoinHandle<()>>,
    awake: Awake,
    /// The settings that it goes by.
    live: Live,
}

fn choice_of(p: &Predict) -> Choice {
    match p {
        Predict::Auto => Choice::Auto,
        Predict::Off => Choice::Off,
        // Names were checked against the list of models.
        Predict::Model(name) => Choice::parse(name).unwrap_or(Choice::Auto),
    }
}

/// Bounds of the segments, within those that the log was opened with.
fn limits_of(live: &Live, pool: &PoolLimits) -> Limits {
    let now = pool_limits_of(pool.capacity, live);
    let (min, max) = (now.segment_min.max(pool.segment_min), now.segment_max.min(pool.segment_max));
    Limits {
        segment_bytes_static: now.segment_static.clamp(pool.segment_min, pool.segment_max) as u64,
        segment_bytes_min: min.min(max) as u64,
        segment_bytes_max: max as u64,
        reserve_bytes_max: live.reserve_bytes_max.min(pool.capacity / 4),
        floor_bytes: segmenter::FLOOR_BYTES,
        seal_after_ns: live.seal_after.as_nanos() as u64,
        ..Limits::default()
    }
}

fn owner(o: Owner) -> segmenter::Owner {
    match o {
        Owner::Shared => segmenter::Owner::Shared,
        Owner::Client(c) => segmenter::Owner::Client(c),
    }
}

fn wal_owner(o: segmenter::Owner) -> Owner {
    match o {
        segmenter::Owner::Shared => Owner::Shared,
        segmenter::Owner::Client(c) => Owner::Client(c),
    }
}

impl Planner {
    pub fn new(gateway: &Arc<Gateway>) -> Planner {
        let c = &gateway.config;
        let live = gateway.live.get();
        let limits = limits_of(&live, &gateway.volume.wal.pool.limits);
        let config = ManagerConfig {
            interval_ns: c.predict_interval.as_nanos() as u64,
            seal_after_ns: limits.seal_after_ns,
            static_bytes: limits.static_bytes(),
            choice: choice_of(&live.predict),
            ..ManagerConfig::default()
        };
        Planner {
            gateway: gateway.clone(),
            manager: PredictiveLogManager::new(config),
            segmenter: Segmenter::new(Costs::default(), limits),
            samples: Vec::new(),
            last_cost_ns: 0,
            fallback: None,
            kept_ns: None,
            historian: None,
            awake: Awake::new(live.idle),
            live,
        }
    }

    /// Takes up settings that were changed.
    fn follow(&mut self) {
        let now = self.gateway.live.get();
        if now == self.live {
            return;
        }
        let limits = limits_of(&now, &self.gateway.volume.wal.pool.limits);
        self.manager.set_seal_after(limits.seal_after_ns);
        *self.segmenter.limits_mut() = limits;
        if now.predict != self.live.predict {
            self.manager.set_choice(choice_of(&now.predict));
        }
        if now.idle != self.live.idle {
            self.awake = Awake::new(now.idle);
        }
        self.live = now;
    }

    /// Takes up what the last mount kept, so that a restart is not a cold start. What cannot be read is dropped with a line.
    fn warm_up(&mut self) {
        let g = &self.gateway;
        let (clock, file) = (&g.volume.clock, g.config.log_dir.join(HISTORY));
        let bytes = match files::read(&file) {
            Ok(b) => b,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => return log::warn!("{}: {e}; the prediction starts without a history", file.display()),
        };
        let (pattern, why) = Pattern::load(&bytes, &g.programs, clock.monotonic_ns(), clock.wall_ns());
        match why {
            Some(why) => log::warn!("{}: {why}", file.display()),
            None => {
                self.restore_weights();
                self.manager.warm_up(pattern);
            }
        }
    }

    /// Gives the models that learn what they learned. Those that cannot be read start anew, and say so.
    fn restore_weights(&mut self) {
        let mut kept = Vec::new();
        for (name, _) in self.manager.weights() {
            let file = self.gateway.config.log_dir.join(format!("{WEIGHTS}{name}"));
            match files::read(&file) {
                Ok(bytes) => kept.push((name, bytes)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => log::warn!("{}: {e}; the model starts anew", file.display()),
            }
        }
        self.manager.restore_weights(&kept);
    }

    /// The history and the weights as they are to be kept.
    fn image(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let g = &self.gateway;
        let (clock, dir) = (&g.volume.clock, &g.config.log_dir);
        let history = self.manager.pattern().save(&g.programs, clock.monotonic_ns(), clock.wall_ns());
        let weights = self.manager.weights().into_iter();
        let weights = weights.map(|(name, bytes)| (dir.join(format!("{WEIGHTS}{name}")), bytes));
        weights.chain([(dir.join(HISTORY), history)]).collect()
    }

    /// Whether the last writing of the history has ended: two at once would get in each other's way.
    fn is_kept(&self) -> bool {
        self.historian.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// One tick: what was written -> what will be -> segments for it.
    pub fn tick(&mut self) {
        self.follow();
        let clock = self.gateway.volume.clock.clone();
        let now = clock.monotonic_ns();
        self.awake.tick(self.gateway.fs.meter.asked(), self.gateway.config.predict_interval);
        match self.kept_ns {
            None => {
                self.warm_up();
                self.kept_ns = Some(now);
            }
            Some(then) if now.saturating_sub(then) >= KEEP_EVERY_NS => {
                self.kept_ns = Some(now);
                // A disk that hangs must not hold up the ticks.
                if self.is_kept() {
                    let image = self.image();
                    match spawn("historian", move || keep(&image)) {
                        Ok(h) => self.historian = Some(h),
                        Err(e) => log::warn!("starting a thread failed: {e}"),
                    }
                }
            }
            Some(_) => {}
        }
        let start = clock.monotonic_ns();
        for (program, parent) in self.gateway.programs.take_parents() {
            self.manager.set_parent(program, parent);
        }
        self.samples.clear();
        self.gateway.fs.history.drain(&mut self.samples);
        self.gateway.recorders.feed(&self.samples);
        let forecast = self.manager.tick(start, &self.samples, self.last_cost_ns);
        self.last_cost_ns = clock.monotonic_ns() - start;
        let why = forecast.fallback.as_ref().map(ToString::to_string);
        if why.is_some() != self.fallback.is_some() {
            match &why {
                Some(w) => log::info!("prediction falls back to static segments: {w}"),
                None => log::info!("prediction by {} takes over", forecast.model),
            }
        }
        self.fallback = why;
        let pool = LogPool { volume: &self.gateway.volume, gateway: &self.gateway };
        self.segmenter.step(start, &forecast, &pool);
        let mut seen = self.gateway.prediction.lock();
        seen.ticks.saturating_record(self.last_cost_ns.max(1));
        seen.forecast = forecast;
    }
}

impl Drop for Planner {
    fn drop(&mut self) {
        if self.kept_ns.is_some() && self.is_kept() {
            keep(&self.image());
        }
    }
}

fn keep(image: &[(PathBuf, Vec<u8>)]) {
    for (file, bytes) in image {
        if let Err(e) = files::write_atomic(file, bytes, 0o600) {
            log::warn!("{}: keeping the write pattern history failed: {e}", file.display());
            return;
        }
    }
}

/// The log as the segmenter sees it.
struct LogPool<'a> {
    volume: &'a Volume,
    gateway: &'a Gateway,
}

impl SegmentPool for LogPool<'_> {
    fn state(&self) -> PoolState {
        let wal = &self.volume.wal;
        let now = self.volume.clock.monotonic_ns();
        let mut owners: HashMap<segmenter::Owner, OwnerState> = HashMap::new();
        let shared = OwnerState {
            segment_bytes: wal.static_bytes() as u64,
            appended_bytes: wal.shared_appended.load(Ordering::Relaxed),
            ..OwnerState::new(segmenter::Owner::Shared)
        };
        owners.insert(segmenter::Owner::Shared, shared);
        for o in wal.open_segments() {
            let s = owners.entry(owner(o.owner)).or_insert_with(|| OwnerState::new(owner(o.owner)));
            s.room_bytes += o.room_bytes;
            s.open_age_ns = o.first_ns.map(|f| now.saturating_sub(f));
        }
        for (o, size) in wal.pool.reserved() {
            let s = owners.entry(owner(o)).or_insert_with(|| OwnerState::new(owner(o)));
            match s.ready.iter_mut().find(|r| r.0 == size as u64) {
                Some(r) => r.1 += 1,
                None => s.ready.push((size as u64, 1)),
            }
        }
        for s in owners.values_mut() {
            if let segmenter::Owner::Client(id) = s.owner
                && let Some(c) = self.gateway.fs.clients.get(id)
            {
                s.segment_bytes = c.slot.segment_bytes() as u64;
                s.appended_bytes = c.slot.appended_bytes.load(Ordering::Relaxed);
            }
        }
        let missed = wal.pool.misses.load(std::sync::atomic::Ordering::Relaxed);
        PoolState { owners: owners.into_values().collect(), missed }
    }

    fn reserve(&self, o: segmenter::Owner, class_bytes: u64) -> io::Result<Option<u64>> {
        let start = self.volume.clock.monotonic_ns();
        let made = self.volume.wal.pool.reserve(wal_owner(o), class_bytes as u32)?;
        Ok(made.then(|| self.volume.clock.monotonic_ns() - start))
    }

    fn release(&self, o: segmenter::Owner, class_bytes: u64) {
        self.volume.wal.pool.release(wal_owner(o), class_bytes as u32);
    }

    fn resize(&self, o: segmenter::Owner, class_bytes: u64) {
        match o {
            segmenter::Owner::Shared => self.volume.wal.set_static_bytes(class_bytes as u32),
            segmenter::Owner::Client(id) => {
                if let Some(c) = self.gateway.fs.clients.get(id) {
                    c.slot.set_segment_bytes(class_bytes as u32);
                }
            }
        }
    }
}
