//! The clients: processes that wrote, found by `(tgid, start time)`, and what they did.

use super::meter::Latency;
use crate::types::{ClientId, ProgramId};
use crate::wal::ClientSlot;
use dashmap::DashMap;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Most clients kept apart; further ones share an entry.
const CLIENTS_MAX: usize = 4096;

/// One client.
pub struct Client {
    pub slot: ClientSlot,
    pub program: ProgramId,
    pub name: String,
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
    pub throttled_ns: AtomicU64,
    /// Of its writes.
    pub latency: Latency,
    pub gone: AtomicBool,
}

/// Ended processes that `status` still names.
const GONE_MAX: usize = 64;

/// All clients.
pub struct Clients {
    by_process: DashMap<u32, Arc<Client>>,
    by_id: DashMap<ClientId, Arc<Client>>,
    next: AtomicU32,
    gone: Mutex<VecDeque<ClientId>>,
    /// Stands for those whose process is not known, and for those beyond the cap.
    pub nobody: Arc<Client>,
}

impl Default for Clients {
    fn default() -> Self {
        let nobody = Arc::new(Client::new(ClientId(1), 0, ProgramId(0), "-".into()));
        let by_id = DashMap::new();
        by_id.insert(ClientId(1), nobody.clone());
        Clients { by_process: DashMap::new(), by_id, next: AtomicU32::new(2), gone: Mutex::default(), nobody }
    }
}

impl Client {
    fn new(id: ClientId, pid: u32, program: ProgramId, name: String) -> Client {
        Client {
            slot: ClientSlot::new(id, pid),
            program,
            name,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            throttled_ns: AtomicU64::new(0),
            latency: Latency::default(),
            gone: AtomicBool::new(false),
        }
    }
}

impl Clients {
    /// The client that is this process. The caller sees to it that an ended process is told by
    /// `exited` before its number is used again.
    pub fn get_or_make(&self, pid: u32, program: impl FnOnce() -> (ProgramId, String)) -> Arc<Client> {
        if let Some(c) = self.by_process.get(&pid) {
            return c.clone();
        }
        if self.by_process.len() >= CLIENTS_MAX {
            return self.nobody.clone();
        }
        let made = self.by_process.entry(pid).or_insert_with(|| {
            let id = ClientId(self.next.fetch_add(1, Ordering::Relaxed));
            let (program, name) = program();
            Arc::new(Client::new(id, pid, program, name))
        });
        self.by_id.insert(made.slot.id, made.clone());
        made.clone()
    }

    pub fn get(&self, id: ClientId) -> Option<Arc<Client>> {
        self.by_id.get(&id).map(|c| c.clone())
    }

    /// All clients, those that wrote most first.
    pub fn all(&self) -> Vec<Arc<Client>> {
        let mut v: Vec<Arc<Client>> = self.by_id.iter().map(|c| c.clone()).collect();
        v.sort_by_key(|c| std::cmp::Reverse(c.bytes.load(Ordering::Relaxed)));
        v
    }

    /// The process `pid` ended: its client is dropped and returned.
    pub fn exited(&self, pid: u32) -> Vec<Arc<Client>> {
        let mut out = Vec::new();
        {
            if let Some((_, c)) = self.by_process.remove(&pid) {
                c.gone.store(true, Ordering::Release);
                let mut gone = self.gone.lock();
                gone.push_back(c.slot.id);
                if gone.len() > GONE_MAX
                    && let Some(id) = gone.pop_front()
                {
                    self.by_id.remove(&id);
                }
                out.push(c);
            }
        }
        out
    }
}
