//! The table of mounts, `/proc/self/mountinfo`: it names mounts without touching them, so a dead or hung
//! one does no harm. Format: proc_pid_mountinfo(5).

use super::paths::read_small;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    pub mountpoint: PathBuf,
    /// As `fuse.forelog`.
    pub fstype: String,
    pub source: String,
    /// The filesystem's own options, as `rw,user_id=0,group_id=0`.
    pub options: String,
}

impl MountEntry {
    /// True for a mount of ours: type or source says so.
    pub fn is_forelog(&self) -> bool {
        self.fstype.starts_with("fuse") && (self.fstype.ends_with(".forelog") || self.source == "forelog")
    }
    /// Who made a FUSE mount.
    pub fn owner_uid(&self) -> Option<u32> {
        self.options.split(',').find_map(|o| o.strip_prefix("user_id="))?.parse().ok()
    }
}

/// All mounts this process sees, in the order they were made.
pub fn all() -> io::Result<Vec<MountEntry>> {
    let text = read_small(Path::new("/proc/self/mountinfo"), 64 << 20)?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// The mount on top at exactly this canonical path.
pub fn at(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(all()?.into_iter().rev().find(|m| m.mountpoint == path))
}

fn parse(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.get(4)?)));
    // Optional fields lie between the sixth and a lone dash.
    let dash = fields.iter().skip(6).position(|f| *f == b"-")? + 6;
    let text = |i: usize| fields.get(dash + i).map(|f| String::from_utf8_lossy(&unescape(f)).into_owned());
    Some(MountEntry { mountpoint, fstype: text(1)?, source: text(2)?, options: text(3)? })
}

/// Undoes `\040` and its like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&b, tail)) = rest.split_first() {
        let octal = |d: &[u8]| d.iter().try_fold(0u32, |n, &c| Some(n * 8 + (c as char).to_digit(8)?));
        match tail.get(..3).and_then(octal) {
            Some(n) if b == b'\\' && n < 256 => {
                out.push(n as u8);
                rest = &tail[3..];
            }
            _ => {
                out.push(b);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_lines() {
        let m = parse(
            b"36 35 98:0 / /mnt/a\\040b\\134 rw,noatime master:1 x:2 - fuse.forelog /back rw,user_id=7",
        )
        .unwrap();
        assert_eq!(m.mountpoint, Path::new("/mnt/a b\\"));
        assert!(m.is_forelog());
        assert_eq!(m.owner_uid(), Some(7));
        let m = parse(b"36 35 98:0 / /t rw - tmpfs tmpfs rw").unwrap();
        assert!(!m.is_forelog());
        assert_eq!(m.owner_uid(), None);
        for bad in [&b""[..], b"1 2 3", b"36 35 98:0 / /mnt rw,noatime no dash here"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn reads_this_machines_table() {
        assert!(at(Path::new("/")).unwrap().is_some());
        assert!(at(Path::new("/no/such/mount")).unwrap().is_none());
    }
}
