//! Mounting and unmounting FUSE by ourselves: root by mount(2), others through `fusermount3`.
//! The descriptor goes to the session; no library owns the mount.

mod block;

pub use block::mount_block;

use crate::sys::mountinfo;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags};
use rustix::net::{SocketType, recvmsg, socketpair};
use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const SUBTYPE: &str = "forelog";
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Source shown in the mount table: the backing.
    pub fsname: String,
    pub read_only: bool,
    /// Users other than the mounter may enter. Goes with `default_permissions`.
    pub allow_other: bool,
    /// The kernel checks modes and owners.
    pub default_permissions: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub noatime: bool,
    /// Largest read request in bytes; `None` leaves it to the kernel.
    pub max_read: Option<u32>,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            fsname: SUBTYPE.into(),
            read_only: false,
            allow_other: false,
            default_permissions: true,
            nosuid: true,
            nodev: true,
            noexec: false,
            noatime: false,
            max_read: None,
        }
    }
}

/// Errors: something of ours, or other FUSE, is mounted there already.
pub fn is_free(mountpoint: &Path) -> io::Result<()> {
    let shown = mountpoint.display();
    if let Some(m) = mountinfo::find(mountpoint)?
        && m.fstype.starts_with("fuse")
    {
        let by = m.source.to_string_lossy();
        let text = format!(
            "{shown} is already a {} mount of {by}: unmount it first (umount -l if its gateway is gone)",
            m.fstype
        );
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    Ok(())
}

/// Mounts on the directory `mountpoint` and returns the connection. Until someone answers its
/// INIT, whoever looks into the mount point hangs.
/// Errors are one line: what failed and what to do.
pub fn mount_fuse(mountpoint: &Path, opts: &MountOptions) -> io::Result<OwnedFd> {
    let shown = mountpoint.display();
    is_free(mountpoint)?;
    if opts.fsname.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the source name has a NUL"));
    }
    if !rustix::process::geteuid().is_root() {
        return mount_by_helper(mountpoint, opts);
    }
    match mount_by_syscall(mountpoint, opts) {
        // Root of a container without CAP_SYS_ADMIN.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            mount_by_helper(mountpoint, opts).map_err(|by_helper| {
                let why = "mount(2) is not permitted (it needs CAP_SYS_ADMIN)";
                io::Error::new(e.kind(), format!("cannot mount on {shown}: {why}; {by_helper}"))
            })
        }
        Err(e) if e.raw_os_error().is_some() => {
            Err(io::Error::new(e.kind(), format!("cannot mount on {shown}: {e}")))
        }
        other => other,
    }
}

fn mount_by_syscall(mountpoint: &Path, opts: &MountOptions) -> io::Result<OwnedFd> {
    let fuse = open_device()?;
    // Mounted through the descriptor, so that the path cannot come to mean another place meanwhile.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::open(mountpoint, flags, Mode::empty())?;
    let data = kernel_data(fuse.as_fd(), target.as_fd(), opts)?;
    let onto = crate::sys::beneath::magic_path(target.as_fd());
    let mount = |fstype: &str, data: &str| {
        let data = CString::new(data).map_err(|_| Errno::INVAL)?;
        let flags = mount_flags(opts);
        rustix::mount::mount(opts.fsname.as_str(), onto.as_str(), fstype, flags, data.as_c_str())
    };
    match mount("fuse.forelog", &data) {
        Err(Errno::NODEV) => mount("fuse", &format!("{data},subtype={SUBTYPE}"))?,
        other => other?,
    }
    Ok(fuse)
}

fn open_device() -> io::Result<OwnedFd> {
    let opened = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|e| {
        let cure = match e {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => "load the module: modprobe fuse",
            _ => "in a container, pass the device in (--device /dev/fuse)",
        };
        let e = io::Error::from(e);
        io::Error::new(e.kind(), format!("cannot open /dev/fuse: {e}; {cure}"))
    })
}

fn kernel_data(fuse: BorrowedFd<'_>, target: BorrowedFd<'_>, o: &MountOptions) -> io::Result<String> {
    let kind = rustix::fs::fstat(target)?.st_mode & libc::S_IFMT;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data = format!("fd={},rootmode={kind:o},user_id={uid},group_id={gid}", fuse.as_raw_fd());
    if o.default_permissions {
        data.push_str(",default_permissions");
    }
    if o.allow_other {
        data.push_str(",allow_other");
    }
    if let Some(n) = o.max_read {
        data.push_str(&format!(",max_read={n}"));
    }
    Ok(data)
}

fn mount_flags(o: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, o.read_only);
    flags.set(MountFlags::NOSUID, o.nosuid);
    flags.set(MountFlags::NODEV, o.nodev);
    flags.set(MountFlags::NOEXEC, o.noexec);
    flags.set(MountFlags::NOATIME, o.noatime);
    flags
}

/// The option string for `fusermount3`, which takes commas apart unless they are escaped.
fn helper_options(o: &MountOptions) -> String {
    let name = o.fsname.replace('\\', "\\\\").replace(',', "\\,");
    let mut s = format!("fsname={name},subtype={SUBTYPE}");
    let words = [
        (o.read_only, "ro"),
        (o.allow_other, "allow_other"),
        (o.default_permissions, "default_permissions"),
        (o.nosuid, "nosuid"),
        (o.nodev, "nodev"),
        (o.noexec, "noexec"),
        (o.noatime, "noatime"),
    ];
    for (_, word) in words.iter().filter(|(on, _)| *on) {
        s.push(',');
        s.push_str(word);
    }
    if let Some(n) = o.max_read {
        s.push_str(&format!(",max_read={n}"));
    }
    s
}

