//! A umount(2) that is not ours waits in the kernel until we answer its DESTROY: it is answered when all is in the backing
//! and the log is free, or the time is up.

use super::{Ending, Gateway};
use crate::mount::Answer;
use crate::sys::mountinfo;
use crate::sys::worker::{self, spawn};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// A mount that had left the tree this long before its end was taken off it with `umount -l`, or is some other namespace's:
/// whoever happens to use it last is not held.
const DETACHED_NS: u64 = 1_000_000_000;

/// How often it is looked whether the time is up.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What waits, if anything does.
#[derive(Default)]
pub struct Hold {
    waits: Mutex<Option<Waiting>>,
}

struct Waiting {
    answer: Answer,
    until_ns: u64,
}

impl Hold {
    fn keep(&self, answer: Answer, until_ns: u64) {
        *self.waits.lock() = Some(Waiting { answer, until_ns });
    }

    /// Lets it return. False if nothing waited.
    pub fn let_go(&self) -> bool {
        let Some(w) = self.waits.lock().take() else { return false };
        (w.answer)();
        true
    }

    /// Until when a umount is held.
    pub fn until_ns(&self) -> Option<u64> {
        self.waits.lock().as_ref().map(|w| w.until_ns)
    }
}

impl Gateway {
    /// The mount is gone. Called by the transport, so it returns at once.
    pub fn gone(self: &Arc<Self>, answer: Answer) {
        let now = self.volume.clock.monotonic_ns();
        let limit = self.live.get().umount_timeout;
        {
            let (m, c) = &self.life;
            let mut l = m.lock();
            let detached = l.off_tree_ns.is_some_and(|t| now.saturating_sub(t) >= DETACHED_NS);
            // Ours comes with nothing left to drain, or is not to wait.
            if l.unmounting || l.ending.is_some() || detached || limit.is_zero() {
                drop(l);
                return answer();
            }
            self.hold.keep(answer, now.saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)));
            l.ending = Some(Ending::Held);
            c.notify_all();
        }
        log::info!("unmounted by something else, which waits until all is drained, at most {limit:?}");
        // Apart from whoever drains: neither a backing that hangs nor a thread that died may hold a umount for ever.
        let gateway = self.clone();
        if let Err(e) = spawn("hold", move || gateway.watch_hold()) {
            log::error!("starting a thread failed ({e}): the umount does not wait");
            self.hold.let_go();
        }
    }

    fn watch_hold(&self) {
        while let Some(until) = self.hold.until_ns() {
            if self.volume.clock.monotonic_ns() >= until {
                let left = self.bytes_left();
                if self.hold.let_go() {
                    log::warn!(
                        "the umount has waited for {:?} and returns; {left} bytes are still only in the log {}; draining on",
                        self.live.get().umount_timeout,
                        self.config.log_dir.display()
                    );
                }
                return;
            }
            worker::sleep(LOOK_EVERY);
        }
    }

    /// From now on a umount by anybody else is held.
    pub(super) fn watch_tree(&self) {
        let found = mountinfo::find(&self.config.mountpoint).and_then(|m| {
            let device = m.map(|m| m.device).ok_or(std::io::ErrorKind::NotFound)?;
            Ok((mountinfo::Watch::new()?, device))
        });
        match found {
            Ok(tree) => {
                if self.tree.set(tree).is_err() {
                    log::debug!("watched before");
                }
            }
            Err(e) => log::debug!("the table of mounts cannot be watched: {e}"),
        }
    }

    /// Notes when the mount left the tree of this namespace.
    pub(super) fn look_at_tree(&self, l: &mut super::Life) {
        let Some((watch, device)) = &self.tree.get() else { return };
        if l.off_tree_ns.is_some() || !watch.changed().unwrap_or(false) {
            return;
        }
        if let Ok(false) = mountinfo::is_attached(device) {
            l.off_tree_ns = Some(self.volume.clock.monotonic_ns());
        }
    }

    /// What `status` says of it.
    pub(super) fn hold_reason(&self) -> Option<String> {
        let left = self.hold.until_ns()?.saturating_sub(self.volume.clock.monotonic_ns());
        Some(format!("a umount waits until all is drained, at most {} s more", left.div_ceil(1_000_000_000)))
    }

    /// Whether a umount by anybody waits for the drain.
    pub fn holds_umount(&self) -> bool {
        self.tree.get().is_some()
    }
}
