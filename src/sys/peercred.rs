//! Unix sockets for the control channel: a listener nobody else can open, who is at the other end, and
//! the wait for a process to end.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// The process at the other end of a socket, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// 0 when it lives in a PID namespace we cannot see.
    pub pid: i32,
    pub uid: u32,
}

/// This process's effective user.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// `SO_PEERCRED`.
pub fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let mut cred = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `cred` and `len` are live and `len` says the size of `cred`, as getsockopt(2) asks; the
    // fd is open as long as `stream` is borrowed.
    let rc = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &raw mut len,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Peer { pid: cred.pid, uid: cred.uid })
}

/// Binds and listens at `path`, mode 0600 from the first instant.
pub fn listen_private(path: &Path) -> io::Result<UnixListener> {
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Linux makes the socket's file with the mode of the fd, so no moment is open to others.
    fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    listen(&fd, 32)?;
    Ok(UnixListener::from(fd))
}

/// Waits until `stream` or `wake` can be read. True: the first.
pub fn wait_either(listener: &UnixListener, wake: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
    match poll(&mut fds, None) {
        Ok(_) => Ok(fds[1].revents().is_empty()),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// A process to wait for; holding it keeps its number from meaning another.
#[derive(Debug)]
pub struct Watched {
    fd: OwnedFd,
}

impl Watched {
    /// Starts to watch; none when it is gone or cannot be seen.
    pub fn new(pid: i32) -> Option<Watched> {
        let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Watched { fd })
    }
    /// True once the process has ended, with all its files closed and its locks free.
    pub fn ended(&self, limit: Duration) -> bool {
        let timeout = rustix::event::Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timeout)), Ok(n) if n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_private_and_the_peer_is_us() {
        let t = tempfile::tempdir().unwrap();
        let path = t.path().join("s");
        let l = listen_private(&path).unwrap();
        assert_eq!(crate::sys::paths::facts(&path).unwrap().mode, 0o600);
        let a = UnixStream::connect(&path).unwrap();
        let (b, _) = l.accept().unwrap();
        for end in [&a, &b] {
            let p = peer(end).unwrap();
            assert_eq!((p.pid as u32, p.uid), (std::process::id(), own_uid()));
        }
    }

    #[test]
    fn watches_a_process() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let w = Watched::new(child.id() as i32).unwrap();
        assert!(!w.ended(Duration::from_millis(10)));
        child.kill().unwrap();
        assert!(w.ended(Duration::from_secs(10)));
        child.wait().unwrap();
        assert!(Watched::new(0).is_none());
    }
}
