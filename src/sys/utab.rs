//! libmount's table of user-space mount data. A line there makes root's plain `umount DIR` run
//! `/sbin/umount.forelog`, which waits for the drain. Best effort: without it only the helper is lost.

use crate::sys::{files, mountinfo, worker};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

const DIR: &str = "/run/mount";

/// The lock is held for a moment only; one that is held longer is not worth a slow mount.
const LOCK_TRIES: u32 = 40;

/// Adds the line of the mount on `mountpoint`. For root only; says what failed.
pub fn add(mountpoint: &Path) -> io::Result<()> {
    let Some(m) = mountinfo::find(mountpoint)? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let target = mountinfo::escape_path(&m.mountpoint);
    let mut line = format!("ID={} SRC=", m.id).into_bytes();
    line.extend_from_slice(&mountinfo::escape(m.source.as_bytes()));
    line.extend_from_slice(b" TARGET=");
    line.extend_from_slice(&target);
    line.extend_from_slice(b" ROOT=/ OPTS=helper=forelog");
    edit(Path::new(DIR), &target, Some(line))
}

/// Removes our line of `mountpoint`; call it with the path that was mounted (absolute, resolved),
/// since after the unmount the table no longer knows it.
pub fn remove(mountpoint: &Path) -> io::Result<()> {
    if files::size(&Path::new(DIR).join("utab"))?.is_none() {
        return Ok(());
    }
    edit(Path::new(DIR), &mountinfo::escape_path(mountpoint), None)
}

/// Drops our lines of `target` and appends `line`, under libmount's lock, by rename.
fn edit(dir: &Path, target: &[u8], line: Option<Vec<u8>>) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let _lock = lock(dir)?;
    let path = dir.join("utab");
    let old = match files::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let mut new = Vec::with_capacity(old.len() + 256);
    for kept in old.split(|b| *b == b'\n').filter(|l| !l.is_empty() && !is_ours(l, target)) {
        new.extend_from_slice(kept);
        new.push(b'\n');
    }
    if let Some(line) = line {
        new.extend_from_slice(&line);
        new.push(b'\n');
    }
    files::write_atomic(&path, &new, 0o644)
}

fn is_ours(line: &[u8], target: &[u8]) -> bool {
    let mut fields = line.split(|b| *b == b' ');
    let has = |want: &[u8], key: &[u8]| {
        line.split(|b| *b == b' ').any(|f| f.strip_prefix(key).is_some_and(|v| v == want))
    };
    fields.next().is_some() && has(target, b"TARGET=") && has(b"helper=forelog", b"OPTS=")
}

fn lock(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(dir.join("utab.lock"), flags, Mode::from_raw_mode(0o644))?;
    for _ in 0..LOCK_TRIES {
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(fd),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {
                worker::sleep(Duration::from_millis(25));
            }
            Err(e) => return Err(e.into()),
        }
    }
    Err(rustix::io::Errno::WOULDBLOCK.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_and_go_and_others_stay() {
        let t = tempfile::tempdir().unwrap();
        let d = t.path().join("mount");
        let line =
            |target: &str, opts: &str| format!("ID=7 SRC=/x TARGET={target} ROOT=/ OPTS={opts}").into_bytes();
        let other = line("/mnt/a\\040b", "_netdev");
        edit(&d, b"-", Some(other.clone())).unwrap();
        edit(&d, b"/mnt/a\\040b", Some(line("/mnt/a\\040b", "helper=forelog"))).unwrap();
        edit(&d, b"/mnt/a\\040b", Some(line("/mnt/a\\040b", "helper=forelog"))).unwrap();
        let text = String::from_utf8(files::read(&d.join("utab")).unwrap()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        edit(&d, b"/mnt/a\\040b", None).unwrap();
        assert_eq!(files::read(&d.join("utab")).unwrap(), [other, b"\n".to_vec()].concat());
        assert_eq!(files::list(&d).unwrap(), ["utab", "utab.lock"]);
    }
}
