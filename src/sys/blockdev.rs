//! A block device of our own, a page of memory: the kernel tells only a FUSE mount that stands on one (`fuseblk`) of
//! sync(2) and of its umount. Nobody reads or writes it.

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// From `linux/loop.h`.
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// Bytes of the device, one block of the filesystem.
pub const BLOCK_BYTES: u32 = 4096;

/// Between the search for a free device and its use others may take it.
const TRIES: usize = 32;

/// Longest label; the kernel takes 249 bytes as the name of memory.
const LABEL_BYTES_MAX: usize = 200;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    places: [u64; 5],
    numbers: [u32; 3],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Configuration {
    fd: u32,
    block_bytes: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Configuration>() == 304);

/// A loop device, free again once it is neither mounted nor held here, however this process ends.
pub struct BlockDevice {
    fd: OwnedFd,
    path: String,
}

impl BlockDevice {
    /// Takes a free one; `label` is what losetup(8) shows of it. Errors: this machine, or container, has no loop
    /// devices for us.
    pub fn new(label: &str) -> io::Result<BlockDevice> {
        let label: String = label.chars().filter(|c| *c != '\0').collect();
        let mut end = label.len().min(LABEL_BYTES_MAX);
        while !label.is_char_boundary(end) {
            end -= 1;
        }
        let memory = rustix::fs::memfd_create(&label[..end], MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&memory, BLOCK_BYTES.into())?;
        let control = open("/dev/loop-control")?;
        for _ in 0..TRIES {
            // SAFETY: takes a descriptor, open for the call, and no memory.
            let n = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if n < 0 {
                return Err(at("/dev/loop-control", io::Error::last_os_error()));
            }
            let path = format!("/dev/loop{n}");
            let fd = open(&path)?;
            let c = Configuration {
                fd: memory.as_raw_fd() as u32,
                block_bytes: 0,
                info: Info {
                    places: [0; 5],
                    numbers: [0; 3],
                    flags: LO_FLAGS_AUTOCLEAR,
                    names: [0; 160],
                    init: [0; 2],
                },
                reserved: [0; 8],
            };
            // SAFETY: the kernel reads one `loop_config`, whose size is asserted above and which outlives the call.
            match unsafe { libc::ioctl(fd.as_raw_fd(), LOOP_CONFIGURE, &raw const c) } {
                0 => return Ok(BlockDevice { fd, path }),
                _ => match io::Error::last_os_error() {
                    e if e.raw_os_error() == Some(libc::EBUSY) => {}
                    e => return Err(at(&path, e)),
                },
            }
        }
        Err(Errno::BUSY.into())
    }

    /// As `/dev/loop7`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its major and minor number.
    pub fn number(&self) -> io::Result<rustix::fs::Dev> {
        Ok(rustix::fs::fstat(&self.fd)?.st_rdev)
    }
}

fn open(path: &str) -> io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| at(path, e.into()))
}

fn at(path: &str, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where there are loop devices for this user.
    #[test]
    fn it_is_free_again_when_dropped() {
        let Ok(d) = BlockDevice::new(&"é\0/srv/nas".repeat(40)) else { return };
        let sys = format!("/sys/block/{}/loop/backing_file", d.path().trim_start_matches("/dev/"));
        assert!(std::fs::read_to_string(&sys).unwrap().contains("/srv/nas"));
        assert!(d.number().unwrap() > 0);
        drop(d);
        for _ in 0..100 {
            if !std::fs::exists(&sys).unwrap() {
                return;
            }
            crate::sys::worker::sleep(std::time::Duration::from_millis(20));
        }
        // Another may have taken it at once.
        let now = std::fs::read_to_string(&sys).unwrap_or_default();
        assert!(!now.contains("éé/srv"), "{now}");
    }
}
