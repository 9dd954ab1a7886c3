//! What is mounted where, read from the kernel's table: a mount that nobody serves is never touched.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// How many symlinks a mount point's own name may be.
const LINKS_MAX: usize = 40;

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id in this table.
    pub id: u64,
    /// `MAJOR:MINOR`, as named under `/sys/class/bdi`.
    pub device: String,
    pub mountpoint: PathBuf,
    /// `fuse.forelog`.
    pub fstype: String,
    pub source: OsString,
}

/// The topmost mount on `mountpoint`, if any. Symlinks are resolved without a look into the mount.
pub fn find(mountpoint: &Path) -> io::Result<Option<Mount>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    // First as given: resolving a path that leads through a dead mount would fail or hang.
    if let Some(m) = find_in(&table, mountpoint) {
        return Ok(Some(m));
    }
    match resolve(mountpoint) {
        Ok(path) => Ok(find_in(&table, &path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// True while a filesystem, by its device number as in [`Mount::device`], is mounted anywhere that we see.
pub fn is_attached(device: &str) -> io::Result<bool> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|b| *b == b'\n').filter_map(parse).any(|m| m.device == device))
}

/// Tells when the table has changed, without reading it.
pub struct Watch(std::fs::File);

impl Watch {
    pub fn new() -> io::Result<Watch> {
        std::fs::File::open("/proc/self/mountinfo").map(Watch)
    }
    /// True if it changed since the last call.
    pub fn changed(&self) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.0, PollFlags::PRI)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(fds[0].revents().intersects(PollFlags::PRI | PollFlags::ERR))
    }
}

/// True if something is mounted on `mountpoint`.
pub fn is_mounted(mountpoint: &Path) -> io::Result<bool> {
    Ok(find(mountpoint)?.is_some())
}

fn find_in(table: &[u8], mountpoint: &Path) -> Option<Mount> {
    // Of stacked mounts the last line is the topmost.
    table.split(|b| *b == b'\n').rev().filter_map(parse).find(|m| m.mountpoint == mountpoint)
}

/// `ID PARENT MAJ:MIN ROOT MOUNTPOINT OPTIONS [FIELD...] - FSTYPE SOURCE OPTIONS`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let text = |f: &[u8]| String::from_utf8_lossy(f).into_owned();
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = text(fields.nth(1)?);
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    fields.find(|f| *f == b"-")?;
    let fstype = text(&unescape(fields.next()?));
    let source = OsString::from_vec(unescape(fields.next()?));
    Some(Mount { id, device, mountpoint, fstype, source })
}

/// Undoes the kernel's `\ooo` (space, tab, newline, backslash, `#`).
fn unescape(field: &[u8]) -> Vec<u8> {
    let octal = |d: &[u8]| -> Option<u8> {
        let [a, b, c] = d else { return None };
        let ok = (b'0'..=b'3').contains(a) && [b, c].iter().all(|d| (b'0'..=b'7').contains(d));
        ok.then(|| (a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
    };
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let coded = (field[at] == b'\\').then(|| field.get(at + 1..at + 4).and_then(octal));
        if let Some(Some(byte)) = coded {
            out.push(byte);
            at += 4;
        } else {
            out.push(field[at]);
            at += 1;
        }
    }
    out
}

/// The absolute path of a mount point with symlinks resolved, its last component by `readlink`
/// only, which asks nothing of a filesystem mounted there.
pub fn resolve(mountpoint: &Path) -> io::Result<PathBuf> {
    let mut path = mountpoint.to_path_buf();
    for _ in 0..LINKS_MAX {
        let Some(name) = path.file_name() else {
            // `/`, or ends in `..`.
            return std::fs::canonicalize(&path);
        };
        // `a/.` has the file name `a`, and so has `a/`; a lone `.` has none.
        let parent = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => std::fs::canonicalize(p)?,
            _ => std::env::current_dir()?,
        };
        let whole = parent.join(name);
        match rustix::fs::readlink(&whole, Vec::new()) {
            Ok(to) => path = parent.join(OsString::from_vec(to.into_bytes())),
            Err(rustix::io::Errno::INVAL) => return Ok(whole),
            Err(e) => return Err(e.into()),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

/// Escapes as the kernel and libmount do.
pub fn escape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    for b in field {
        if matches!(b, b' ' | b'\t' | b'\n' | b'\r' | b'\\' | b'#') {
            out.extend_from_slice(format!("\\{b:03o}").as_bytes());
        } else {
            out.push(*b);
        }
    }
    out
}

/// Bytes of a path, escaped.
pub fn escape_path(path: &Path) -> Vec<u8> {
    escape(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
        77 36 0:50 / /mnt/a\\040b\\011c\\012d\\134e rw,nosuid - fuse.forelog /data\\040x rw\n\
        junk\n\
        78 77 0:51 / /mnt2 rw - tmpfs none rw\n";

    #[test]
    fn lines() {
        let m = find_in(TABLE, Path::new("/mnt/a b\tc\nd\\e")).unwrap();
        assert_eq!((m.id, m.fstype.as_str()), (77, "fuse.forelog"));
        assert_eq!((m.device.as_str(), m.source.to_str()), ("0:50", Some("/data x")));
        assert_eq!(find_in(TABLE, Path::new("/mnt2")).unwrap().fstype, "tmpfs");
        assert!(find_in(TABLE, Path::new("/mnt")).is_none());
    }

    #[test]
    fn escapes_come_back() {
        let odd = b"a b\\040\n\t#\xff\\";
        assert_eq!(unescape(&escape(odd)), odd);
        assert_eq!(unescape(b"\\9\\04"), b"\\9\\04");
        assert_eq!(unescape(b"\\777"), b"\\777");
    }

    #[test]
    fn resolves_its_own_links() {
        let t = tempfile::tempdir().unwrap();
        let base = std::fs::canonicalize(t.path()).unwrap();
        std::fs::create_dir(base.join("m")).unwrap();
        std::os::unix::fs::symlink("m", base.join("l")).unwrap();
        for p in ["m", "m/", "m/.", "l", "l/", "m/../l"] {
            assert_eq!(resolve(&base.join(p)).unwrap(), base.join("m"), "{p}");
        }
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(is_attached(&find(Path::new("/proc")).unwrap().unwrap().device).unwrap());
        assert!(!is_attached("0:99999999").unwrap());
        assert!(Watch::new().unwrap().changed().is_ok());
        assert!(!is_mounted(&base.join("m")).unwrap());
        assert!(!is_mounted(&base.join("none")).unwrap());
    }
}
