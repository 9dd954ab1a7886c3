//! Checks of the places a mount uses: backing, mount point, log directory, the machine's FUSE.

use super::units::show_size;
use crate::config::{BucketUrl, Place};
use crate::control::render::bytes;
use crate::control::{Abilities, Verdict};
use crate::sys::{fstype, mounts, paths, peercred};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most the log takes unless told otherwise.
const LOG_BYTES_DEFAULT_MAX: u64 = 64 << 30;

/// The smallest log, in segments of the static size.
const LOG_SEGMENTS_MIN: u64 = 4;

/// A mount that does not answer is given up after this.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

fn refuse<T>(message: String) -> Result<T, Verdict> {
    Err(Verdict::refused(message))
}

/// Checks backing and mount point: both canonical.
pub fn places(backing: &str, mountpoint: &Path, abilities: &Abilities) -> Result<(Place, PathBuf), Verdict> {
    if backing.starts_with("s3://") {
        if !abilities.bucket {
            return refuse(format!("{backing}: this build has no bucket backing; give a directory"));
        }
        let url =
            BucketUrl::parse(backing).map_err(|e| Verdict::refused(format!("backing {backing}: {e}")))?;
        let (mountpoint, autofs) = free_mountpoint(mountpoint)?;
        if !autofs {
            empty(&mountpoint)?;
        }
        return Ok((Place::Bucket(url), mountpoint));
    }
    let backing = existing_dir("backing", Path::new(backing))?;
    let (mountpoint, autofs) = free_mountpoint(mountpoint)?;
    let shown = (backing.display(), mountpoint.display());
    let same_object = match (paths::facts(&backing), paths::facts(&mountpoint)) {
        (Ok(b), Ok(m)) => (b.dev, b.ino) == (m.dev, m.ino),
        _ => false,
    };
    if backing == mountpoint || same_object {
        return refuse(format!(
            "{}: backing and mount point are the same directory; mount it elsewhere",
            shown.1
        ));
    }
    if backing.starts_with(&mountpoint) {
        return refuse(format!(
            "the backing {} lies inside the mount point {}: it would hide itself; mount elsewhere",
            shown.0, shown.1
        ));
    }
    if mountpoint.starts_with(&backing) {
        return refuse(format!(
            "the mount point {} lies inside the backing {}: it would show itself; mount elsewhere",
            shown.1, shown.0
        ));
    }
    // An automount point is not looked into: that would wait for the very mount it is to become.
    if !autofs {
        empty(&mountpoint)?;
    }
    Ok((Place::Directory(backing), mountpoint))
}

fn empty(mountpoint: &Path) -> Result<(), Verdict> {
    let shown = mountpoint.display();
    match paths::dir_is_empty(mountpoint) {
        Ok(true) => Ok(()),
        Ok(false) => refuse(format!(
            "mount point {shown}: not empty; its files would be hidden; use an empty directory"
        )),
        Err(e) => refuse(format!("mount point {shown}: {e}")),
    }
}

fn existing_dir(what: &str, path: &Path) -> Result<PathBuf, Verdict> {
    let shown = path.display();
    // A dead network mount must not hang the command for ever.
    match fstype::probe(path, PROBE_LIMIT) {
        fstype::Probe::Hangs => {
            return refuse(format!("{what} {shown}: does not answer within {} s", PROBE_LIMIT.as_secs()));
        }
        fstype::Probe::Dead => {
            return refuse(format!("{what} {shown}: its own mount is dead (transport not connected)"));
        }
        fstype::Probe::Answers | fstype::Probe::Fails(_) => {}
    }
    match paths::facts(path) {
        Ok(f) if f.is_dir => {
            paths::canonical(path).map_err(|e| Verdict::refused(format!("{what} {shown}: {e}")))
        }
        Ok(_) => refuse(format!("{what} {shown}: not a directory")),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            refuse(format!("{what} {shown}: no such directory; make it first"))
        }
        Err(e) => refuse(format!("{what} {shown}: {e}")),
    }
}

