//! What the kernel allows this process, set once at start.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use std::io;

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
        forbid_dumps(true).unwrap();
    }
}
