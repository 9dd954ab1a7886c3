//! The session: we mount, fuser serves the connection we hand it.

use super::adapter::Adapter;
use super::caller::Callers;
use super::ops::Ops;
use super::trim::Trimmer;
use crate::fs::{Fs, Told};
use crate::sys::fusemount::{MountOptions, mount_fuse};
use crate::sys::pool::Pool;
use crate::sys::worker::{Bell, Worker, spawn};
use crate::types::InodeId;
use fuser::{Config, INodeNo, InitFlags, KernelConfig, Session, SessionACL};
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
const WRITE_BYTES_MAX: u32 = 128 << 10;

/// How often it is looked whether too many inodes are in memory.
const TRIM_EVERY: Duration = Duration::from_millis(250);

/// Asks the kernel for what it has and we use. With access lists it checks permissions by them, and leaves the
/// umask to us: a default list takes its place.
pub(super) fn ask_for(config: &mut KernelConfig, access_lists: bool) {
    let mut wanted = vec![
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        InitFlags::FUSE_DONT_MASK,
    ];
    if access_lists {
        wanted.push(InitFlags::FUSE_POSIX_ACL);
    }
    for cap in wanted {
        if config.add_capabilities(cap).is_err() {
            log::info!("the kernel has no {cap:?}");
        }
    }
    if let Err(most) = config.set_max_write(WRITE_BYTES_MAX) {
        log::info!("largest write: {most} bytes");
    }
    if let Err(most) = config.set_max_background(128) {
        log::info!("requests in the background: {most}");
    }
}

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
    let told = fs.clone();
    let ops = Arc::new(Ops { fs, callers, pool: Pool::default() });
    let adapter = Adapter { ops };
    let session = Session::from_fd(adapter, fd, acl, config)?;
    let notifier = session.notifier();
    let tell = move |ino: InodeId, what: Told| {
        // Attributes alone wait for no lock that a request may hold.
        let from = if what == Told::Attributes { -1 } else { 0 };
        match notifier.inval_inode(INodeNo(ino.0), from, 0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                log::debug!("telling the kernel of {what:?} of {ino}: {e}")
            }
            _ => {}
        }
    };
    let watched = told.clone();
    if told.kernel.set(Box::new(tell)).is_err() {
        log::debug!("this volume was mounted before");
    }
    let mut trimmer = Trimmer::new(volume, device, session.notifier());
    let trimmer = Worker::every("trimmer", TRIM_EVERY, Bell::new(), move || {
        trimmer.step();
        watched.look_for_changes();
    })?;
    let thread = spawn("forelog-fuse", move || {
        // Inherited by the session's threads: one client's stream must not hold up another's fsync.
        crate::sys::limits::short_turns(0);
        session.run()
    })?;
    Ok(Served { thread, _trimmer: trimmer })
}