/// A directory with no mount on it, or (true) an automount point.
fn free_mountpoint(path: &Path) -> Result<(PathBuf, bool), Verdict> {
    let shown = path.display();
    let name = paths::canonical_mountpoint(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            Verdict::refused(format!("mount point {shown}: no such directory; make it first"))
        }
        _ => Verdict::refused(format!("mount point {shown}: {e}")),
    })?;
    let mounted = mounts::at(&name).map_err(|e| Verdict::refused(format!("/proc/self/mountinfo: {e}")))?;
    // An automount point is a mount waiting for ours on top.
    let autofs = mounted.as_ref().is_some_and(|m| m.fstype == "autofs");
    if let Some(mount) = mounted.filter(|m| m.fstype != "autofs") {
        return match fstype::probe(&name, PROBE_LIMIT) {
            // Its gateway died, and nobody is there to ask but the next mount.
            fstype::Probe::Dead if mount.is_forelog() => {
                fstype::detach(&name).map_err(|e| {
                    Verdict::refused(format!(
                        "mount point {shown}: the dead mount there cannot be taken off: {e}"
                    ))
                })?;
                log::warn!("mount point {shown}: its gateway had died; the dead mount was taken off");
                // What it covered may be a mount itself.
                free_mountpoint(path)
            }
            fstype::Probe::Dead => refuse(format!(
                "mount point {shown}: a dead mount is still there; take it off with `umount -l {shown}`"
            )),
            _ => refuse(format!(
                "mount point {shown}: already mounted ({} from {}); unmount it first",
                mount.fstype, mount.source
            )),
        };
    }
    Ok((existing_dir("mount point", &name)?, autofs))
}

/// Checks where the log is to be: canonical, it may not exist yet.
pub fn log_dir(dir: &Path, backing: &Place, mountpoint: &Path) -> Result<PathBuf, Verdict> {
    let found = paths::canonical_prefix(dir)
        .map_err(|e| Verdict::refused(format!("log directory {}: {e}", dir.display())))?;
    let shown = found.display();
    let backing = match backing {
        Place::Directory(d) => Some(d.as_path()),
        Place::Bucket(_) => None,
    };
    for (place, what) in [(Some(mountpoint), "mount point"), (backing, "backing")] {
        let Some(place) = place else { continue };
        if found.starts_with(place) {
            return refuse(format!(
                "log directory {shown}: lies inside the {what} {}; give a --log-dir on a local disk",
                place.display()
            ));
        }
    }
    match paths::facts(&found) {
        Ok(f) if !f.is_dir => refuse(format!("log directory {shown}: not a directory")),
        Ok(_) => Ok(found),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(found),
        Err(e) => refuse(format!("log directory {shown}: {e}")),
    }
}

/// Checks the device of the log and returns its capacity: as given, else a quarter of the free space and at
/// most 64 GiB. Space an existing log already has counts as free.
pub fn log_space(
    dir: &Path,
    given: Option<u64>,
    segment_bytes: u64,
    notes: &mut Vec<String>,
) -> Result<u64, Verdict> {
    let shown = dir.display();
    let store = fstype::store_of(&paths::existing_ancestor(dir))
        .map_err(|e| Verdict::refused(format!("log directory {shown}: {e}")))?;
    if let Some(kind) = store.remote {
        return refuse(format!(
            "log directory {shown}: on a network or FUSE filesystem ({kind}), which cannot keep the log's promise; give a --log-dir on a local disk"
        ));
    }
    if store.volatile {
        notes.push(format!("the log directory {shown} is in memory: a power cut loses what is in the log"));
    }
    let free = store.free_bytes.saturating_add(paths::allocated_bytes(dir, 3));
    let smallest = segment_bytes.saturating_mul(LOG_SEGMENTS_MIN);
    if free < smallest {
        return refuse(format!(
            "log directory {shown}: {} free, and the smallest log takes {}, four segments; make room or choose another --log-dir",
            bytes(free),
            bytes(smallest)
        ));
    }
    match given {
        None => Ok((free / 4).min(LOG_BYTES_DEFAULT_MAX).max(smallest)),
        Some(size) if size < smallest => refuse(format!(
            "--log-size {}: less than four segments of {}; give more, or a smaller --segment-size",
            show_size(size),
            show_size(segment_bytes)
        )),
        Some(size) if size > free => refuse(format!(
            "--log-size {}: only {} free in {shown}; give less or make room",
            show_size(size),
            bytes(free)
        )),
        Some(size) => Ok(size),
    }
}

/// Checks that this user can mount FUSE here.
pub fn fuse_available() -> Result<(), Verdict> {
    if !paths::exists(Path::new("/dev/fuse")) {
        return refuse(
            "/dev/fuse is missing: load the module (`modprobe fuse`), or give the container the device"
                .into(),
        );
    }
    if peercred::own_uid() != 0 && paths::find_program("fusermount3").is_none() {
        return refuse(
            "not root, and fusermount3 is not installed: install the package fuse3, or mount as root".into(),
        );
    }
    Ok(())
}
