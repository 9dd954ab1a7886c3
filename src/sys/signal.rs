//! The signals that end or reload a gateway, taken on a thread of their own.

use crate::sys::worker;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::io;
use std::thread::JoinHandle;

/// What was asked of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Interrupt,
    Hangup,
}

/// Stops this process as Ctrl-Z does, until the shell lets it go on.
pub fn stop_self() -> io::Result<()> {
    use rustix::process::{Signal, getpid, kill_process};
    Ok(kill_process(getpid(), Signal::TSTP)?)
}

/// The thread that waits for signals; dropping it ends the thread. The handlers stay: a later
/// signal is then ignored.
pub struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalThread {
    /// Calls `each` for every SIGTERM, SIGINT and SIGHUP, on a thread of its own. Signals that come
    /// while it runs are kept, equal ones as one.
    pub fn start(mut each: impl FnMut(Signal) + Send + 'static) -> io::Result<SignalThread> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let handle = signals.handle();
        let run = move || {
            for number in signals.forever() {
                match number {
                    SIGTERM => each(Signal::Terminate),
                    SIGINT => each(Signal::Interrupt),
                    SIGHUP => each(Signal::Hangup),
                    _ => {}
                }
            }
        };
        Ok(SignalThread { handle, thread: Some(worker::spawn("forelog-signal", run)?) })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        // `each` may own us: a thread cannot wait for itself.
        if let Some(t) = self.thread.take()
            && t.thread().id() != std::thread::current().id()
        {
            let _ = t.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal as S, getpid, kill_process};
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn signals_arrive_and_the_thread_ends() {
        let (tx, rx) = mpsc::channel();
        let t = SignalThread::start(move |s| tx.send(s).unwrap_or(())).unwrap();
        for (sent, seen) in [(S::HUP, Signal::Hangup), (S::TERM, Signal::Terminate)] {
            kill_process(getpid(), sent).unwrap();
            assert_eq!(rx.recv_timeout(Duration::from_secs(10)).unwrap(), seen);
        }
        drop(t);
        assert!(rx.recv_timeout(Duration::from_secs(10)).is_err());
    }
}
