//! Who is behind a request: the kernel gives a thread id; the client is its process.

use crate::fs::{Client, Clients};
use crate::history::Programs;
use crate::sys::proc::{self, ExitWatch};
use dashmap::DashMap;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Processes watched for their end.
const WATCHED_MAX: usize = 4096;
/// Threads remembered; beyond it the memory starts over.
const THREADS_MAX: usize = 65_536;

/// From thread ids to clients.
pub struct Callers {
    clients: Arc<Clients>,
    programs: Arc<Programs>,
    threads: DashMap<u32, (u32, Arc<Client>)>,
    watch: ExitWatch,
    /// Clients whose start time is still to be found.
    nameless: Mutex<Vec<Arc<Client>>>,
}

impl Callers {
    pub fn new(clients: Arc<Clients>, programs: Arc<Programs>) -> io::Result<Callers> {
        let watch = ExitWatch::new(WATCHED_MAX)?;
        Ok(Callers { clients, programs, threads: DashMap::new(), watch, nameless: Mutex::default() })
    }

    /// The client of a thread. `None` for the kernel's own requests and for threads that are gone.
    pub fn client(&self, tid: u32) -> Option<Arc<Client>> {
        if tid == 0 {
            return None;
        }
        if let Some(c) = self.threads.get(&tid) {
            return Some(c.1.clone());
        }
        let p = proc::of_thread(tid).ok()?;
        let programs = &self.programs;
        let mut new = false;
        let client = self.clients.get_or_make(p.tgid, || {
            new = true;
            (programs.intern(&p.comm), p.comm.clone())
        });
        if new {
            self.nameless.lock().push(client.clone());
        }
        // Not watched: not remembered, so that a later process of this number is seen afresh.
        if self.watch.add(p.tgid).unwrap_or(false) {
            if self.threads.len() >= THREADS_MAX {
                self.threads.clear();
            }
            self.threads.insert(tid, (p.tgid, client.clone()));
        }
        Some(client)
    }

    /// The client of a thread, or the one that stands for nobody known.
    pub fn or_nobody(&self, tid: u32) -> Arc<Client> {
        self.client(tid).unwrap_or_else(|| self.clients.nobody.clone())
    }

    /// Finds the start times of new clients, and which program started them. May wait for a process that waits for us, so it has a
    /// thread of its own.
    pub fn complete(&self) {
        let new = std::mem::take(&mut *self.nameless.lock());
        for c in new {
            let Ok(origin) = proc::origin(c.slot.pid) else { continue };
            c.slot.start.store(origin.start_ticks, Ordering::Relaxed);
            if let Ok(parent) = proc::of_thread(origin.parent) {
                self.programs.note_parent(c.program, self.programs.intern(&parent.comm));
            }
        }
    }

    /// Waits a moment for watched processes to end and returns their clients.
    pub fn reap(&self, wait: Duration) -> Vec<Arc<Client>> {
        let ended = match self.watch.wait(wait) {
            Ok(v) => v,
            Err(e) => {
                log::warn!("watching processes failed: {e}");
                return Vec::new();
            }
        };
        let mut out = Vec::new();
        for pid in ended {
            self.threads.retain(|_, v| v.0 != pid);
            out.extend(self.clients.exited(pid));
        }
        out
    }
}
