//! The one way to start a thread. A worker loops over a `step` until told to stop.

use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Starts a named thread. Names are cut at the kernel's 15 bytes.
pub fn spawn<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let short: String = name.chars().take(15).collect();
    std::thread::Builder::new().name(short).spawn(f)
}

/// Runs `f` on `n` threads at once and returns what each returned. Errors: one of them panicked.
pub fn in_parallel<T: Send>(n: usize, f: impl Fn() -> T + Sync) -> io::Result<Vec<T>> {
    std::thread::scope(|s| {
        let threads: Vec<_> = (0..n).map(|_| s.spawn(&f)).collect();
        threads.into_iter().map(|t| t.join().map_err(|_| io::Error::other("a thread panicked"))).collect()
    })
}

/// Sleeps. For retry loops and tests; never in a request handler.
pub fn sleep(d: Duration) {
    std::thread::sleep(d);
}

#[derive(Default)]
struct State {
    stop: bool,
    woken: bool,
}

/// The handle by which others wake or stop a worker, and by which it waits.
#[derive(Clone, Default)]
pub struct Bell {
    inner: Arc<(Mutex<State>, Condvar)>,
}

impl Bell {
    /// A new bell that has not rung.
    pub fn new() -> Self {
        Self::default()
    }
    /// Wakes the worker at once.
    pub fn ring(&self) {
        let (m, c) = &*self.inner;
        m.lock().woken = true;
        c.notify_all();
    }
    /// Asks the worker to end after its current step.
    pub fn stop(&self) {
        let (m, c) = &*self.inner;
        m.lock().stop = true;
        c.notify_all();
    }
    /// True once `stop` was called.
    pub fn stopped(&self) -> bool {
        self.inner.0.lock().stop
    }
    /// Waits for a ring, a stop or the timeout. Returns false when told to stop.
    pub fn wait(&self, timeout: Duration) -> bool {
        let (m, c) = &*self.inner;
        let mut s = m.lock();
        if !s.stop && !s.woken {
            c.wait_for(&mut s, timeout);
        }
        s.woken = false;
        !s.stop
    }
}

/// A thread that calls `step` every `period`, or at once when rung, until stopped.
pub struct Worker {
    bell: Bell,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the loop. `step` runs once more after a stop was asked for only if it was running.
    pub fn every(
        name: &str,
        period: Duration,
        bell: Bell,
        step: impl FnMut() + Send + 'static,
    ) -> io::Result<Worker> {
        Worker::paced(name, move || period, bell, step)
    }
    /// As `every`, with a period that may change: it counts from the next wait on, so ring after a change.
    pub fn paced(
        name: &str,
        mut period: impl FnMut() -> Duration + Send + 'static,
        bell: Bell,
        mut step: impl FnMut() + Send + 'static,
    ) -> io::Result<Worker> {
        let b = bell.clone();
        let thread = spawn(name, move || {
            while b.wait(period()) {
                step();
            }
        })?;
        Ok(Worker { bell, thread: Some(thread) })
    }
    /// Wakes it.
    pub fn ring(&self) {
        self.bell.ring();
    }
    /// Stops it and waits for its end.
    pub fn stop(mut self) {
        self.end();
    }
    fn end(&mut self) {
        self.bell.stop();
        if let Some(t) = self.thread.take()
            && t.join().is_err()
        {
            log::error!("a worker thread panicked");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}
