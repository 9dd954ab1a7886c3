//! Mounting as `fuseblk`, for which the kernel passes on sync(2) and syncfs(2), and holds umount(2) until its DESTROY is
//! answered.

use super::{MountOptions, SUBTYPE, open_device};
use crate::sys::blockdev::{BLOCK_BYTES, BlockDevice};
use crate::sys::worker::in_parallel;
use rustix::fs::{FileType, Mode, OFlags, mkdirat, mknodat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// As `mount_fuse`, for root alone. Errors: it cannot be had here, and nothing is mounted.
pub fn mount_block(mountpoint: &Path, opts: &MountOptions) -> io::Result<OwnedFd> {
    let device = BlockDevice::new(&format!("forelog: {}", opts.fsname))?;
    let fuse = open_device()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::open(mountpoint, flags, Mode::empty())?;
    // The table of mounts is to name the backing, as for every other mount, not a device that says nothing to anyone.
    let made = named(fuse.as_fd(), target.as_fd(), opts, &device).or_else(|e| {
        log::info!("{} is shown as {} in the table of mounts: {e}", opts.fsname, device.path());
        let fs = context(fuse.as_fd(), target.as_fd(), opts, device.path())?;
        fsconfig_create(&fs)?;
        io::Result::Ok(fs)
    })?;
    let mount = fsmount(&made, FsMountFlags::FSMOUNT_CLOEXEC, attributes(opts))?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount, "", &target, "", both)?;
    Ok(fuse)
}

/// What is to be mounted.
fn context(
    fuse: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    o: &MountOptions,
    source: &str,
) -> io::Result<OwnedFd> {
    let fs = fsopen("fuseblk", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let kind = rustix::fs::fstat(target)?.st_mode & libc::S_IFMT;
    let mut values = vec![
        ("source", source.to_owned()),
        ("subtype", SUBTYPE.to_owned()),
        ("fd", fuse.as_raw_fd().to_string()),
        ("rootmode", format!("{kind:o}")),
        ("user_id", rustix::process::getuid().as_raw().to_string()),
        ("group_id", rustix::process::getgid().as_raw().to_string()),
        ("blksize", BLOCK_BYTES.to_string()),
    ];
    values.extend(o.max_read.map(|n| ("max_read", n.to_string())));
    for (key, value) in values {
        fsconfig_set_string(&fs, key, value.as_str())?;
    }
    let words =
        [(o.default_permissions, "default_permissions"), (o.allow_other, "allow_other"), (o.read_only, "ro")];
    for (_, word) in words.iter().filter(|(on, _)| *on) {
        fsconfig_set_flag(&fs, *word)?;
    }
    Ok(fs)
}

fn attributes(o: &MountOptions) -> MountAttrFlags {
    let mut a = MountAttrFlags::empty();
    a.set(MountAttrFlags::MOUNT_ATTR_RDONLY, o.read_only);
    a.set(MountAttrFlags::MOUNT_ATTR_NOSUID, o.nosuid);
    a.set(MountAttrFlags::MOUNT_ATTR_NODEV, o.nodev);
    a.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, o.noexec);
    a.set(MountAttrFlags::MOUNT_ATTR_NOATIME, o.noatime);
    a
}

/// With the backing's name as source. The kernel looks the source up as a path to the device, so it is looked up where
/// that path leads there: by a thread of its own, whose root is a small tree in memory with the one device in it.
fn named(
    fuse: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    o: &MountOptions,
    device: &BlockDevice,
) -> io::Result<OwnedFd> {
    let fs = context(fuse, target, o, &o.fsname)?;
    let root = stage(&o.fsname, device)?;
    let create = || -> io::Result<()> {
        // SAFETY: unshares this thread's root and working directory, which no other thread relies on, and no
        // descriptors.
        unsafe { unshare_unsafe(UnshareFlags::FS) }?;
        rustix::process::fchdir(&root)?;
        rustix::process::chroot(".")?;
        Ok(fsconfig_create(&fs)?)
    };
    in_parallel(1, create)?.pop().unwrap_or(Err(Errno::IO.into()))?;
    Ok(fs)
}

/// A tree that is mounted nowhere, in which `name` is the device.
fn stage(name: &str, device: &BlockDevice) -> io::Result<OwnedFd> {
    let mut parts: Vec<&str> = name.split('/').filter(|p| !p.is_empty()).collect();
    let last = parts.pop().filter(|p| !p.starts_with("..") && *p != ".").ok_or(Errno::INVAL)?;
    // A slash at the end is for a directory alone.
    if name.ends_with('/') {
        return Err(Errno::NOTDIR.into());
    }
    let memory = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&memory)?;
    let root = fsmount(&memory, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let mut at = root.try_clone()?;
    for p in parts {
        mkdirat(&at, p, Mode::RWXU)?;
        at = rustix::fs::openat(&at, p, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    }
    mknodat(&at, last, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, device.number()?)?;
    Ok(root)
}
