//! The settings that may change while the mount serves, and their changing.

use super::Gateway;
use crate::config::{Live, size_text};
use crate::control::Verdict;
use crate::sys::logging;
use crate::sys::worker::Bell;
use crate::writeback;
use parking_lot::Mutex;

/// The settings as they are.
pub struct Current {
    live: Mutex<Live>,
    /// Whom the commit interval concerns.
    pub committing: Bell,
}

impl Current {
    pub fn new(live: Live) -> Current {
        Current { live: Mutex::new(live), committing: Bell::new() }
    }
    /// As they are now.
    pub fn get(&self) -> Live {
        self.live.lock().clone()
    }
}

/// What of them the writeback goes by.
pub fn of_writeback(l: &Live) -> writeback::Settings {
    writeback::Settings {
        age: l.writeback_age,
        upload_limit: l.upload_limit,
        hours: l.upload_hours.clone(),
        outside: l.upload_outside,
    }
}

impl Gateway {
    /// Changes settings, all or none, if they still are as expected. They count at once.
    pub(super) fn set(&self, expected: &Live, wanted: &Live) -> Verdict {
        let mut live = self.live.live.lock();
        if *live != *expected {
            return Verdict { code: 2, message: crate::control::CHANGED_MEANWHILE.into() };
        }
        if let Err(why) = self.may_become(&live, wanted) {
            return Verdict::refused(why);
        }
        let changes = live.changes(wanted);
        *live = wanted.clone();
        drop(live);
        *self.writeback.settings.lock() = of_writeback(wanted);
        // Also what is under way keeps to it; with hours the next batch does.
        if wanted.upload_hours.is_none() {
            self.writeback.limiter.set_rate(wanted.upload_limit);
        }
        if changes.iter().any(|c| c.0 == "log-level") {
            logging::set(wanted.log_level);
        }
        for (key, was, is) in &changes {
            log::info!("{key} is {is} from now on, was {was}");
        }
        self.live.committing.ring();
        self.writeback.bell.ring();
        Verdict::done("")
    }

    /// What the log was opened with bounds its segments.
    fn may_become(&self, now: &Live, wanted: &Live) -> Result<(), String> {
        let pool = &self.volume.wal.pool.limits;
        let (min, max) = (pool.segment_min as u64, pool.segment_max as u64);
        for (key, was, is) in [
            ("segment-size", now.segment_bytes, wanted.segment_bytes),
            ("segment-min", now.segment_bytes_min, wanted.segment_bytes_min),
            ("segment-max", now.segment_bytes_max, wanted.segment_bytes_max),
        ] {
            if was != is && !(min..=max).contains(&is) {
                return Err(format!(
                    "{key}={}: this log was opened for segments from {} to {}; for others unmount, and mount with --{key}",
                    size_text(is),
                    size_text(min),
                    size_text(max)
                ));
            }
        }
        Ok(())
    }
}
