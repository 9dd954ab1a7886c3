//! Files and paths of the program's shell: canonical names, private files, small reads. The data path
//! (log, backing) has its own door.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// FNV-1a, 64 bits (Fowler, Noll, Vo): small, and the same in every build for ever, unlike std's hasher.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// What the shell asks of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub is_dir: bool,
    pub dev: u64,
    pub ino: u64,
    pub uid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// `stat`, following symlinks.
pub fn facts(path: &Path) -> io::Result<Facts> {
    let m = fs::metadata(path)?;
    Ok(Facts { is_dir: m.is_dir(), dev: m.dev(), ino: m.ino(), uid: m.uid(), mode: m.mode() & 0o7777 })
}

/// The path with every symlink resolved; it must exist.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

/// The path made absolute, its nearest existing ancestor canonical. The rest need not exist.
pub fn canonical_prefix(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut missing: Vec<OsString> = Vec::new();
    let mut head = path.as_path();
    loop {
        match fs::canonicalize(head) {
            Ok(mut found) => {
                found.extend(missing.iter().rev());
                return Ok(found);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => match (head.parent(), head.file_name()) {
                (Some(up), Some(last)) => {
                    missing.push(last.to_owned());
                    head = up;
                }
                _ => return Err(e),
            },
            Err(e) => return Err(e),
        }
    }
}

/// The nearest ancestor of an absolute path (itself included) that exists.
pub fn existing_ancestor(path: &Path) -> PathBuf {
    path.ancestors().find(|p| fs::symlink_metadata(p).is_ok()).unwrap_or(Path::new("/")).to_path_buf()
}

/// The canonical name of a mount point that may be dead or hung: only its parent is walked, the last
/// component is never opened or stat'ed. A symlink there is read, which asks nothing of a filesystem
/// mounted on it.
pub fn canonical_mountpoint(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..40 {
        let joined = match path.components().next_back() {
            None | Some(Component::CurDir) => return std::env::current_dir(),
            Some(Component::RootDir) => return Ok(PathBuf::from("/")),
            Some(Component::Normal(last)) => {
                let up = match path.parent() {
                    Some(p) if !p.as_os_str().is_empty() => fs::canonicalize(p)?,
                    _ => std::env::current_dir()?,
                };
                up.join(last)
            }
            Some(_) => return fs::canonicalize(&path),
        };
        match fs::read_link(&joined) {
            Ok(target) => {
                path = joined.parent().unwrap_or(Path::new("/")).join(target);
            }
            Err(_) => return Ok(joined),
        }
    }
    Err(io::Error::other("too many symlinks"))
}

/// True when the directory has no entry.
pub fn dir_is_empty(path: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(path)?.next().is_none())
}

/// Bytes allocated by the plain files in `path` and, `depth` levels down, its directories; 0 when it does
/// not exist.
pub fn allocated_bytes(path: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .filter_map(|e| e.ok())
        .map(|e| match e.metadata() {
            Ok(m) if m.is_file() => m.blocks().saturating_mul(512),
            Ok(m) if m.is_dir() && depth > 0 => allocated_bytes(&e.path(), depth - 1),
            _ => 0,
        })
        .fold(0, u64::saturating_add)
}

/// Makes a directory and its parents with `mode`; one that exists is left as it is.
pub fn make_dirs(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Makes one directory with exactly `mode`; one that exists must be a real directory of `uid` that
/// nobody else may write to.
pub fn own_dir(path: &Path, mode: u32, uid: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        // The mode asked for at creation is cut by the umask.
        Ok(()) => fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    if !is_own_dir(path, uid) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is not a directory that only uid {uid} can write to", path.display()),
        ));
    }
    Ok(())
}

/// True when `path` is a real directory (no symlink) of `uid`, closed to the writes of others.
pub fn is_own_dir(path: &Path, uid: u32) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir() && m.uid() == uid && m.mode() & 0o022 == 0)
}

/// True when the name exists; a symlink counts as itself.
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Reads a file of at most `bytes_max`.
pub fn read_small(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut out)?;
    if out.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {bytes_max} bytes")));
    }
    Ok(out)
}

/// Replaces a file of mode 0600 by rename, so that a reader sees the old or the new text.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    remove(Path::new(&part))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    fs::rename(&part, path)
}

/// Removes a file; one that is not there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Opens a log file for appends, mode 0600. One larger than `rotate_bytes` is first renamed to `NAME.1`.
pub fn open_log(path: &Path, rotate_bytes: u64) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() > rotate_bytes) {
        let mut old = path.as_os_str().to_owned();
        old.push(".1");
        fs::rename(path, &old)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Tries to make and remove a file, the only honest test that a directory can be written to.
pub fn probe_writable(dir: &Path) -> io::Result<()> {
    let probe = dir.join(format!(".probe-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe)?;
    fs::remove_file(&probe)
}

/// Finds a program in `$PATH` and the usual places.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|p| fs::metadata(p).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0))
}

/// A file name of readable characters made of `text`, at most 32 bytes.
pub fn readable_name(text: &OsStr) -> String {
    let keep = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
    let name: String =
        text.as_bytes().iter().take(32).map(|b| if keep(b) { *b as char } else { '_' }).collect();
    name.trim_start_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_the_published_fnv() {
        assert_eq!(stable_hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(stable_hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn mountpoints_are_named_without_touching_them() {
        let t = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(t.path()).unwrap();
        fs::create_dir(root.join("m")).unwrap();
        std::os::unix::fs::symlink("m", root.join("l")).unwrap();
        for name in ["m", "m/", "./m", "l", "gone"] {
            let want = if name == "gone" { "gone" } else { "m" };
            assert_eq!(canonical_mountpoint(&root.join(name)).unwrap(), root.join(want), "{name}");
        }
        assert_eq!(canonical_mountpoint(Path::new("/")).unwrap(), Path::new("/"));
        assert!(canonical_mountpoint(&root.join("none/x")).is_err());
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        assert!(canonical_mountpoint(&root.join("loop")).is_err());
    }

    #[test]
    fn prefix_keeps_what_does_not_exist() {
        let t = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(t.path()).unwrap();
        assert_eq!(canonical_prefix(&root.join("a/b")).unwrap(), root.join("a/b"));
        assert_eq!(existing_ancestor(&root.join("a/b")), root);
    }

    #[test]
    fn private_dirs_and_logs() {
        let t = tempfile::tempdir().unwrap();
        let uid = facts(t.path()).unwrap().uid;
        let dir = t.path().join("d");
        own_dir(&dir, 0o700, uid).unwrap();
        own_dir(&dir, 0o700, uid).unwrap();
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(own_dir(&dir, 0o700, uid).is_err());
        let log = t.path().join("x.log");
        open_log(&log, 4).unwrap().write_all(b"12345").unwrap();
        open_log(&log, 4).unwrap().write_all(b"6").unwrap();
        assert_eq!(read_small(&log, 10).unwrap(), b"6");
        assert_eq!(read_small(&t.path().join("x.log.1"), 10).unwrap(), b"12345");
        assert!(read_small(&t.path().join("x.log.1"), 4).is_err());
    }
}
