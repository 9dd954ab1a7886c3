//! The verbs' end of the control channel.

use super::codec::{CodecError, receive, send};
use super::locate::Located;
use super::protocol::{Progress, Reply, Request, SampleBatch};
use super::series::SeriesPart;
use crate::sys::clock::{Clock, RealClock};
use crate::sys::peercred::{Watched, peer};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Why there is no gateway to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoGateway {
    /// No socket: nothing was mounted there, or its gateway ended in good order.
    None,
    /// A socket without a listener: the gateway with this pid died.
    Stale { pid: Option<u32>, log_dir: Option<String> },
    /// Somebody else's.
    Denied,
    /// Anything else.
    Failed(String),
}

/// A gateway that is recorded says something twice a second.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A connection to a gateway.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// None when the gateway lives in a PID namespace we cannot see.
    process: Option<Watched>,
}

/// Connects to the gateway of a mount point.
pub fn connect(located: &Located) -> Result<Connection, NoGateway> {
    let Some(place) = &located.place else { return Err(NoGateway::None) };
    let stream = UnixStream::connect(&place.socket).map_err(|e| match e.kind() {
        io::ErrorKind::ConnectionRefused => {
            let note = place.read_note();
            NoGateway::Stale { pid: note.as_ref().map(|n| n.pid), log_dir: note.map(|n| n.log_dir) }
        }
        io::ErrorKind::NotFound => NoGateway::None,
        io::ErrorKind::PermissionDenied => NoGateway::Denied,
        _ => NoGateway::Failed(format!("{}: {e}", place.socket.display())),
    })?;
    // Taken now: after the request the process may end at any time.
    let process = peer(&stream).ok().and_then(|p| Watched::new(p.pid));
    Ok(Connection { stream, process })
}

impl Connection {
    /// Sends a request and reads replies up to the last; `progress` sees those before it. `limit` bounds
    /// the whole call.
    ///
    /// # Errors
    /// One line: the gateway ended, did not answer in time, or is of another release.
    pub fn call(
        &mut self,
        request: &Request,
        limit: Option<Duration>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Reply, String> {
        let start_ns = RealClock.monotonic_ns();
        send(&mut self.stream, request).map_err(explain)?;
        loop {
            let left = limit.map(|l| {
                let spent = Duration::from_nanos(RealClock.monotonic_ns().saturating_sub(start_ns));
                // A timeout of zero would mean none at all.
                l.saturating_sub(spent).max(Duration::from_millis(1))
            });
            self.stream.set_read_timeout(left).map_err(|e| e.to_string())?;
            match receive(&mut self.stream).map_err(explain)? {
                Reply::Progress(p) => progress(p),
                Reply::Samples(_) | Reply::Series(_) => {}
                last => return Ok(last),
            }
        }
    }

    /// Has each batch of samples given to `each` until that says false. `None`: it did; else how the gateway ended it.
    ///
    /// # Errors
    /// One line, as for `call`.
    pub fn record(&mut self, each: &mut dyn FnMut(SampleBatch) -> bool) -> Result<Option<Reply>, String> {
        self.stream.set_read_timeout(Some(SILENCE_MAX)).map_err(|e| e.to_string())?;
        send(&mut self.stream, &Request::Record).map_err(explain)?;
        loop {
            match receive(&mut self.stream).map_err(explain)? {
                Reply::Samples(batch) => {
                    if !each(batch) {
                        return Ok(None);
                    }
                }
                Reply::Progress(_) | Reply::Series(_) => {}
                last => return Ok(Some(last)),
            }
        }
    }

    /// What the gateway noted of each second, or minute, after that number.
    ///
    /// # Errors
    /// One line, as for `call`.
    pub fn series(&mut self, minutes: bool, after: u64) -> Result<SeriesPart, String> {
        self.stream.set_read_timeout(Some(SILENCE_MAX)).map_err(|e| e.to_string())?;
        send(&mut self.stream, &Request::Series { minutes, after }).map_err(explain)?;
        let mut all = SeriesPart::default();
        loop {
            match receive(&mut self.stream).map_err(explain)? {
                Reply::Series(part) => all.append(part),
                Reply::Refused { message, .. } => return Err(message),
                Reply::Done { .. } => return Ok(all),
                _ => {}
            }
        }
    }

    /// Waits until the gateway's process has ended, so that the log's lock is free. False at the limit.
    pub fn wait_for_end(mut self, limit: Duration) -> bool {
        if let Some(process) = &self.process {
            return process.ended(limit);
        }
        // Without a process to watch: its end closes the connection.
        if self.stream.set_read_timeout(Some(limit)).is_err() {
            return false;
        }
        matches!(self.stream.read(&mut [0; 1]), Ok(0))
    }
}

fn explain(e: CodecError) -> String {
    let timed_out = |e: &io::Error| matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    match e {
        CodecError::Io(e) if timed_out(&e) => "the gateway does not answer in time".into(),
        CodecError::Io(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {
            "the gateway ended before it answered".into()
        }
        CodecError::Closed => "the gateway ended before it answered, or is too busy".into(),
        other => format!("the gateway answered with {other}"),
    }
}
