//! What the kernel allows this process, set once at start.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct sched_attr` of the kernel, its first version.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Shortest slice the kernel takes, nanoseconds.
const SLICE_SHORT_NS: u64 = 100_000;

/// From `linux/prctl.h`; the libc crate does not name it.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Raises the soft limit of open files to the hard one; returns it (`u64::MAX` for none).
pub fn raise_open_files() -> io::Result<u64> {
    let now = getrlimit(Resource::Nofile);
    if now.current != now.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum })?;
    }
    Ok(now.maximum.unwrap_or(u64::MAX))
}

/// Tells the kernel that writes to other filesystems wait for us, so that its memory reclaim never
/// waits for a write of ours (prctl(2) names FUSE daemons). Needs CAP_SYS_RESOURCE; without it
/// there is only the old risk, so failure is no error. True when set.
pub fn set_io_flusher() -> bool {
    // SAFETY: this prctl takes plain numbers and touches no memory of ours.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1usize, 0usize, 0usize, 0usize) == 0 }
}

/// Most names of one file on the filesystem of `fd`, where the C library knows it (fpathconf(3)); what it says of a
/// filesystem that it does not know (127) is no answer.
pub fn links_max(fd: BorrowedFd<'_>) -> Option<u32> {
    const UNKNOWN: i64 = 127;
    // SAFETY: takes a descriptor, which is open for the call, and a plain number.
    let n = unsafe { libc::fpathconf(fd.as_raw_fd(), libc::_PC_LINK_MAX) };
    u32::try_from(n.min(i64::from(u32::MAX))).ok().filter(|_| n > UNKNOWN)
}

/// Version of the running kernel, as (6, 18); (0, 0) for what cannot be read.
pub fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let text = name.release().to_string_lossy();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Asks for short turns for the calling thread and those it starts: it is woken sooner, and gives way
/// sooner, than one that computes for long (sched_setattr(2); slices since Linux 6.12). `nice` as
/// setpriority(2); below 0 only root may. Without it waits are only longer, so failure is no error.
/// True when set.
pub fn short_turns(nice: i32) -> bool {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: libc::SCHED_OTHER as u32,
        flags: 0,
        nice,
        priority: 0,
        runtime: SLICE_SHORT_NS,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel reads `size` bytes at the pointer, which are those of `attr`, and keeps nothing.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attr), 0u32) == 0 }
}

/// Keeps this process's memory, which may hold credentials, out of core files and from debuggers
/// of the same user. Left alone when `debugging`.
pub fn forbid_dumps(debugging: bool) -> io::Result<()> {
    if debugging {
        return Ok(());
    }
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_rise_and_stay() {
        let n = raise_open_files().unwrap();
        assert_eq!(raise_open_files().unwrap(), n);
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), n);
        set_io_flusher();
        short_turns(0);
        forbid_dumps(true).unwrap();
        assert!(kernel() >= (5, 6), "{:?}", kernel());
    }
}
