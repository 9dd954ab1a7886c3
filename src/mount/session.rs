//! The session: we mount, fuser serves the connection we hand it.

use super::adapter::Adapter;
use super::caller::Callers;
use super::pool::Pool;
use super::trim::Trimmer;
use crate::fs::Fs;
use crate::sys::fusemount::{MountOptions, mount_fuse};
use crate::sys::worker::{Bell, Worker, spawn};
use fuser::{Config, Session, SessionACL};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A served mount.
pub struct Served {
    thread: JoinHandle<io::Result<()>>,
    _trimmer: Worker,
}

impl Served {
    /// True once the connection has ended: someone unmounted it.
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }
    /// Waits for the end of the connection.
    pub fn join(self) -> io::Result<()> {
        self.thread.join().map_err(|_| io::Error::other("the session thread panicked"))?
    }
}

/// Largest write the kernel sends at once. The copies of a request cannot be interrupted: larger ones make
/// a stream faster and everyone else wait (docs/BENCHMARKS.md, isolation).
pub(super) const WRITE_BYTES_MAX: u32 = 128 << 10;

/// How often it is looked whether too many inodes are in memory.
const TRIM_EVERY: Duration = Duration::from_millis(250);

/// Mounts `fs` and serves it on `threads` threads. Returns once the kernel's handshake is done.
/// Errors: one line for people.
pub fn serve(
    fs: Arc<Fs>,
    callers: Arc<Callers>,
    mountpoint: &Path,
    options: &MountOptions,
    threads: usize,
) -> io::Result<Served> {
    let fd = mount_fuse(mountpoint, options)?;
    let (volume, device) = (fs.volume.clone(), fd.try_clone()?);
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.clone_fd = true;
    let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    let adapter = Adapter { fs, callers, pool: Pool::default() };
    let session = Session::from_fd(adapter, fd, acl, config)?;
    let mut trimmer = Trimmer::new(volume, device, session.notifier());
    let trimmer = Worker::every("trimmer", TRIM_EVERY, Bell::new(), move || trimmer.step())?;
    let thread = spawn("forelog-fuse", move || {
        // Inherited by the session's threads: one client's stream must not hold up another's fsync.
        crate::sys::limits::short_turns(0);
        session.run()
    })?;
    Ok(Served { thread, _trimmer: trimmer })
}
