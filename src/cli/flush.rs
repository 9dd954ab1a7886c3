//! `forelog flush`: returns when all written before is in the backing.

use super::args::FlushArgs;
use super::gateway::{find, limits, no_gateway};
use super::progress::Shown;
use crate::control::Verdict;
use crate::control::client::connect;
use crate::control::protocol::{Reply, Request};
use crate::sys::paths;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Runs the verb.
pub fn run(args: &FlushArgs) -> Verdict {
    match attempt(args) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

fn attempt(args: &FlushArgs) -> Result<Verdict, Verdict> {
    let located = find(&args.mountpoint)?;
    let shown = located.mountpoint.display();
    let mut connection = connect(&located).map_err(|why| Verdict::refused(no_gateway(&located, &why)))?;
    let paths = args
        .paths
        .iter()
        .map(|p| inside(&located.mountpoint, p).map_err(Verdict::refused))
        .collect::<Result<Vec<_>, _>>()?;
    let (timeout_ms, limit) = limits(args.timeout);
    let mut progress = Shown::new(args.quiet);
    let reply = connection.call(&Request::Flush { paths, timeout_ms }, limit, &mut |p| progress.update(p));
    progress.finish();
    match reply.map_err(|e| Verdict::refused(format!("{shown}: {e}")))? {
        Reply::Done { message, .. } => Ok(Verdict::done(message)),
        Reply::Refused { code, message, .. } => Err(Verdict { code, message }),
        _ => Err(Verdict::refused(format!("{shown}: the gateway gave no answer to the flush"))),
    }
}

/// A path as the gateway knows it: relative to the root of the mount. A relative one is taken from where
/// we stand when that is in the mount, else from the mount's root.
pub fn inside(mountpoint: &Path, path: &Path) -> Result<Vec<u8>, String> {
    let canonical = |p: &Path| paths::canonical_mountpoint(p).ok();
    let here = canonical(path).filter(|p| p.starts_with(mountpoint));
    let there = || canonical(&mountpoint.join(path)).filter(|p| p.starts_with(mountpoint));
    let found = here
        .or_else(there)
        .ok_or_else(|| format!("{}: not in the mount {}", path.display(), mountpoint.display()))?;
    if !paths::exists(&found) {
        return Err(format!("{}: no such file", found.display()));
    }
    let relative = found.strip_prefix(mountpoint).map_err(|e| e.to_string())?;
    Ok(relative.as_os_str().as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_relative_to_the_mount() {
        let t = tempfile::tempdir().unwrap();
        let root = paths::canonical(t.path()).unwrap();
        paths::make_dirs(&root.join("d"), 0o755).unwrap();
        let ok = |p: &Path| inside(&root, p).unwrap();
        assert_eq!(ok(&root.join("d")), b"d");
        assert_eq!(ok(Path::new("d")), b"d");
        assert_eq!(ok(&root), b"");
        assert!(inside(&root, Path::new("/etc")).unwrap_err().contains("not in the mount"));
        assert!(inside(&root, Path::new("d/../..")).is_err());
        assert!(inside(&root, Path::new("none")).unwrap_err().contains("no such file"));
    }
}
