//! The gateway's threads.

use super::Gateway;
use super::plan::Planner;
use super::series::Sampler;
use crate::sys::limits::short_turns;
use crate::sys::worker::{Bell, Worker, spawn};
use crate::writeback::Writeback;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// fdatasync calls that may run at a time.
const COMMITTERS: usize = 4;

/// Priority of the thread that makes segments ready.
const PREDICTOR_NICE: i32 = 5;

/// How long a call of the backing may hold up the end of the gateway.
const HANGS_AFTER_MS: u64 = 5_000;

/// All running threads.
pub struct Workers {
    gateway: Arc<Gateway>,
    committers: Vec<JoinHandle<()>>,
    writeback: JoinHandle<()>,
    others: Vec<Worker>,
}

/// Starts them.
pub fn start(g: &Arc<Gateway>) -> io::Result<Workers> {
    let committers = g.volume.wal.start_committers(COMMITTERS)?;
    let writeback = {
        let (volume, shared) = (g.volume.clone(), g.writeback.clone());
        spawn("writeback", move || {
            let mut w = Writeback::new(volume, shared.clone());
            let mut wait = Duration::ZERO;
            while shared.bell.wait(wait) {
                wait = w.step();
            }
        })?
    };
    let mut planner = Planner::new(g);
    let mut polite = false;
    let tick_planner = move || {
        // It fills segments with zeros: behind those who write.
        if !std::mem::replace(&mut polite, true) {
            short_turns(PREDICTOR_NICE);
        }
        planner.tick()
    };
    let predictor = Worker::every("predictor", g.config.predict_interval, Bell::new(), tick_planner)?;
    let commit = {
        let g = g.clone();
        let (bell, timer) = (g.live.committing.clone(), g.clone());
        Worker::paced("commit", move || timer.live.get().commit_interval, bell, move || commit(&g))?
    };
    let tick = {
        let g = g.clone();
        let mut last = (g.volume.clock.monotonic_ns(), 0);
        Worker::every("ticker", Duration::from_millis(250), Bell::new(), move || tick(&g, &mut last))?
    };
    let reaper = {
        let g = g.clone();
        Worker::every("reaper", Duration::from_millis(1), Bell::new(), move || reap(&g))?
    };
    let namer = {
        let g = g.clone();
        Worker::every("namer", Duration::from_millis(50), Bell::new(), move || g.callers.complete())?
    };
    let mender = {
        let g = g.clone();
        Worker::every("mender", Duration::from_millis(50), Bell::new(), move || mend(&g))?
    };
    let mut sampler = Sampler::new(g);
    let sampler = Worker::every("series", Duration::from_secs(1), Bell::new(), move || sampler.step())?;
    let others = vec![predictor, commit, tick, reaper, namer, mender, sampler];
    Ok(Workers { gateway: g.clone(), committers, writeback, others })
}

impl Workers {
    /// Stops them, the committers last: the others may still wait for a sync.
    pub fn stop(self) {
        self.others.into_iter().for_each(Worker::stop);
        self.gateway.writeback.bell.stop();
        self.gateway.writeback.limiter.stop();
        // A backing that hangs in a call must not keep the gateway: the log has all of it.
        for _ in 0..HANGS_AFTER_MS / 10 {
            if self.writeback.is_finished() {
                break;
            }
            crate::sys::worker::sleep(Duration::from_millis(10));
        }
        if !self.writeback.is_finished() {
            log::warn!("the backing hangs in a call; what is not stored stays in the log");
            return;
        }
        if self.writeback.join().is_err() {
            log::error!("the writeback thread panicked");
        }
        self.gateway.volume.wal.stop_committers();
        for c in self.committers {
            if c.join().is_err() {
                log::error!("a committer thread panicked");
            }
        }
    }
}

/// Bounds what a power cut can take from those who never sync.
fn commit(g: &Gateway) {
    g.volume.wal.sync_all(Box::new(|r| {
        if let Err(e) = r {
            log::warn!("the periodic sync of the log failed: errno {}", e.0);
        }
    }));
}

/// Writes segments anew whose sync failed (law 4), with waits between the tries.
fn mend(g: &Gateway) {
    if g.volume.wal.committer.latched.load(Ordering::Acquire) == 0 {
        return;
    }
    let now = g.volume.clock.monotonic_ns();
    if g.mending.lock().retry.wait(now).is_some() {
        return;
    }
    let outcome = g.volume.mend();
    let mut m = g.mending.lock();
    match outcome {
        Ok(n) => {
            m.retry.succeeded();
            m.trouble = None;
            if n > 0 {
                log::warn!("{n} log segments were written to other files and verified: fsync works again");
            }
        }
        Err((segment, e)) => {
            m.retry.failed(now);
            log::error!("writing log segment {} to another file failed, trying again: {e}", segment.0);
            m.trouble = Some(e.to_string());
        }
    }
}

fn tick(g: &Gateway, last: &mut (u64, u64)) {
    if let Some(f) = g.volume.backing.fence() {
        f.tick();
    }
    g.volume.wal.seal_older(g.live.get().seal_after.as_nanos() as u64);
    g.volume.wal.nudge_epochs();
    // Without room on the device it is tried again with the next tick.
    g.volume.wal.pool.fill_spare().unwrap_or_else(|e| log::debug!("the log's headroom: {e}"));
    if let Some(kept) = g.writeback.kept.get() {
        let pool = &g.volume.wal.pool;
        let capacity = pool.limits.capacity;
        let room = capacity.saturating_sub(pool.counts().allocated_bytes);
        // So much stays free for others on the device.
        kept.tick(room, capacity / 16);
    }
    g.hangs();
    let now = g.volume.clock.monotonic_ns();
    let stored = g.writeback.bytes.load(Ordering::Relaxed);
    let span = now.saturating_sub(last.0);
    if span >= 1_000_000_000 {
        let rate = ((stored - last.1) as u128 * 1_000_000_000 / span as u128) as u64;
        // Smoothed over a few seconds.
        let old = g.rate.load(Ordering::Relaxed);
        g.rate.store((old * 2 + rate) / 3, Ordering::Relaxed);
        *last = (now, stored);
    }
}

fn reap(g: &Gateway) {
    for c in g.callers.reap(Duration::from_millis(200)) {
        g.volume.wal.retire_client(&c.slot);
    }
}
