//! What the verbs that talk to a running gateway share.

use crate::control::Verdict;
use crate::control::client::{Connection, NoGateway, connect};
use crate::control::locate::{Located, locate};
use crate::control::protocol::{Reply, Request};
use crate::control::status::Status;
use std::path::Path;
use std::time::Duration;

/// A snapshot never waits for the backing, so this is plenty.
const STATUS_LIMIT: Duration = Duration::from_secs(10);

/// Looks a mount point up, without touching it.
pub fn find(path: &Path) -> Result<Located, Verdict> {
    locate(path).map_err(|e| Verdict::refused(format!("{}: {e}", path.display())))
}

/// Connects to the gateway of a mount point, or says in one line why not.
pub fn reach(path: &Path) -> Result<Connection, Verdict> {
    let located = find(path)?;
    connect(&located).map_err(|why| Verdict::refused(no_gateway(&located, &why)))
}

/// Why there is nobody to talk to.
pub fn no_gateway(located: &Located, why: &NoGateway) -> String {
    let shown = located.mountpoint.display();
    match why {
        NoGateway::None => match &located.mount {
            None => format!("{shown}: no forelog is mounted there"),
            Some(m) if m.is_forelog() => format!("{shown}: mounted, but its gateway does not listen"),
            Some(m) => format!("{shown}: not a forelog mount ({} from {})", m.fstype, m.source),
        },
        NoGateway::Stale { pid, log_dir } => {
            let pid = pid.map(|p| format!(" (pid {p})")).unwrap_or_default();
            let log = log_dir.as_deref().map(|d| format!(" in {d}")).unwrap_or_default();
            let first = match located.mount {
                Some(_) => format!("`forelog umount {shown}`, then "),
                None => String::new(),
            };
            format!(
                "{shown}: its gateway{pid} is gone; the log{log} is kept: {first}mount it again to resume"
            )
        }
        NoGateway::Denied => format!("{shown}: mounted by another user; ask as that user or as root"),
        NoGateway::Failed(e) => format!("{shown}: cannot reach the gateway: {e}"),
    }
}

/// A snapshot of a mount's gateway.
pub fn status(path: &Path) -> Result<Status, Verdict> {
    let failed = |e: String| Verdict::refused(format!("{}: {e}", path.display()));
    match reach(path)?.call(&Request::Status, Some(STATUS_LIMIT), &mut |_| ()).map_err(failed)? {
        Reply::Status(status) => Ok(*status),
        Reply::Refused { code, message, .. } => Err(Verdict { code, message }),
        _ => Err(failed("the gateway gave no status".into())),
    }
}

/// A deadline for the gateway, and a later one for its answer: it may be in the middle of one long call.
pub fn limits(timeout: Option<Duration>) -> (Option<u64>, Option<Duration>) {
    let ms = timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
    (ms, timeout.map(|t| t.saturating_add(Duration::from_secs(60))))
}
