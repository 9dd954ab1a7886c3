//! Asks a mount of our own again and again whether it answers, from a thread that may hang in it.

use super::worker;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

struct Shared {
    answered: Mutex<Instant>,
    resting: AtomicBool,
}

/// A mount's pulse. The thread ends with the mount or with the pulse, and nobody waits for it.
pub struct Pulse {
    shared: Arc<Shared>,
}

impl Pulse {
    /// Asks what is mounted at `path` now, every `period`. Nothing of it is held between the questions, so it can be
    /// unmounted.
    ///
    /// # Errors
    /// When it does not answer the first question, or no thread can be started.
    pub fn start(path: &Path, period: Duration) -> io::Result<Pulse> {
        let path = path.to_path_buf();
        let device = ask(&path)?;
        let shared =
            Arc::new(Shared { answered: Mutex::new(Instant::now()), resting: AtomicBool::new(false) });
        let weak = Arc::downgrade(&shared);
        worker::spawn("pulse", move || {
            loop {
                worker::sleep(period);
                let Some(s) = weak.upgrade() else { return };
                if s.resting.load(Ordering::Acquire) {
                    continue;
                }
                match ask(&path) {
                    Ok(d) if d == device => *s.answered.lock() = Instant::now(),
                    // Another filesystem: ours is no longer there.
                    Ok(_) => return,
                    Err(e) => log::debug!("{}: does not answer: {e}", path.display()),
                }
            }
        })?;
        Ok(Pulse { shared })
    }

    /// Time since its last answer.
    pub fn age(&self) -> Duration {
        self.shared.answered.lock().elapsed()
    }

    /// No more questions: one that is under way would make an unmount fail as busy.
    pub fn rest(&self, rest: bool) {
        if self.shared.resting.swap(rest, Ordering::AcqRel) && !rest {
            *self.shared.answered.lock() = Instant::now();
        }
    }
}

/// The attributes of the root, not out of the kernel's cache. Gives the device.
fn ask(path: &Path) -> io::Result<(u32, u32)> {
    let s = statx(CWD, path, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS)?;
    Ok((s.stx_dev_major, s.stx_dev_minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_and_rests() {
        let t = tempfile::tempdir().unwrap();
        let p = Pulse::start(t.path(), Duration::from_millis(1)).unwrap();
        let first = *p.shared.answered.lock();
        for _ in 0..1000 {
            worker::sleep(Duration::from_millis(10));
            if *p.shared.answered.lock() > first {
                break;
            }
        }
        assert!(*p.shared.answered.lock() > first);
        p.rest(true);
        worker::sleep(Duration::from_millis(500));
        let at = *p.shared.answered.lock();
        worker::sleep(Duration::from_millis(50));
        assert_eq!(*p.shared.answered.lock(), at);
        assert!(p.age() >= Duration::from_millis(50));
        p.rest(false);
        assert!(*p.shared.answered.lock() > at);
        assert!(Pulse::start(&t.path().join("none"), Duration::from_secs(1)).is_err());
    }
}
