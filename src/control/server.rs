//! The gateway's end of the control channel: one thread accepts, one short-lived thread a connection.

use super::codec::{CodecError, receive, send};
use super::locate::{Note, Place, make_place};
use super::protocol::{Progress, Reply, Request, SampleBatch, Verdict};
use super::queue::QueueView;
use super::series::SeriesPart;
use super::status::Status;
use crate::config::Live;
use crate::sys::{peercred, worker};
use parking_lot::{Condvar, Mutex};
use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections at once.
const CONNECTIONS_MAX: usize = 32;

/// Flushes at once: they may last, and must leave room for `status` and `umount`.
const FLUSHES_MAX: usize = 24;

/// A client has this long to say what it wants, and to take each reply.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// What the gateway does for its control channel. Called from several threads at once.
pub trait ControlTarget: Send + Sync {
    /// A snapshot; quick, and never waits for the backing.
    fn status(&self) -> Status;

    /// Returns once all that was written before to `paths` (relative to the root; none: to anything) is in
    /// the backing: code 0, or 3 at the deadline, or 2.
    fn flush(
        &self,
        paths: &[Vec<u8>],
        deadline_ms: Option<u64>,
        progress: &mut dyn FnMut(Progress),
    ) -> Verdict;

    /// Drains (unless `no_wait`) and unmounts: code 0 when unmounted with the log empty, and the process
    /// then ends at once; 2 when still mounted; 3 when bytes remain in the log.
    fn umount(&self, deadline_ms: Option<u64>, no_wait: bool, progress: &mut dyn FnMut(Progress)) -> Verdict;

    /// Gives the samples of the history to `each` as they come, until that says false or the gateway ends.
    fn record(&self, each: &mut dyn FnMut(SampleBatch) -> bool) -> Verdict;

    /// What was noted of each second, or minute, after that number, oldest first, in parts that fit a frame.
    fn series(&self, minutes: bool, after: u64) -> Vec<SeriesPart>;

    /// Changes settings, all or none.
    fn set(&self, expected: &Live, wanted: &Live) -> Verdict;

    /// The oldest `limit` that wait for the backing, and how many there are; never waits for the backing.
    fn queue(&self, limit: usize) -> QueueView;

    /// Has what waits at or below a path go first.
    fn bump(&self, path: &[u8]) -> Verdict;

    /// After an `umount` that did not return 0: whether the process ends at once all the same.
    fn leaving(&self) -> bool {
        false
    }
}

struct Shared {
    target: Arc<dyn ControlTarget>,
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    connections: usize,
    flushes: usize,
    stopping: bool,
}

/// The running server.
pub struct Server {
    shared: Arc<Shared>,
    wake: UnixStream,
    accepting: Option<JoinHandle<()>>,
    place: Place,
}

impl Server {
    /// Listens for the mount at `mountpoint` (canonical) and notes beside the socket who serves.
    ///
    /// # Errors
    /// When the runtime directory is not ours, or another gateway answers for this mount point.
    pub fn start(mountpoint: &Path, log_dir: &Path, target: Arc<dyn ControlTarget>) -> io::Result<Server> {
        Server::start_at(make_place(mountpoint)?, mountpoint, log_dir, target)
    }

    fn start_at(
        place: Place,
        mountpoint: &Path,
        log_dir: &Path,
        target: Arc<dyn ControlTarget>,
    ) -> io::Result<Server> {
        if UnixStream::connect(&place.socket).is_ok() {
            let pid = place.read_note().map(|n| format!(" (pid {})", n.pid)).unwrap_or_default();
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("another gateway{pid} serves {}", mountpoint.display()),
            ));
        }
        place.remove()?;
        let listener = peercred::listen_private(&place.socket).map_err(|e| {
            io::Error::new(e.kind(), format!("the control socket {}: {e}", place.socket.display()))
        })?;
        listener.set_nonblocking(true)?;
        place.write_note(&Note {
            pid: std::process::id(),
            mountpoint: mountpoint.to_string_lossy().into_owned(),
            log_dir: log_dir.to_string_lossy().into_owned(),
        })?;
        let (wake, woken) = UnixStream::pair()?;
        let shared = Arc::new(Shared { target, counts: Mutex::default(), changed: Condvar::new() });
        let for_thread = shared.clone();
        let accepting = worker::spawn("control", move || accept_loop(&listener, &woken, &for_thread))?;
        Ok(Server { shared, wake, accepting: Some(accepting), place })
    }

    /// Accepts nobody any more, lets replies under way be sent (at most 5 s), removes the socket.
    ///
    /// # Errors
    /// When the socket's file cannot be removed.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(thread) = self.accepting.take() else { return Ok(()) };
        self.shared.counts.lock().stopping = true;
        self.wake.write_all(b"x")?;
        if thread.join().is_err() {
            log::error!("the control thread panicked");
        }
        let removed = self.place.remove();
        let mut counts = self.shared.counts.lock();
        if counts.connections > 0 {
            self.shared.changed.wait_while_for(&mut counts, |c| c.connections > 0, CLIENT_PATIENCE);
        }
        removed
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            log::warn!("cannot end the control channel: {e}");
        }
    }
}

