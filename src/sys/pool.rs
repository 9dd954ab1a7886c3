//! Threads for what may take long: slow reads, writers that wait for space. Grown on demand, so that
//! one waiting call never holds up another, and bounded.

use super::worker::spawn;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

const THREADS_MAX: usize = 256;
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
}

/// A pool of patient threads.
#[derive(Clone, Default)]
pub struct Pool {
    inner: Arc<(Mutex<State>, Condvar)>,
}

impl Pool {
    /// Runs `job` on one of them, soon.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let (m, c) = &*self.inner;
        let mut s = m.lock();
        s.jobs.push_back(Box::new(job));
        if s.idle >= s.jobs.len() || s.threads >= THREADS_MAX {
            c.notify_one();
            return;
        }
        s.threads += 1;
        drop(s);
        let inner = self.inner.clone();
        if let Err(e) = spawn("patient", move || work(&inner)) {
            log::error!("starting a thread failed: {e}; a request waits for another");
            self.inner.0.lock().threads -= 1;
        }
    }
}

fn work(inner: &(Mutex<State>, Condvar)) {
    let (m, c) = inner;
    let mut s = m.lock();
    loop {
        if let Some(job) = s.jobs.pop_front() {
            drop(s);
            job();
            s = m.lock();
            continue;
        }
        s.idle += 1;
        let timed_out = c.wait_for(&mut s, IDLE).timed_out();
        s.idle -= 1;
        if timed_out && s.jobs.is_empty() {
            s.threads -= 1;
            return;
        }
    }
}
