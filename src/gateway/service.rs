//! What a service manager hears of a gateway in front: what it does, that it still answers, that a drain gets more time.

use super::Gateway;
use crate::control::render::bytes;
use crate::control::status::State;
use crate::sys::notify::{notify, wanted, watchdog};
use crate::sys::pulse::Pulse;
use crate::sys::worker::{Bell, Worker};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(1);

/// A drain that still runs is given this much from now on; `--umount-timeout` is what ends it.
const EXTENSION: Duration = Duration::from_secs(30);

/// What is said before the log is open.
pub fn opening() {
    tell("STATUS=opening the backing and the log");
}

/// The thread that tells; it ends when this is dropped.
pub struct Service {
    _worker: Worker,
}

/// Starts telling, if somebody listens.
pub fn start(g: &Arc<Gateway>) -> Option<Service> {
    if !wanted() {
        return None;
    }
    let limit = watchdog();
    let pulse = limit.and_then(|l| match Pulse::start(&g.config.mountpoint, l / 8) {
        Ok(p) => Some(p),
        Err(e) => {
            log::warn!("{}: no signs of life are given: {e}", g.config.mountpoint.display());
            None
        }
    });
    let period = limit.map_or(PERIOD, |l| PERIOD.min(l / 4)).max(Duration::from_millis(10));
    let (g, mut said) = (g.clone(), String::new());
    let step = move || {
        let ending = g.draining.load(Ordering::Acquire);
        let mut text = String::new();
        let now = g.in_a_line();
        if now != said {
            text = format!("STATUS={now}\n");
            said = now;
        }
        if ending {
            text += &format!("EXTEND_TIMEOUT_USEC={}\n", EXTENSION.as_micros());
        }
        if let (Some(p), Some(limit)) = (&pulse, limit) {
            p.rest(ending);
            // Programs' requests are answered, or it ends: then that this line was reached must do.
            if ending || p.age() < limit / 2 {
                text += "WATCHDOG=1\n";
            }
        }
        if !text.is_empty() {
            tell(text.trim_end());
        }
    };
    match Worker::every("service", period, Bell::new(), step) {
        Ok(worker) => Some(Service { _worker: worker }),
        Err(e) => {
            log::warn!("the service manager is told nothing: {e}");
            None
        }
    }
}

fn tell(text: &str) {
    if let Err(e) = notify(text) {
        log::debug!("cannot tell the service manager: {e}");
    }
}

impl Gateway {
    /// State and backlog in one line.
    fn in_a_line(&self) -> String {
        let (state, reason) = self.state();
        let left = match (self.volume.dirty_bytes(), self.volume.dirty.len()) {
            (_, 0) if self.is_drained() => "everything is stored".to_owned(),
            (_, 0) => "the last of it is being stored".to_owned(),
            (n, 1) => format!("{} in 1 file left to store", bytes(n)),
            (n, files) => format!("{} in {files} files left to store", bytes(n)),
        };
        let why = reason.map(|r| format!("; {}", r.replace('\n', " "))).unwrap_or_default();
        let state = match state {
            State::Serving => "serving",
            State::Draining => "draining",
            State::Degraded => "degraded",
            State::Stopped => "stopped",
        };
        format!("{state}: {left}{why}")
    }
}
