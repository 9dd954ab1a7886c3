//! The session: we mount, fuser serves the connection we hand it.

use super::adapter::Adapter;
use super::caller::Callers;
use super::floor::Floor;
use super::ops::{AtEnd, Ops};
use super::ring::{Abort, Rings, Started};
use super::serve::Serve;
use super::trim::Trimmer;
use crate::config::{Transport, WaitUmount};
use crate::fs::{Fs, Told};
use crate::sys::fusemount::{self, MountOptions, mount_fuse};
use crate::sys::pool::Pool;
use crate::sys::uring;
use crate::sys::worker::{Bell, Worker, spawn};
use crate::types::InodeId;
use fuser::{Config, INodeNo, InitFlags, KernelConfig, Notifier, Session, SessionACL};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A served mount.
pub struct Served {
    thread: JoinHandle<io::Result<()>>,
    /// How requests come: `Uring` or `Device`.
    pub transport: Transport,
    /// A umount(2) by anybody waits for the answer of `AtEnd`, a sync(2) for the log.
    pub holds_umount: bool,
    _beside: Option<Worker>,
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

/// What an entry of a ring must take: the largest write, and the largest read, which is the kernel's read-ahead.
const PAYLOAD_BYTES: usize = WRITE_BYTES_MAX as usize;

/// How often it is looked whether too many inodes are in memory.
const TRIM_EVERY: Duration = Duration::from_millis(250);

/// Asks the kernel for what it has and we use. With access lists it checks permissions by them, and leaves the
/// umask to us: a default list takes its place.
pub(super) fn ask_for(config: &mut KernelConfig, access_lists: bool, rings: &RingsWanted) {
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
    if let Err(most) = config.set_max_readahead(WRITE_BYTES_MAX) {
        log::debug!("largest read: {most} bytes");
    }
    if rings.wanted {
        rings.agreed.store(config.add_capabilities(InitFlags::FUSE_OVER_IO_URING).is_ok(), Ordering::Release);
    }
    if let Err(most) = config.set_max_background(128) {
        log::info!("requests in the background: {most}");
    }
}

/// Whether requests are to come by rings, and whether the kernel agreed. Once it did, no request comes before it
/// has the rings or was told that there are none.
#[derive(Default)]
pub(super) struct RingsWanted {
    wanted: bool,
    agreed: AtomicBool,
}

/// The rings for a mount that is to have some, made before the kernel is asked.
fn rings_for(transport: Transport, wait: WaitUmount) -> io::Result<Option<Rings>> {
    if transport == Transport::Device {
        return Ok(None);
    }
    let rings = uring::offered()
        .and_then(|()| Rings::new(PAYLOAD_BYTES).map_err(|e| format!("the rings cannot be made: {e}")));
    match rings {
        Ok(rings) => Ok(Some(rings)),
        Err(why) if transport == Transport::Uring => Err(no_rings(&why)),
        Err(why) if wait == WaitUmount::Yes => Err(no_wait(&why)),
        Err(why) => {
            log::debug!("requests come over the device: {why}");
            Ok(None)
        }
    }
}

fn no_rings(why: &str) -> io::Error {
    io::Error::other(format!("--transport uring: {why}; or use --transport auto or device"))
}

fn no_wait(why: &str) -> io::Error {
    io::Error::other(format!("--wait-umount yes: {why}; or use --wait-umount auto or no"))
}

/// Mounts; true if the kernel will hold a umount(2), for which it must serve the mount over rings.
fn mount(mountpoint: &Path, options: &MountOptions, how: How, rings: bool) -> io::Result<(OwnedFd, bool)> {
    fusemount::is_free(mountpoint)?;
    if rings && how.wait_umount != WaitUmount::No {
        match fusemount::mount_block(mountpoint, options) {
            Ok(fd) => return Ok((fd, true)),
            Err(e) if how.wait_umount == WaitUmount::Yes => {
                return Err(no_wait(&format!("a mount on a loop device cannot be had: {e}")));
            }
            Err(e) => log::info!("a plain umount will not wait: a mount on a loop device cannot be had: {e}"),
        }
    }
    Ok((mount_fuse(mountpoint, options)?, false))
}

/// How a mount is to be served.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Threads that read the device.
    pub threads: usize,
    pub transport: Transport,
    pub wait_umount: WaitUmount,
}

/// Mounts `fs` and serves it. Returns once the kernel's handshake is done.
/// Errors: one line for people.
pub fn serve(
    fs: Arc<Fs>,
    callers: Arc<Callers>,
    mountpoint: &Path,
    options: &MountOptions,
    how: How,
    at_end: AtEnd,
) -> io::Result<Served> {
    let told = fs.clone();
    let ops = Arc::new(Ops { fs, callers, pool: Pool::default(), at_end });
    let beside = |device, notifier| keep_kernel_right(told, device, notifier).map(Some);
    serve_by(ops, mountpoint, options, how, beside)
}

