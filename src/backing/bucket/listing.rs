//! Listings: each asked for once, whoever needs it. While the store is in trouble, a gateway that may write goes on with what it
//! knows: a program that makes a file need not wait for a store that does not answer. What something else stored meanwhile is found
//! by the conditions of our writes, as ever.

use super::Core;
use super::error::{again, is_refused};
use super::looks::now_ns;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long one who needs a listing waits for it, and one for whom an older one will do.
const WAIT: Duration = Duration::from_secs(12);
const WAIT_OLD: Duration = Duration::from_millis(250);
/// An older one will do for so long without another wait.
const OLD_NS: u64 = 3_000_000_000;

/// A listing on its way; whatever becomes of it, those who wait hear of it.
struct Coming {
    core: Arc<Core>,
    dir: String,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.core.view.lock().loaded(&self.dir);
        self.core.come.notify_all();
    }
}

impl Core {
    /// Sees that a directory's listing can be used. Errors: of the store, or it did not answer in 12 s.
    pub(super) fn load(&self, dir: &str) -> io::Result<()> {
        let mut view = self.view.lock();
        let began_ns = now_ns();
        loop {
            let now = now_ns();
            if view.is_usable(dir, now) {
                return Ok(());
            }
            let old = self.goes_on && view.is_listed(dir);
            if let Some((_, e)) = view.failed.get(dir).filter(|(at, _)| *at >= began_ns) {
                if old && !is_refused(e) {
                    view.bear(dir, now + OLD_NS);
                    return Ok(());
                }
                return Err(again(e));
            }
            if view.loading.insert(dir.to_owned()) {
                self.send_for_listing(dir);
            }
            let patience = if old { WAIT_OLD } else { WAIT };
            let left = patience.saturating_sub(Duration::from_nanos(now - began_ns));
            if !self.come.wait_for(&mut view, left).timed_out() {
                continue;
            }
            if old && view.is_listed(dir) {
                log::debug!("{dir}: its listing does not come; going on with an older one");
                view.bear(dir, now_ns() + OLD_NS);
                return Ok(());
            }
            let text = format!("{dir}: its listing does not come");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
    }

    fn send_for_listing(&self, dir: &str) {
        let Some(core) = self.me.upgrade() else { return };
        let coming = Coming { core, dir: dir.to_owned() };
        self.store.runtime.spawn(async move {
            let Coming { core, dir } = &coming;
            let base = &core.store.base;
            let prefix = if dir.is_empty() { base.clone() } else { format!("{base}{dir}/") };
            let page = core.store.list_all(&prefix, false).await;
            let mut view = core.view.lock();
            match page {
                Ok(mut p) => {
                    p.folders.extend(core.store.dirs_in(dir));
                    view.take(dir, p, base, now_ns());
                }
                Err(e) => view.fail(dir, now_ns(), e),
            }
        });
    }
}
