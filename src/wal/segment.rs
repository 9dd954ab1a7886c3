//! A Log Segment: one preallocated, zero-filled file. Free -> Reserved -> Open -> Sealed -> Free.

use crate::format::segment::{RECORDS_AT, VERSION};
use crate::sys::disk::DiskFile;
use crate::types::{ClientId, Lsn, Pos, SegmentId};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, Ordering};

/// Where a segment stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Ready for anyone.
    Free,
    /// Takes appends.
    Open,
    /// Takes no more; held until all in it is stored.
    Sealed,
    /// Handed to the epoch collector; free once no reader can hold it.
    Retiring,
}

/// Whom a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Clients that write little, and the gateway itself.
    Shared,
    /// One client.
    Client(ClientId),
}

/// A predecessor in another segment that was not durable when a record here was appended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dep {
    /// End of the record here.
    pub end: u32,
    pub on: Pos,
}

#[derive(Debug)]
pub(super) struct State {
    pub phase: Phase,
    pub owner: Owner,
    /// Next append goes here.
    pub pos: u32,
    pub max_lsn: Lsn,
    /// Monotonic time of the first append.
    pub first_ns: u64,
    /// In order of `end`; pruned as the segment becomes durable.
    pub deps: Vec<Dep>,
}

/// A segment file and what is known of it.
pub struct Segment {
    pub id: SegmentId,
    pub size: u32,
    /// Another file takes its place when a sync of it failed (`mend`).
    pub(super) file: RwLock<Arc<dyn DiskFile>>,
    pub(super) generation: AtomicU32,
    /// Format version of the records in it.
    pub(super) version: AtomicU32,
    /// Up to here everything is on stable storage, and so is all it depends on.
    pub(super) durable: AtomicU32,
    /// Bytes of file content here that nothing has superseded or stored yet.
    pub(super) live: AtomicI64,
    /// The file's name is not durable yet: the first sync of its content sees to it.
    pub(super) unnamed: AtomicBool,
    /// errno of the first failed sync; 0 while sound.
    pub(super) latched: AtomicI32,
    pub(super) state: Mutex<State>,
    pub(super) sync: Mutex<super::sync::Queue>,
}

impl Segment {
    pub(super) fn new(id: SegmentId, size: u32, file: Arc<dyn DiskFile>) -> Segment {
        Segment {
            id,
            size,
            file: RwLock::new(file),
            generation: AtomicU32::new(0),
            version: AtomicU32::new(VERSION),
            durable: AtomicU32::new(RECORDS_AT as u32),
            live: AtomicI64::new(0),
            unnamed: AtomicBool::new(false),
            latched: AtomicI32::new(0),
            state: Mutex::new(State {
                phase: Phase::Free,
                owner: Owner::Shared,
                pos: RECORDS_AT as u32,
                max_lsn: Lsn::NONE,
                first_ns: 0,
                deps: Vec::new(),
            }),
            sync: Mutex::default(),
        }
    }

    /// The file that holds it now.
    pub fn file(&self) -> Arc<dyn DiskFile> {
        self.file.read().clone()
    }
    /// Generation in use.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }
    /// How far it is durable, in bytes.
    pub fn durable(&self) -> u32 {
        self.durable.load(Ordering::Acquire)
    }
    /// errno of the failed sync that latched it, if any.
    pub fn latched(&self) -> Option<i32> {
        Some(self.latched.load(Ordering::Acquire)).filter(|&e| e != 0)
    }
    /// Bytes of content still needed from here.
    pub fn live(&self) -> i64 {
        self.live.load(Ordering::Acquire)
    }
    /// Content was placed here, or (negative) is no longer needed from here.
    pub fn add_live(&self, bytes: i64) {
        let now = self.live.fetch_add(bytes, Ordering::AcqRel) + bytes;
        debug_assert!(now >= 0, "segment {} has {now} live bytes", self.id.0);
    }
    pub(super) fn advance_durable(&self, generation: u32, to: u32) {
        let mut s = self.state.lock();
        if self.generation() == generation {
            self.durable.fetch_max(to, Ordering::AcqRel);
            s.deps.retain(|d| d.end > to);
        }
    }
}
