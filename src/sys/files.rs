//! Small whole files of the gateway's own: read, write whole or not at all, private directories.

use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Identity of the machine's present boot; empty where the kernel does not say.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}

/// Identity of the installed system, as systemd and D-Bus keep it; empty where there is none.
pub fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// 128 random bits from the kernel.
pub fn random_u128() -> io::Result<u128> {
    use std::io::Read;
    let mut b = [0u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut b)?;
    Ok(u128::from_le_bytes(b))
}

/// The whole content of a file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

/// Replaces the file at `path` by one holding `bytes`, with permission bits `mode`. After a crash
/// at any instant it is wholly the old or wholly the new one; durable on return.
/// Two callers must not write one path at once: the temporary name `<path>.new` is fixed, so that
/// crashes leave at most one.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    remove(&new)?;
    let made = write_new(&new, bytes, mode).and_then(|()| std::fs::rename(&new, path));
    if let Err(e) = made {
        let _ = remove(&new);
        return Err(e);
    }
    sync_dir(parent_of(path))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW.bits() as i32;
    let mut f = OpenOptions::new().write(true).create_new(true).mode(mode).custom_flags(flags).open(path)?;
    f.write_all(bytes)?;
    // The umask may have cut it.
    f.set_permissions(std::fs::Permissions::from_mode(mode))?;
    f.sync_all()
}

/// Opens a new file for writing, with permission bits `mode` that the umask may cut. `AlreadyExists` when there is one.
pub fn create_new(path: &Path, mode: u32) -> io::Result<impl Write + Send + use<>> {
    let flags = OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().write(true).create_new(true).mode(mode).custom_flags(flags).open(path)
}

/// Whether a regular file is there, itself or by a symlink.
pub fn is_regular(path: &Path) -> bool {
    path.is_file()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut s = path.as_os_str().to_os_string();
    s.push(suffix);
    PathBuf::from(s)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Makes the entries of a directory durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes `path` a directory that only we can enter (0700), with its parents (0755 less umask)
/// where missing. Refuses a symlink, a non-directory and another user's directory; one of ours
/// that is open to others is closed to them.
pub fn create_dir_private(path: &Path) -> io::Result<()> {
    let parent = parent_of(path);
    let failed = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
    let made = match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
        Err(e) => return Err(failed(e)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir: File = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd.into(),
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
            let text = format!("{} is not a directory (or is a symlink)", path.display());
            return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
        }
        Err(e) => return Err(failed(e.into())),
    };
    let meta = dir.metadata()?;
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != us {
        let text = format!("{} belongs to uid {}, we are uid {us}", path.display(), meta.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if meta.mode() & 0o777 != 0o700 {
        dir.set_permissions(std::fs::Permissions::from_mode(0o700))?;
    }
    if made {
        sync_dir(parent)?;
    }
    Ok(())
}

/// Names in a directory, sorted; those that are not UTF-8 are left out (none of ours is).
pub fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes a file; fine if it is not there.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes an empty directory.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    std::fs::remove_dir(path)
}

/// Whether a directory stands there.
pub fn is_dir(path: &Path) -> bool {
    path.is_dir()
}

/// Size of a file in bytes; `None` if there is none.
pub fn size(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::symlink_metadata(path) {
        Ok(m) => Ok(Some(m.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The path with every symlink resolved. Do not call it on a mount of ours that nobody serves.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    std::fs::canonicalize(path)
}

/// True if both paths name the same object.
pub fn same_object(a: &Path, b: &Path) -> io::Result<bool> {
    let at = |p: &Path| rustix::fs::statat(rustix::fs::CWD, p, AtFlags::empty());
    let (a, b) = (at(a)?, at(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_is_whole_and_private() {
        let t = tempfile::tempdir().unwrap();
        let p = t.path().join("state");
        write_atomic(&p, b"one", 0o600).unwrap();
        std::fs::write(t.path().join("state.new"), b"torn").unwrap();
        write_atomic(&p, b"two", 0o640).unwrap();
        assert_eq!(read(&p).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&p).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(list(t.path()).unwrap(), ["state"]);
        assert_eq!(size(&p).unwrap(), Some(3));
        assert_eq!(size(&t.path().join("no")).unwrap(), None);
        remove(&p).unwrap();
        remove(&p).unwrap();
    }

    #[test]
    fn private_directory() {
        let t = tempfile::tempdir().unwrap();
        let p = t.path().join("a/b/c");
        create_dir_private(&p).unwrap();
        assert_eq!(std::fs::metadata(&p).unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&p, std::fs::Permissions::from_mode(0o755)).unwrap();
        create_dir_private(&p).unwrap();
        assert_eq!(std::fs::metadata(&p).unwrap().mode() & 0o777, 0o700);
        std::os::unix::fs::symlink(&p, t.path().join("link")).unwrap();
        let e = create_dir_private(&t.path().join("link")).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::NotADirectory);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&p, Some(12345), None).unwrap();
            let e = create_dir_private(&p).unwrap_err();
            assert!(e.to_string().contains("uid 12345"), "{e}");
        }
    }
}
