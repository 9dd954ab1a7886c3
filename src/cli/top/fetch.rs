//! The thread that asks the gateway, so that a slow answer never holds up a key.

use super::rows::Identity;
use crate::cli::gateway;
use crate::control::Verdict;
use crate::control::protocol::{Reply, Request};
use crate::control::render::{bytes, seconds};
use crate::control::series::SeriesPart;
use crate::control::status::{Client, Status};
use crate::sys::{paths, proc, worker};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

/// Who the clients are, by the names the status has for them.
pub type Identities = Arc<HashMap<String, Identity>>;

/// What comes from the gateway.
pub enum News {
    /// Its status, and what it noted since the last.
    Seen(Box<Status>, SeriesPart, Identities),
    /// Why it cannot be asked now.
    Gone(String),
    /// How far a flush is.
    Flush(String),
}

/// The thread, and where its news arrive.
pub struct Fetcher {
    mountpoint: PathBuf,
    news: Receiver<News>,
    sender: Sender<News>,
}

struct State {
    mountpoint: PathBuf,
    /// Of the gateway that was seen last: its pid, and the number of its last point.
    pid: u32,
    after: u64,
    identities: Identities,
    users: HashMap<u32, String>,
}

impl Fetcher {
    /// Starts it. Errors: there is no gateway to ask.
    pub fn start(mountpoint: &Path, interval: Duration) -> Result<Fetcher, Verdict> {
        let (sender, news) = channel();
        let mut state = State {
            mountpoint: mountpoint.to_owned(),
            pid: 0,
            after: 0,
            identities: Identities::default(),
            users: users(),
        };
        let failed = |_| Verdict::refused("starting a thread failed");
        sender.send(state.fetch()?).map_err(|_| Verdict::refused("nobody looks"))?;
        let out = sender.clone();
        worker::spawn("fetch", move || {
            loop {
                worker::sleep(interval);
                let news = state.fetch().unwrap_or_else(|verdict| News::Gone(verdict.message));
                if out.send(news).is_err() {
                    return;
                }
            }
        })
        .map_err(failed)?;
        Ok(Fetcher { mountpoint: mountpoint.to_owned(), news, sender })
    }

    /// What came, if anything. Errors: nothing will any more.
    pub fn next(&mut self) -> Result<Option<News>, ()> {
        match self.news.try_recv() {
            Ok(news) => Ok(Some(news)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(()),
        }
    }

    /// Has all brought to the backing; how it gets on comes as news.
    pub fn flush(&self) -> io::Result<()> {
        let (mountpoint, out) = (self.mountpoint.clone(), self.sender.clone());
        let tell = move |text: String| drop(out.send(News::Flush(text)));
        let work = move || {
            let mut connection = match gateway::reach(&mountpoint) {
                Ok(connection) => connection,
                Err(verdict) => return tell(format!("cannot flush: {}", verdict.message)),
            };
            let request = Request::Flush { paths: Vec::new(), timeout_ms: None };
            let done = connection.call(&request, None, &mut |p| {
                let eta = p.eta_seconds.map_or_else(String::new, |e| format!(", done in {}", seconds(e)));
                tell(format!("flushing: {} in {} files left{eta}", bytes(p.bytes_left), p.files_left));
            });
            tell(match done {
                Ok(Reply::Done { .. }) => "flushed: all that was written before is in the backing".into(),
                Ok(Reply::Refused { message, .. }) => format!("flush: {message}"),
                Ok(_) => "flush: the gateway gave no answer".into(),
                Err(e) => format!("flush: {e}"),
            });
        };
        worker::spawn("flush", work).map(drop)
    }
}

impl State {
    fn fetch(&mut self) -> Result<News, Verdict> {
        let status = gateway::status(&self.mountpoint)?;
        if status.pid != self.pid {
            (self.pid, self.after) = (status.pid, 0);
        }
        let failed = |e: String| Verdict::refused(format!("{}: {e}", self.mountpoint.display()));
        let part = gateway::reach(&self.mountpoint)?.series(false, self.after).map_err(failed)?;
        self.after = part.points.last().map_or(self.after, |p| p.number);
        self.identify(&status.clients);
        Ok(News::Seen(Box::new(status), part, self.identities.clone()))
    }

    /// Looks up who the clients are that were not seen before; one that has ended keeps what was found.
    fn identify(&mut self, clients: &[Client]) {
        let is_new = |c: &&Client| !c.ended && c.pid > 0 && !self.identities.contains_key(&c.client);
        let found: Vec<(String, Identity)> = clients
            .iter()
            .filter(is_new)
            .filter_map(|c| {
                let (uid, cgroup) = proc::uid_and_cgroup(c.pid).ok()?;
                let user = self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string());
                Some((c.client.clone(), Identity { user, unit: unit_of(&cgroup) }))
            })
            .collect();
        let old = self.identities.len();
        if found.is_empty() && old <= 2 * clients.len() + 64 {
            return;
        }
        let mut all = (*self.identities).clone();
        all.retain(|client, _| clients.iter().any(|c| c.client == *client));
        all.extend(found);
        self.identities = Arc::new(all);
    }
}

/// Names of users, from /etc/passwd; others go by number.
fn users() -> HashMap<u32, String> {
    let text = paths::read_small(Path::new("/etc/passwd"), 4 << 20).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    text.lines().filter_map(entry).collect()
}

/// The systemd unit in the text of `/proc/PID/cgroup`: the innermost service or scope, else the slice.
fn unit_of(cgroup: &str) -> String {
    let path = cgroup
        .lines()
        .find_map(|l| l.strip_prefix("0::").or_else(|| l.split_once(":name=systemd:").map(|p| p.1)))
        .unwrap_or_default();
    let last = |ends: &[&str]| path.rsplit('/').find(|part| ends.iter().any(|e| part.ends_with(e)));
    last(&[".service", ".scope"]).or_else(|| last(&[".slice"])).unwrap_or("no unit").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_the_innermost() {
        for (cgroup, unit) in [
            ("0::/system.slice/nginx.service\n", "nginx.service"),
            ("0::/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x@1.service/sub", "x@1.service"),
            ("12:cpu:/a\n1:name=systemd:/system.slice/cron.service\n", "cron.service"),
            ("0::/machine.slice\n", "machine.slice"),
            ("0::/\n", "no unit"),
            ("", "no unit"),
        ] {
            assert_eq!(unit_of(cgroup), unit, "{cgroup}");
        }
    }

    #[test]
    fn the_user_of_a_process_is_found() {
        let (uid, _) = proc::uid_and_cgroup(std::process::id()).unwrap();
        assert_eq!(uid, crate::sys::peercred::own_uid());
        assert!(proc::uid_and_cgroup(u32::MAX).is_err());
        assert_eq!(users().get(&0).map(String::as_str), Some("root"));
    }
}
