//! `forelog undo` and `forelog versions`: what was, from what a mount keeps of its changes.
//!
//! The history is read from the log's directory, which only the mount's owner and root may read, and what is restored is
//! written through the mount as by any program: logged, crash-safe, and itself to be undone.

mod apply;
mod done;
mod then;
mod versions;
mod when;

pub use versions::run as run_versions;

use super::args_undo::UndoArgs;
use super::gateway::{limits, no_gateway, status};
use super::output;
use super::progress::Shown;
use crate::control::Verdict;
use crate::control::client::connect;
use crate::control::locate::locate;
use crate::control::protocol::{Reply, Request};
use crate::control::queue::escaped;
use crate::control::status::Status;
use crate::sys::clock::{Clock, RealClock};
use crate::sys::restore::Tree;
use crate::sys::{limits as process, mounts, paths};
use crate::types::Lsn;
use crate::undo::{History, Past, load};
use apply::{Job, Plan};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use then::Then;

/// A path in a mount that keeps its changes.
struct Asked {
    mountpoint: PathBuf,
    /// Relative to the mount, as the gateway knows it.
    path: Vec<u8>,
    status: Status,
}

/// The mount that a path is in, and its gateway's state. The path need not exist.
fn asked(path: &Path) -> Result<Asked, Verdict> {
    let shown = path.display();
    let failed = |e: std::io::Error| Verdict::refused(format!("{shown}: {e}"));
    // A symlink at the end is meant itself.
    let whole = match (path.parent(), path.file_name()) {
        (Some(up), Some(name)) if !up.as_os_str().is_empty() => {
            paths::canonical_prefix(up).map_err(failed)?.join(name)
        }
        (_, Some(name)) => paths::canonical_prefix(Path::new(".")).map_err(failed)?.join(name),
        _ => paths::canonical_prefix(path).map_err(failed)?,
    };
    let is_ours = |p: &&Path| mounts::at(p).ok().flatten().is_some_and(|m| m.is_forelog());
    let Some(mountpoint) = whole.ancestors().find(is_ours) else {
        return Err(Verdict::refused(format!("{shown}: not in a forelog mount")));
    };
    let status = status(mountpoint)?;
    if !status.kept.on {
        let what = "this mount keeps no changes; mount with --keep-log DURATION to be able to undo";
        return Err(Verdict::refused(format!("{shown}: {what}")));
    }
    let relative = whole.strip_prefix(mountpoint).unwrap_or(Path::new(""));
    Ok(Asked { mountpoint: mountpoint.to_path_buf(), path: relative.as_os_str().as_bytes().to_vec(), status })
}

/// All that was written before is to be in the backing: what it held until then is kept by that.
fn flush(at: &Path, timeout: Duration, quiet: bool) -> Result<(), Verdict> {
    let located = locate(at).map_err(|e| Verdict::refused(format!("{}: {e}", at.display())))?;
    let mut c = connect(&located).map_err(|why| Verdict::refused(no_gateway(&located, &why)))?;
    let (timeout_ms, limit) = limits(Some(timeout));
    let mut progress = Shown::new(quiet);
    let reply = c.call(&Request::Flush { paths: Vec::new(), timeout_ms }, limit, &mut |p| progress.update(p));
    progress.finish();
    let shown = at.display();
    match reply.map_err(|e| Verdict::refused(format!("{shown}: {e}")))? {
        Reply::Done { .. } => Ok(()),
        Reply::Refused { message, .. } => Err(Verdict::refused(format!(
            "{shown}: what was changed must first be in the backing, and is not: {message}"
        ))),
        _ => Err(Verdict::refused(format!("{shown}: the gateway gave no answer"))),
    }
}

/// Reads the history of a mount.
fn history(a: &Asked) -> Result<History, Verdict> {
    if let Err(e) = process::raise_open_files() {
        log::debug!("raising the limit of open files failed: {e}");
    }
    let upto = Lsn(a.status.log.appended_lsn);
    load(Path::new(&a.status.log_dir), upto, RealClock.wall_ns()).map_err(Verdict::refused)
}

/// Runs the verb.
pub fn run(args: &UndoArgs) -> Verdict {
    attempt(args).unwrap_or_else(|verdict| verdict)
}

fn attempt(args: &UndoArgs) -> Result<Verdict, Verdict> {
    let now_ns = RealClock.wall_ns();
    let to_ns = when::parse(&args.to, now_ns)
        .map_err(|e| Verdict { code: 1, message: format!("--to {}: {e}", args.to) })?;
    let first = asked(&args.path)?;
    let shown = escaped(args.path.as_os_str().as_bytes());
    let out = match &args.output {
        Some(dir) => Some(Tree::open(dir).map_err(|e| Verdict::refused(format!("{}: {e}", dir.display())))?),
        None => None,
    };
    // As long as the mount is ours to write to, what fails now would fail half-way.
    flush(&first.mountpoint, args.timeout, args.quiet)?;
    let a = asked(&args.path)?;
    let h = history(&a)?;
    for note in &h.notes {
        eprintln!("forelog: {}: {note}", a.status.log_dir);
    }
    let past = Past::new(&h, to_ns).map_err(|e| {
        let floor = when::show(h.floor_ns);
        Verdict::refused(format!("{shown}: {} {e}, which begins at {floor}", when::show(to_ns)))
    })?;
    let tree = Tree::open(&a.mountpoint)
        .map_err(|e| Verdict::refused(format!("{}: {e}", a.mountpoint.display())))?;
    let then = Then::new(&past, &tree);
    let wanted = then.collect(&a.path).map_err(|e| Verdict::refused(format!("{shown}: {e}")))?;
    if wanted.is_empty() && !(args.delete && tree.stat(&a.path).ok().flatten().is_some()) {
        return Err(Verdict::refused(format!("{shown}: it did not exist at {}", when::show(to_ns))));
    }
    let plan = Plan { history: &h, tree: &tree, then: &then, top: &a.path, wanted, delete: args.delete };
    let done = Job::new(plan, out.as_ref(), args.dry_run, args.quiet, RealClock.wall_ns()).run();
    let done = done.map_err(|e| Verdict::refused(format!("{shown}: {e}")))?;
    let text = format!("{shown} at {}: {}", when::show(to_ns), done.text(args.dry_run, out.is_some()));
    match done.failed {
        0 => Ok(output::print(&output::line(text))),
        _ => Err(Verdict::refused(text)),
    }
}
