//! What lies under a path: kind of filesystem, space, and whether a mount answers, asked with a time limit.

use super::worker;
use rustix::io::Errno;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// `f_type` of network filesystems and FUSE (statfs(2), linux/magic.h): no place for a log.
const REMOTE: &[(u64, &str)] = &[
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x517b, "smb"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "fuse"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "afs"),
    (0x7375_7245, "coda"),
];

const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

/// What holds a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// The name of a network filesystem or FUSE, else none.
    pub remote: Option<&'static str>,
    /// In memory: gone after a power cut.
    pub volatile: bool,
    /// Bytes this user may still write.
    pub free_bytes: u64,
}

/// Asks `statfs` of an existing path.
pub fn store_of(path: &Path) -> io::Result<Store> {
    let s = rustix::fs::statfs(path)?;
    // The kernel's field is a signed long; only the low 32 bits are the magic.
    let magic = s.f_type as u64 & 0xffff_ffff;
    Ok(Store {
        remote: remote_name(magic),
        volatile: magic == TMPFS || magic == RAMFS,
        free_bytes: s.f_bavail.saturating_mul(s.f_bsize as u64),
    })
}

fn remote_name(magic: u64) -> Option<&'static str> {
    REMOTE.iter().find(|(m, _)| *m == magic).map(|(_, name)| *name)
}

/// How a mount behaves when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It answered.
    Answers,
    /// ENOTCONN or ECONNABORTED: the gateway is gone, the mount is still there.
    Dead,
    /// No answer in time.
    Hangs,
    /// Some other error.
    Fails(String),
}

/// Asks `statfs` of a mount point on a thread of its own; one that hangs is left behind.
pub fn probe(path: &Path, limit: Duration) -> Probe {
    let (tell, told) = mpsc::channel();
    let path = path.to_path_buf();
    let started = worker::spawn("probe", move || {
        // The asker may have given up: nobody is left to tell.
        tell.send(rustix::fs::statfs(&path).map(|_| ())).ok();
    });
    if let Err(e) = started {
        return Probe::Fails(e.to_string());
    }
    match told.recv_timeout(limit) {
        Ok(Ok(())) => Probe::Answers,
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => Probe::Dead,
        Ok(Err(e)) => Probe::Fails(e.to_string()),
        Err(_) => Probe::Hangs,
    }
}

/// Takes a mount off the tree at once, whoever still uses it. Root does it itself; others need
/// fusermount3.
pub fn detach(path: &Path) -> io::Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    match unmount(path, UnmountFlags::DETACH) {
        Err(Errno::PERM) => {}
        done => return Ok(done?),
    }
    let program = super::paths::find_program("fusermount3")
        .ok_or_else(|| io::Error::other("neither root nor fusermount3 at hand"))?;
    let out = std::process::Command::new(program).args(["-u", "-z", "--"]).arg(path).output()?;
    if out.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&out.stderr).trim().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_remote_filesystems() {
        assert_eq!(remote_name(0x6969), Some("nfs"));
        assert_eq!(remote_name(0xfe53_4d42), Some("smb2"));
        assert_eq!(remote_name(0xef53), None);
    }

    #[test]
    fn probes() {
        let t = tempfile::tempdir().unwrap();
        assert_eq!(probe(t.path(), Duration::from_secs(5)), Probe::Answers);
        assert!(matches!(probe(&t.path().join("x"), Duration::from_secs(5)), Probe::Fails(_)));
        assert!(store_of(t.path()).unwrap().remote.is_none());
        assert!(store_of(&t.path().join("x")).is_err());
    }
}