fn accept_loop(listener: &UnixListener, woken: &UnixStream, shared: &Arc<Shared>) {
    loop {
        match peercred::wait_either(listener, woken) {
            Ok(true) => {}
            Ok(false) => return,
            Err(e) => return log::error!("the control channel ends: {e}"),
        }
        match listener.accept() {
            Ok((stream, _)) => take(stream, shared),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => {
                // Out of fds, most likely: others may soon give some back.
                log::warn!("cannot accept on the control channel: {e}");
                worker::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Counts a connection for as long as it lives.
struct Seat {
    shared: Arc<Shared>,
    flush: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.shared.counts.lock();
        counts.connections -= 1;
        counts.flushes -= usize::from(self.flush);
        self.shared.changed.notify_all();
    }
}

fn take(stream: UnixStream, shared: &Arc<Shared>) {
    let mut counts = shared.counts.lock();
    if counts.connections >= CONNECTIONS_MAX {
        drop(counts);
        return log::warn!("more than {CONNECTIONS_MAX} control connections: one is turned away");
    }
    counts.connections += 1;
    drop(counts);
    let seat = Seat { shared: shared.clone(), flush: false };
    if let Err(e) = worker::spawn("control-call", move || serve(stream, seat)) {
        log::warn!("cannot serve a control connection: {e}");
    }
}

fn serve(mut stream: UnixStream, mut seat: Seat) {
    match converse(&mut stream, &mut seat) {
        // Kept open until the process ends: its end of file is then the client's sign that the log is free.
        Ok(true) => std::mem::forget(stream),
        Ok(false) | Err(CodecError::Closed) => {}
        Err(e) => log::debug!("a control connection broke: {e}"),
    }
}

/// Answers one request. True when the process is about to end.
fn converse(stream: &mut UnixStream, seat: &mut Seat) -> Result<bool, CodecError> {
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    stream.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let peer = peercred::peer(stream)?;
    if peer.uid != 0 && peer.uid != peercred::own_uid() {
        refuse(stream, "this mount belongs to another user")?;
        return Ok(false);
    }
    let request = match receive::<Request>(stream) {
        Ok(request) => request,
        Err(e @ (CodecError::Io(_) | CodecError::Closed)) => return Err(e),
        Err(e) => {
            refuse(stream, &format!("the gateway got {e}"))?;
            return Ok(false);
        }
    };
    let target = seat.shared.target.clone();
    match request {
        Request::Ping => send(stream, &done(Verdict::done(""), false))?,
        Request::Status => send(stream, &Reply::Status(Box::new(target.status().tidy())))?,
        Request::Set { expected, wanted } => {
            log::info!("settings are changed by pid {}, uid {}", peer.pid, peer.uid);
            send(stream, &done(target.set(&expected, &wanted), false))?;
        }
        Request::Queue { limit } => send(stream, &Reply::Queue(Box::new(target.queue(limit as usize))))?,
        Request::Bump { path } => send(stream, &done(target.bump(&path), false))?,
        Request::Flush { paths, timeout_ms } => {
            if !sit_for_flush(seat) {
                refuse(stream, "too many flushes at once; wait for one to end")?;
                return Ok(false);
            }
            let verdict = target.flush(&paths, timeout_ms, &mut teller(stream));
            send(stream, &done(verdict, false))?;
        }
        Request::Record => {
            log::info!("pid {}, uid {} records the writes", peer.pid, peer.uid);
            let verdict = target.record(&mut |batch| match send(stream, &Reply::Samples(batch)) {
                Ok(()) => true,
                Err(e) => {
                    log::debug!("nobody records any more: {e}");
                    false
                }
            });
            send(stream, &done(verdict, false))?;
        }
        Request::Series { minutes, after } => {
            for part in target.series(minutes, after) {
                send(stream, &Reply::Series(part))?;
            }
            send(stream, &done(Verdict::done(""), false))?;
        }
        Request::Umount { timeout_ms, no_wait } => {
            log::info!("asked to unmount by pid {}, uid {}", peer.pid, peer.uid);
            let verdict = target.umount(timeout_ms, no_wait, &mut teller(stream));
            let leaving = verdict.code == 0 || target.leaving();
            send(stream, &done(verdict, leaving))?;
            return Ok(leaving);
        }
    }
    Ok(false)
}

fn sit_for_flush(seat: &mut Seat) -> bool {
    let mut counts = seat.shared.counts.lock();
    if counts.flushes >= FLUSHES_MAX {
        return false;
    }
    counts.flushes += 1;
    drop(counts);
    seat.flush = true;
    true
}

/// Sends progress; once the client is gone nothing more is sent, and the work goes on.
fn teller(stream: &UnixStream) -> impl FnMut(Progress) + '_ {
    let mut gone = false;
    move |progress| {
        let mut out = stream;
        if !gone && let Err(e) = send(&mut out, &Reply::Progress(progress)) {
            log::debug!("nobody follows the progress any more: {e}");
            gone = true;
        }
    }
}

fn done(verdict: Verdict, leaving: bool) -> Reply {
    let Verdict { code, message } = verdict;
    match code {
        0 => Reply::Done { message, leaving },
        _ => Reply::Refused { code, message, leaving },
    }
}

fn refuse(stream: &mut UnixStream, why: &str) -> Result<(), CodecError> {
    send(stream, &done(Verdict::refused(why), false))
}

#[cfg(test)]
mod tests;
