//! `forelog umount`: asks the gateway to drain and unmount, and waits until its process has ended; a dead
//! mount it takes off itself.

use super::args::UmountArgs;
use super::gateway::{find, limits, no_gateway};
use super::progress::Shown;
use crate::control::Verdict;
use crate::control::client::{Connection, NoGateway, connect};
use crate::control::locate::Located;
use crate::control::protocol::{Reply, Request};
use crate::sys::fstype::{self, Probe};
use std::time::Duration;

/// After its last answer a gateway has only to close its files.
const END_LIMIT: Duration = Duration::from_secs(60);

/// With bytes left, the backing may hang and with it the gateway's end.
const LEAVE_LIMIT: Duration = Duration::from_secs(8);

const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// Runs the verb.
pub fn run(args: &UmountArgs) -> Verdict {
    match attempt(args) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

fn attempt(args: &UmountArgs) -> Result<Verdict, Verdict> {
    let located = find(&args.mountpoint)?;
    match connect(&located) {
        Ok(connection) => ask(args, &located, connection),
        Err(why) => without_gateway(args, &located, &why),
    }
}

fn ask(args: &UmountArgs, located: &Located, mut connection: Connection) -> Result<Verdict, Verdict> {
    let shown = located.mountpoint.display();
    let (timeout_ms, limit) = limits(Some(args.timeout));
    let request = Request::Umount { timeout_ms, no_wait: args.no_wait };
    let mut progress = Shown::new(args.quiet);
    let reply = connection.call(&request, limit, &mut |p| progress.update(p));
    progress.finish();
    let reply = match reply {
        Ok(reply) => reply,
        Err(e) => {
            return gone_meanwhile(args).unwrap_or_else(|| {
                Err(Verdict::refused(format!("{shown}: {e}; see `forelog status {shown}`")))
            });
        }
    };
    match reply {
        Reply::Done { message, .. } => match connection.wait_for_end(END_LIMIT) {
            true => Ok(Verdict::done(message)),
            false => Err(Verdict::refused(format!(
                "{shown}: unmounted and drained, but the gateway has not ended within {} s",
                END_LIMIT.as_secs()
            ))),
        },
        Reply::Refused { code: 2, message, .. } if args.lazy => detach_live(located, &message),
        Reply::Refused { code, message, leaving } => {
            // Bytes remain: when the gateway ends now, the next mount must find the log free.
            if leaving && !connection.wait_for_end(LEAVE_LIMIT) {
                log::warn!("the gateway has not ended yet");
            }
            Err(Verdict { code, message })
        }
        _ => Err(Verdict::refused(format!("{shown}: the gateway gave no answer to the umount"))),
    }
}

/// The gateway may have died over the drain and left its dead mount.
fn gone_meanwhile(args: &UmountArgs) -> Option<Result<Verdict, Verdict>> {
    let located = find(&args.mountpoint).ok()?;
    match connect(&located) {
        Err(why @ NoGateway::Stale { .. }) => Some(without_gateway(args, &located, &why)),
        _ => None,
    }
}

/// `umount -l` of a mount in use: off the tree now, gone with its last user.
fn detach_live(located: &Located, why: &str) -> Result<Verdict, Verdict> {
    let shown = located.mountpoint.display();
    fstype::detach(&located.mountpoint)
        .map_err(|e| Verdict::refused(format!("{shown}: {why}; nor can it be detached: {e}")))?;
    Err(Verdict::remains(format!(
        "{shown}: detached while in use ({why}); what is in the log is resumed by the next mount"
    )))
}

fn without_gateway(args: &UmountArgs, located: &Located, why: &NoGateway) -> Result<Verdict, Verdict> {
    let shown = located.mountpoint.display();
    let refused = || Err(Verdict::refused(no_gateway(located, why)));
    let stale = matches!(why, NoGateway::Stale { .. });
    let Some(mount) = located.mount.as_ref().filter(|m| m.fstype.starts_with("fuse")) else {
        return refused();
    };
    // Without a sign of ours, a dead mount is somebody else's.
    if !(stale || mount.is_forelog()) || matches!(why, NoGateway::Denied) {
        return refused();
    }
    match fstype::probe(&located.mountpoint, PROBE_LIMIT) {
        Probe::Dead => {}
        Probe::Hangs if args.lazy => {}
        Probe::Hangs => {
            return Err(Verdict::refused(format!(
                "{shown}: its gateway does not answer; `umount -l {shown}` takes the mount off"
            )));
        }
        Probe::Answers | Probe::Fails(_) => return refused(),
    }
    fstype::detach(&located.mountpoint)
        .map_err(|e| Verdict::refused(format!("{shown}: the dead mount cannot be taken off: {e}")))?;
    let log = located.place.as_ref().and_then(|p| p.read_note()).map(|n| format!(" {}", n.log_dir));
    if let Some(place) = &located.place
        && let Err(e) = place.remove()
    {
        eprintln!("forelog: note: {}: {e}", place.socket.display());
    }
    Err(Verdict::remains(format!(
        "{shown}: its gateway had died; the dead mount is off, and the log{} still holds data that the next mount resumes",
        log.unwrap_or_default()
    )))
}