/// The `_FUSE_COMMFD` protocol: the helper mounts and sends the descriptor over a socket.
fn mount_by_helper(mountpoint: &Path, opts: &MountOptions) -> io::Result<OwnedFd> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let number = theirs.as_raw_fd();
    let run = |helper: &str| {
        let mut c = helper_command(helper);
        c.arg("-o").arg(helper_options(opts)).arg("--").arg(mountpoint);
        c.env("_FUSE_COMMFD", number.to_string());
        // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe; `number`
        // is open in the child, a copy of `theirs`, which outlives the spawn.
        unsafe {
            c.pre_exec(move || match libc::fcntl(number, libc::F_SETFD, 0) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        c.spawn()
    };
    let child = first_helper(run)?;
    drop(theirs);
    let got = receive_fd(ours.as_fd());
    let out = child.wait_with_output()?;
    match got {
        Ok(Some(fd)) => Ok(fd),
        Ok(None) => Err(helper_failure(mountpoint, opts, &out.stderr)),
        Err(e) => Err(e),
    }
}

fn helper_command(helper: &str) -> Command {
    let mut c = Command::new(helper);
    c.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    c
}

/// Runs the first helper that is installed.
fn first_helper<T>(mut run: impl FnMut(&str) -> io::Result<T>) -> io::Result<T> {
    for helper in HELPERS {
        match run(helper) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
    }
    let text = "fusermount3 is not installed: install the package fuse3, or run as root";
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// The descriptor sent over `socket`; `None` if the other end closed without one.
fn receive_fd(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        let mut into = [IoSliceMut::new(&mut byte)];
        recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            return Ok(fds.next());
        }
    }
    Ok(None)
}

fn helper_failure(mountpoint: &Path, opts: &MountOptions, stderr: &[u8]) -> io::Error {
    let said = one_line(stderr);
    let shown = mountpoint.display();
    if opts.allow_other && said.contains("user_allow_other") {
        let text = format!(
            "cannot mount on {shown}: allow_other needs the line `user_allow_other` in \
             /etc/fuse.conf; have root add it, or leave allow_other out"
        );
        return io::Error::new(io::ErrorKind::PermissionDenied, text);
    }
    let cure = if said.contains("/dev/fuse") && said.contains("Permission denied") {
        " (have root make it usable: chmod 666 /dev/fuse)"
    } else if said.contains("/dev/fuse") || said.contains("fuse device not found") {
        " (load the module: modprobe fuse)"
    } else {
        ""
    };
    io::Error::other(format!("cannot mount on {shown}: {said}{cure}"))
}

fn one_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    if lines.is_empty() { "the mount helper failed".into() } else { lines.join("; ") }
}

/// Unmounts; `lazy` detaches at once and ends the mount when nobody uses it any more.
/// EBUSY (in use) and EINVAL (not a mount point) keep their errno.
pub fn unmount(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let path = match mountinfo::find(mountpoint)? {
        Some(m) => m.mountpoint,
        None => return Err(Errno::INVAL.into()),
    };
    if rustix::process::geteuid().is_root() {
        let mut flags = UnmountFlags::NOFOLLOW;
        flags.set(UnmountFlags::DETACH, lazy);
        match rustix::mount::unmount(&path, flags) {
            Err(Errno::PERM) => {}
            other => return Ok(other?),
        }
    }
    unmount_by_helper(&path, lazy)
}

/// Ends the connection, so that whoever waits for an answer gets an error, and takes the mount off the tree.
/// Never asks the mount itself.
pub fn abort(mountpoint: &Path) -> io::Result<()> {
    let Some(m) = mountinfo::find(mountpoint)? else { return Ok(()) };
    let by_control = match connection(&m.device) {
        Some(n) => std::fs::write(format!("/sys/fs/fuse/connections/{n}/abort"), b"1"),
        None => Err(io::ErrorKind::InvalidData.into()),
    };
    let root = rustix::process::geteuid().is_root();
    let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    match if root { rustix::mount::unmount(&m.mountpoint, flags) } else { Err(Errno::PERM) } {
        Ok(()) => Ok(()),
        // Taken off the tree it still waits for those who use it, unless it is aborted.
        Err(_) => unmount_by_helper(&m.mountpoint, true).and(by_control),
    }
}

/// The connection's number under `/sys/fs/fuse/connections`: the whole device number, as the kernel packs it.
fn connection(device: &str) -> Option<u32> {
    let (major, minor) = device.split_once(':')?;
    Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
}

/// Lets the kernel ask so far ahead of one who reads on, in requests of the size that was agreed upon. Root only; for
/// files opened from now on.
pub fn set_read_ahead(mountpoint: &Path, bytes: u64) -> io::Result<()> {
    let Some(m) = mountinfo::find(mountpoint)? else { return Err(Errno::INVAL.into()) };
    // The kernel names it so if the mount stands on a block device.
    let suffix = if m.fstype.starts_with("fuseblk") { "-fuseblk" } else { "" };
    std::fs::write(format!("/sys/class/bdi/{}{suffix}/read_ahead_kb", m.device), (bytes >> 10).to_string())
}

fn unmount_by_helper(path: &Path, lazy: bool) -> io::Result<()> {
    let out = first_helper(|helper| {
        let mut c = helper_command(helper);
        c.arg("-u");
        if lazy {
            c.arg("-z");
        }
        c.arg("--").arg(path).output()
    })?;
    if out.status.success() {
        return Ok(());
    }
    let said = one_line(&out.stderr);
    Err(if said.contains("busy") {
        Errno::BUSY.into()
    } else {
        io::Error::other(format!("cannot unmount {}: {said}", path.display()))
    })
}

#[cfg(test)]
mod tests;
