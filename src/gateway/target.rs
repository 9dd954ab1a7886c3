//! What the control channel asks of the gateway.

use super::{Ending, Gateway, still_mounted};
use crate::config::Live;
use crate::control::series::SeriesPart;
use crate::control::{ControlTarget, Progress, QueueView, SampleBatch, Status, Verdict};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long files that were just closed may still count as open.
const CLOSES_MS: u64 = 300;

/// EBUSY.
const BUSY: i32 = 16;

/// The gateway behind the control channel.
pub struct Target {
    gateway: Weak<Gateway>,
}

impl Target {
    pub fn new(gateway: &Arc<Gateway>) -> Arc<Target> {
        Arc::new(Target { gateway: Arc::downgrade(gateway) })
    }
}

fn gone() -> Verdict {
    Verdict::refused("the gateway is ending")
}

impl Gateway {
    fn progress(&self, bytes_left: u64) -> Progress {
        let rate = self.rate.load(Ordering::Relaxed);
        Progress {
            bytes_left,
            files_left: self.volume.dirty.len() as u64,
            bytes_per_second: rate,
            eta_seconds: (rate > 0).then(|| bytes_left as f64 / rate as f64),
        }
    }

    /// Everything that was written before is in the backing, or the time is up.
    fn flush(&self, deadline_ms: Option<u64>, progress: &mut dyn FnMut(Progress)) -> Verdict {
        let asked = self.volume.clock.wall_ns();
        let start = self.volume.clock.monotonic_ns();
        let _draining = self.writeback.drain();
        loop {
            // What became dirty after the question is not part of it.
            let older = |t: Option<i64>| t.is_some_and(|t| t <= asked);
            if !older(self.volume.dirty.oldest_ns())
                && !self.writeback.in_step()
                && !older(self.volume.dirty.oldest_ns())
            {
                return Verdict::done("");
            }
            if let Some(why) = self.taken_over() {
                return Verdict::remains(why);
            }
            let spent_ms = (self.volume.clock.monotonic_ns() - start) / 1_000_000;
            if deadline_ms.is_some_and(|d| spent_ms >= d) {
                let why = self.writeback.trouble.lock().clone().map(|t| format!("; {t}")).unwrap_or_default();
                return Verdict::remains(format!(
                    "{} bytes are still only in the log{why}",
                    self.bytes_left()
                ));
            }
            progress(self.progress(self.bytes_left()));
            self.writeback.wait_step(Duration::from_millis(100));
        }
    }

    fn umount(&self, deadline_ms: Option<u64>, no_wait: bool, progress: &mut dyn FnMut(Progress)) -> Verdict {
        let dir = self.config.mountpoint.display();
        // The kernel tells of a close only after it has returned to the program.
        let mut open = self.fs.open_handles();
        for _ in 0..CLOSES_MS / 10 {
            if open == 0 {
                break;
            }
            crate::sys::worker::sleep(Duration::from_millis(10));
            open = self.fs.open_handles();
        }
        if open > 0 {
            return Verdict::refused(format!("{dir} is busy: {open} files are open there; close them first"));
        }
        self.draining.store(true, Ordering::Release);
        let limit = deadline_ms.map_or(self.live.get().umount_timeout, Duration::from_millis);
        let drained = !no_wait && self.drain(Some(limit), &mut |left| progress(self.progress(left)));
        // Somebody else's umount may have come meanwhile, which is being seen to.
        let ended = self.life.0.lock().ending.is_some();
        if !ended && let Err(e) = self.unmount(false) {
            self.draining.store(false, Ordering::Release);
            return Verdict::refused(match e.raw_os_error() {
                Some(BUSY) => format!("{dir} is busy: a file or working directory is in use there"),
                _ => format!("unmounting {dir} failed: {e}"),
            });
        }
        self.end(Ending::Unmounted { drained });
        let (m, c) = &self.life;
        let mut l = m.lock();
        loop {
            if let Some(v) = &l.over {
                return v.clone();
            }
            c.wait_for(&mut l, Duration::from_millis(100));
        }
    }
}

impl ControlTarget for Target {
    fn status(&self) -> Status {
        self.gateway.upgrade().map(|g| g.status()).unwrap_or_default()
    }

    fn flush(
        &self,
        _paths: &[Vec<u8>],
        deadline_ms: Option<u64>,
        progress: &mut dyn FnMut(Progress),
    ) -> Verdict {
        self.gateway.upgrade().map_or_else(gone, |g| g.flush(deadline_ms, progress))
    }

    fn umount(&self, deadline_ms: Option<u64>, no_wait: bool, progress: &mut dyn FnMut(Progress)) -> Verdict {
        self.gateway.upgrade().map_or_else(gone, |g| g.umount(deadline_ms, no_wait, progress))
    }

    fn record(&self, each: &mut dyn FnMut(SampleBatch) -> bool) -> Verdict {
        let Some(g) = self.gateway.upgrade() else { return gone() };
        g.recorders.record(&g.fs.history, &|| g.life.0.lock().ending.is_some(), each)
    }

    fn series(&self, minutes: bool, after: u64) -> Vec<SeriesPart> {
        self.gateway.upgrade().map_or_else(Vec::new, |g| g.series(minutes, after))
    }

    fn set(&self, expected: &Live, wanted: &Live) -> Verdict {
        self.gateway.upgrade().map_or_else(gone, |g| g.set(expected, wanted))
    }

    fn queue(&self, limit: usize) -> QueueView {
        self.gateway.upgrade().map(|g| g.queue(limit)).unwrap_or_default()
    }

    fn bump(&self, path: &[u8]) -> Verdict {
        self.gateway.upgrade().map_or_else(gone, |g| g.bump(path))
    }

    fn leaving(&self) -> bool {
        self.gateway.upgrade().is_none_or(|g| g.life.0.lock().ending.is_some() && !still_mounted(&g.config))
    }
}
