//! sd_notify(3): tells the service manager that the mount answers, by a datagram to `$NOTIFY_SOCKET`.

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

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
}