/// Mounts a filesystem that does nothing, and serves it in the same way.
/// Errors: one line for people.
pub fn serve_floor(
    floor: Arc<Floor>,
    mountpoint: &Path,
    options: &MountOptions,
    how: How,
) -> io::Result<Served> {
    serve_by(floor, mountpoint, options, how, |_, _| Ok(None))
}

/// Mounts, serves by `ops`, and starts what goes on `beside` it: given the connection, and how the kernel is told things.
fn serve_by<O: Serve>(
    ops: Arc<O>,
    mountpoint: &Path,
    options: &MountOptions,
    how: How,
    beside: impl FnOnce(OwnedFd, Notifier) -> io::Result<Option<Worker>>,
) -> io::Result<Served> {
    let rings = rings_for(how.transport, how.wait_umount)?;
    let (fd, block) = mount(mountpoint, options, how, rings.is_some())?;
    let served = connect(ops, mountpoint, options, fd, rings, how, beside).and_then(|mut served| {
        served.holds_umount = block && served.transport == Transport::Uring;
        match how.wait_umount {
            WaitUmount::Yes if !served.holds_umount => Err(no_wait("the kernel takes no rings")),
            _ => Ok(served),
        }
    });
    // Aborted first: nobody would answer for it.
    if served.is_err()
        && let Err(e) = fusemount::abort(mountpoint)
    {
        log::error!("{}: unmounting failed: {e}", mountpoint.display());
    }
    served
}

/// Serves the connection of a mount that has just been made.
fn connect<O: Serve>(
    ops: Arc<O>,
    mountpoint: &Path,
    options: &MountOptions,
    fd: OwnedFd,
    rings: Option<Rings>,
    how: How,
    beside: impl FnOnce(OwnedFd, Notifier) -> io::Result<Option<Worker>>,
) -> io::Result<Served> {
    let (device, for_rings) = (fd.try_clone()?, fd.try_clone()?);
    let mut config = Config::default();
    config.n_threads = Some(how.threads);
    config.clone_fd = true;
    let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    let wanted = Arc::new(RingsWanted { wanted: rings.is_some(), ..RingsWanted::default() });
    let adapter = Adapter { ops: ops.clone(), rings: wanted.clone() };
    let session = Session::from_fd(adapter, fd, acl, config)?;
    let agreed = wanted.agreed.load(Ordering::Acquire);
    let started = match rings {
        None => None,
        Some(_) if !agreed => Some(Started::Declined(io::Error::other("not offered for this mount"))),
        Some(rings) => Some(rings.start(&ops, for_rings.as_fd(), &abort(mountpoint))?),
    };
    let transport = match started {
        None => Transport::Device,
        Some(Started::Rings) => Transport::Uring,
        Some(Started::Declined(e)) if how.transport == Transport::Uring => {
            return Err(no_rings(&format!("the kernel takes no rings: {e}")));
        }
        Some(Started::Declined(e)) => {
            log::warn!("the kernel takes no rings ({e}): requests come over the device");
            Transport::Device
        }
    };
    let beside = beside(device, session.notifier())?;
    let thread = spawn("forelog-fuse", move || {
        // Inherited by the session's threads: one client's stream must not hold up another's fsync.
        crate::sys::limits::short_turns(0);
        session.run()
    })?;
    Ok(Served { thread, transport, holds_umount: false, _beside: beside })
}

/// Tells the kernel what it no longer knows right, and to forget what is too much.
fn keep_kernel_right(fs: Arc<Fs>, device: OwnedFd, notifier: Notifier) -> io::Result<Worker> {
    let teller = notifier.clone();
    let tell = move |ino: InodeId, what: Told| {
        // Attributes alone wait for no lock that a request may hold.
        let from = if what == Told::Attributes { -1 } else { 0 };
        match teller.inval_inode(INodeNo(ino.0), from, 0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                log::debug!("telling the kernel of {what:?} of {ino}: {e}")
            }
            _ => {}
        }
    };
    if fs.kernel.set(Box::new(tell)).is_err() {
        log::debug!("this volume was mounted before");
    }
    let mut trimmer = Trimmer::new(fs.volume.clone(), device, notifier);
    Worker::every("trimmer", TRIM_EVERY, Bell::new(), move || {
        trimmer.step();
        fs.look_for_changes();
    })
}

/// Ends the connection, once, when a ring cannot go on: nobody would answer who waits for it.
fn abort(mountpoint: &Path) -> Abort {
    let (mountpoint, done) = (mountpoint.to_owned(), AtomicBool::new(false));
    Arc::new(move |why| {
        if done.swap(true, Ordering::AcqRel) {
            return;
        }
        let shown = mountpoint.display();
        log::error!("{shown}: {why}; the mount is ended, all that was written is in the log: mount again");
        if let Err(e) = fusemount::abort(&mountpoint) {
            log::error!("{shown}: ending the mount failed: {e}");
        }
    })
}
