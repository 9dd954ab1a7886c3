//! sd_notify(3): tells the service manager that the mount answers, by a datagram to `$NOTIFY_SOCKET`.
//! sd_watchdog_enabled(3): how often it wants to hear of us.

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// True when a service manager listens.
pub fn wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|a| !a.is_empty())
}

/// The time within which the service manager wants a sign of life from this process, if it does.
pub fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>());
    watched(number("WATCHDOG_USEC")?.ok()?, number("WATCHDOG_PID").map(Result::ok), std::process::id())
}

/// `pid`: whom the wish is for; none named: whoever reads it.
fn watched(usec: u64, pid: Option<Option<u64>>, own: u32) -> Option<Duration> {
    let ours = pid.is_none_or(|p| p == Some(own.into()));
    (ours && usec > 0).then(|| Duration::from_micros(usec))
}

/// Sends `state` (as `READY=1`) to the service manager. Does nothing when none asked for it.
pub fn notify(state: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(address) if !address.is_empty() => send(&address, state),
        _ => Ok(()),
    }
}

fn send(address: &OsStr, state: &str) -> io::Result<()> {
    // A leading @ stands for the NUL of an abstract name.
    let to = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(OsStr::from_bytes(path))?,
    };
    let fd = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sendto(&fd, state.as_bytes(), SendFlags::NOSIGNAL, &to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn reaches_the_manager() {
        let t = tempfile::tempdir().unwrap();
        let path = t.path().join("n");
        let s = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1\nSTATUS=up").unwrap();
        let mut buf = [0; 64];
        let n = s.recv(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"READY=1\nSTATUS=up");
        assert!(send(OsStr::new("/no/such/socket"), "READY=1").is_err());
    }

    #[test]
    fn the_watchdog_is_for_the_process_it_names() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(watched(1_000_000, None, 7), second);
        assert_eq!(watched(1_000_000, Some(Some(7)), 7), second);
        assert_eq!(watched(1_000_000, Some(Some(8)), 7), None);
        assert_eq!(watched(1_000_000, Some(None), 7), None);
        assert_eq!(watched(0, None, 7), None);
    }
}
