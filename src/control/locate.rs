//! Where the control socket of a mount point is. Found by the mount point's name alone, so that a dead
//! or hung mount can still be asked for, and none is ever touched here.

use crate::sys::{mounts, paths, peercred};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Largest note beside a socket.
const NOTE_BYTES_MAX: u64 = 64 << 10;

/// The socket of a mount point and the note beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub socket: PathBuf,
    pub note: PathBuf,
}

/// What the note says: enough to name a gateway that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub pid: u32,
    pub mountpoint: String,
    pub log_dir: String,
}

impl Place {
    /// The place in a runtime directory.
    pub fn of(dir: &Path, mountpoint: &Path) -> Place {
        let name = format!("{:016x}", paths::stable_hash(mountpoint.as_os_str().as_bytes()));
        Place { socket: dir.join(format!("{name}.sock")), note: dir.join(format!("{name}.json")) }
    }

    /// The note, if there is one that can be read.
    pub fn read_note(&self) -> Option<Note> {
        serde_json::from_slice(&paths::read_small(&self.note, NOTE_BYTES_MAX).ok()?).ok()
    }

    /// Writes the note.
    pub fn write_note(&self, note: &Note) -> io::Result<()> {
        paths::write_private(&self.note, &serde_json::to_vec(note)?)
    }

    /// Removes both.
    pub fn remove(&self) -> io::Result<()> {
        paths::remove(&self.socket)?;
        paths::remove(&self.note)
    }
}

/// The place for a gateway of this process, its directory made: `/run/forelog` as root, else
/// `$XDG_RUNTIME_DIR/forelog` or `/tmp/forelog-UID`, which only we may write to.
///
/// # Errors
/// When the directory cannot be made or is somebody else's.
pub fn make_place(mountpoint: &Path) -> io::Result<Place> {
    let uid = peercred::own_uid();
    let mut dirs = own_dirs(uid);
    // A user who did not log in, as under su or cron, has no /run/user/UID.
    let there = dirs.iter().position(|d| d.parent().is_some_and(paths::exists));
    let dir = dirs.swap_remove(there.unwrap_or(0));
    paths::own_dir(&dir, if uid == 0 { 0o755 } else { 0o700 }, uid)
        .map_err(|e| io::Error::new(e.kind(), format!("the runtime directory {}: {e}", dir.display())))?;
    Ok(Place::of(&dir, mountpoint))
}

/// Where this user's gateways have their sockets, best first.
fn own_dirs(uid: u32) -> Vec<PathBuf> {
    if let Some(dir) = std::env::var_os("FORELOG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        return vec![dir.into()];
    }
    if uid == 0 {
        return vec!["/run/forelog".into()];
    }
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|d| d.is_absolute());
    xdg.map(|d| d.join("forelog")).into_iter().chain(dirs_of(uid)).collect()
}

/// Where another user's gateway may have its socket.
fn dirs_of(uid: u32) -> [PathBuf; 2] {
    [PathBuf::from(format!("/run/user/{uid}/forelog")), PathBuf::from(format!("/tmp/forelog-{uid}"))]
}

/// A mount point as asked for, and where its gateway may be reached.
#[derive(Clone, Debug)]
pub struct Located {
    /// Canonical.
    pub mountpoint: PathBuf,
    /// The existing place, if any.
    pub place: Option<Place>,
    /// What the kernel has mounted there, if anything.
    pub mount: Option<mounts::MountEntry>,
}

/// Looks a mount point up. Works whether its mount lives, is dead or is gone.
///
/// # Errors
/// When the parent directory of `path` cannot be resolved.
pub fn locate(path: &Path) -> io::Result<Located> {
    let mountpoint = paths::canonical_mountpoint(path)?;
    let mount = mounts::at(&mountpoint).ok().flatten();
    let uid = peercred::own_uid();
    let mut dirs: Vec<(PathBuf, u32)> = own_dirs(uid).into_iter().map(|d| (d, uid)).collect();
    dirs.push(("/run/forelog".into(), 0));
    if let Some(owner) = mount.as_ref().and_then(|m| m.owner_uid()).filter(|&o| o != 0) {
        dirs.extend(dirs_of(owner).map(|d| (d, owner)));
    }
    // A directory that others could write to may hold a forged socket.
    let place = dirs
        .into_iter()
        .filter(|(dir, owner)| paths::is_own_dir(dir, *owner))
        .map(|(dir, _)| Place::of(&dir, &mountpoint))
        .find(|p| paths::exists(&p.socket));
    Ok(Located { mountpoint, place, mount })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_notes_survive() {
        let t = tempfile::tempdir().unwrap();
        let place = Place::of(t.path(), Path::new("/mnt/x"));
        assert_eq!(place.socket.file_name().unwrap(), "5af2d1bcdc204eb4.sock");
        assert_ne!(place, Place::of(t.path(), Path::new("/mnt/y")));
        assert_eq!(place.read_note(), None);
        let note = Note { pid: 7, mountpoint: "/mnt/x".into(), log_dir: "/l".into() };
        place.write_note(&note).unwrap();
        assert_eq!(place.read_note(), Some(note));
        std::os::unix::net::UnixListener::bind(&place.socket).unwrap();
        place.remove().unwrap();
        place.remove().unwrap();
        assert_eq!(place.read_note(), None);
    }

    #[test]
    fn what_is_not_mounted_is_located_as_such() {
        let t = tempfile::tempdir().unwrap();
        let found = locate(&t.path().join("no")).unwrap();
        assert!(found.place.is_none() && found.mount.is_none());
        assert!(locate(&t.path().join("no/such")).is_err());
    }
}
