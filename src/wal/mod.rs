//! F2: the log. Payload-agnostic: it appends framed records to segments, makes them durable with all
//! they depend on, reads them back, and recycles segments when told that all in them is stored.
//!
//! Invariants: order in a segment is LSN order; a position is called durable only when everything
//! it depends on is durable too; a segment is recycled only with a `Retired` receipt in hand and
//! only when no reader's epoch can still see it.

mod append;
mod marks;
pub mod mend;
pub mod pool;
pub mod scan;
mod segment;
pub mod sync;

pub use append::{AppendError, Appended, ClientSlot, Record};
pub use marks::Marks;
pub use pool::{Class, PoolLimits};
pub use segment::{Owner, Phase, Segment};
pub use sync::SyncFailed;

use crate::format::frame;
use crate::sys::clock::Clock;
use crate::sys::disk::Disk;
use crate::types::{Lsn, Pos, SegmentId};
use crossbeam_epoch as epoch;
use parking_lot::Mutex;
use pool::Pool;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The write-ahead log.
pub struct Wal {
    pub pool: Arc<Pool>,
    pub marks: Marks,
    pub committer: sync::Committer,
    clock: Arc<dyn Clock>,
    /// The segment of those who write little.
    shared: Mutex<Option<Arc<Segment>>>,
    /// Bytes of content appended to shared segments.
    pub shared_appended: AtomicU64,
    own_segments: AtomicUsize,
    own_segments_max: usize,
    static_bytes: AtomicU32,
}

/// Proof that a durable checkpoint covers all records of these segments and names none of their bytes:
/// what they need to retire.
#[must_use]
pub struct Retired {
    idle: Vec<Arc<Segment>>,
}

impl Retired {
    /// Call only once a checkpoint is on stable storage at whose image these were idle.
    pub fn by_checkpoint(idle: Vec<Arc<Segment>>) -> Retired {
        Retired { idle }
    }
}

/// Counts of segments by phase.
#[derive(Clone, Copy, Debug, Default)]
pub struct SegmentCounts {
    pub free: u64,
    pub reserved: u64,
    pub open: u64,
    pub sealed: u64,
    pub used_bytes: u64,
}

/// An open segment, for the segmenter.
#[derive(Clone, Copy, Debug)]
pub struct OpenSegment {
    pub owner: Owner,
    pub room_bytes: u64,
    pub first_ns: Option<u64>,
}

impl Wal {
    /// A log over `disk` whose last record is `last`. Segments are given to it by `adopt`.
    pub fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        log: u128,
        limits: PoolLimits,
        last: Lsn,
        next_generation: u32,
    ) -> Wal {
        let share = limits.capacity / limits.segment_static.max(1) as u64 / 4;
        Wal {
            pool: Arc::new(Pool::new(disk, log, limits, next_generation)),
            marks: Marks::after(last),
            committer: sync::Committer::default(),
            clock,
            shared: Mutex::new(None),
            shared_appended: AtomicU64::new(0),
            own_segments: AtomicUsize::new(0),
            own_segments_max: share.clamp(1, 64) as usize,
            static_bytes: AtomicU32::new(limits.segment_static),
        }
    }

    /// Takes in a segment file found at recovery, of a format version. `sealed`: end and last LSN, if its records count.
    pub fn adopt(
        &self,
        id: SegmentId,
        size: u32,
        file: Arc<dyn crate::sys::disk::DiskFile>,
        generation: u32,
        version: u32,
        sealed: Option<(u32, Lsn)>,
    ) -> Arc<Segment> {
        let segment = Segment::new(id, size, file);
        segment.version.store(version, Ordering::Release);
        self.pool.adopt(segment, generation, sealed)
    }

    /// Size of segments that no plan speaks of.
    pub fn static_bytes(&self) -> u32 {
        self.static_bytes.load(Ordering::Relaxed)
    }
    /// Sets the size of segments that no plan speaks of.
    pub fn set_static_bytes(&self, bytes: u32) {
        self.static_bytes.store(self.pool.size_class(bytes as u64), Ordering::Relaxed);
    }

    /// True once the record at `p` and all it depends on are on stable storage.
    pub fn is_durable(&self, p: &Pos) -> bool {
        if p.lsn <= self.marks.stable() {
            return true;
        }
        match self.pool.get(p.segment) {
            // A recycled segment was durable and stored.
            Some(s) => s.generation() != p.generation || s.durable() >= p.end,
            None => true,
        }
    }

    fn is_durable_held(&self, p: &Pos, held: &Segment, generation: u32) -> bool {
        if p.segment == held.id && p.generation == generation {
            p.end <= held.durable()
        } else {
            self.is_durable(p)
        }
    }

    /// Where a record of a segment stands.
    fn place(&self, seg: &Segment, at: u32) -> frame::Place {
        let version = seg.version.load(Ordering::Acquire);
        frame::Place { version, log: self.pool.log(), segment: seg.id, at }
    }

    /// Reads a record's data part and verifies it; with it the segment offset where it starts.
    /// Errors: I/O, or a checksum that does not match.
    pub fn read_verified(&self, seg: &Segment, record_at: u32) -> io::Result<(Vec<u8>, u32)> {
        if let Some(sound) = self.read_sound(seg, record_at)? {
            return Ok(sound);
        }
        let bad = |what: &str| {
            let text = format!("log segment {} is damaged at {record_at}: {what}", seg.id.0);
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        // One bit of the header may have flipped: then its lengths say nothing.
        let mut bytes = vec![0u8; seg.size.saturating_sub(record_at) as usize];
        seg.file().read_exact_at(&mut bytes, record_at as u64)?;
        let (place, generation) = (self.place(seg, record_at), seg.generation());
        let h = match frame::Header::decode(&place, generation, &bytes) {
            Ok(h) => h,
            Err(e) => frame::Header::decode_mended(&place, generation, &mut bytes).ok_or_else(|| bad(e.0))?,
        };
        self.data_of(seg, record_at, &h, bytes).ok_or_else(|| bad("data checksum"))
    }

    /// As `read_verified`; `None` for a record that is not sound.
    fn read_sound(&self, seg: &Segment, record_at: u32) -> io::Result<Option<(Vec<u8>, u32)>> {
        let mut head = [0u8; frame::HEADER_BYTES];
        seg.file().read_exact_at(&mut head, record_at as u64)?;
        // Lengths first, so that the whole frame can be read for the checksum.
        let meta = u16::from_le_bytes([head[34], head[35]]) as usize;
        let data = u32::from_le_bytes([head[36], head[37], head[38], head[39]]) as usize;
        let whole = frame::HEADER_BYTES + meta + data;
        if record_at as usize + whole > seg.size as usize {
            return Ok(None);
        }
        let mut bytes = vec![0u8; whole];
        seg.file().read_exact_at(&mut bytes, record_at as u64)?;
        let Ok(h) = frame::Header::decode(&self.place(seg, record_at), seg.generation(), &bytes) else {
            return Ok(None);
        };
        Ok(self.data_of(seg, record_at, &h, bytes))
    }

    /// The data part of a frame, if its checksum holds, and where it starts in the segment.
    fn data_of(
        &self,
        seg: &Segment,
        record_at: u32,
        h: &frame::Header,
        mut frame: Vec<u8>,
    ) -> Option<(Vec<u8>, u32)> {
        frame.drain(..h.data_at());
        frame.truncate(h.data_bytes as usize);
        let sound = frame::data_crc(seg.id, h.generation, &frame) == h.data_crc;
        sound.then_some((frame, record_at + h.data_at() as u32))
    }

    /// Sealed segments of which nothing is needed once everything up to `upto` is in a checkpoint: none
    /// of their bytes is live. Call with no change under way.
    pub fn idle_upto(&self, upto: Lsn) -> Vec<Arc<Segment>> {
        let idle = |s: &Arc<Segment>| {
            let st = s.state.lock();
            st.phase == Phase::Sealed && st.max_lsn <= upto && s.live() == 0
        };
        self.pool.all().into_iter().filter(idle).collect()
    }

    /// Recycles segments that nothing needs any more. They come back once no reader can hold them.
    pub fn retire(&self, receipt: Retired) -> usize {
        let mut n = 0;
        for s in receipt.idle {
            let ready = {
                let mut st = s.state.lock();
                let ok = st.phase == Phase::Sealed && s.live() == 0 && s.durable() >= st.pos;
                if ok {
                    st.phase = Phase::Retiring;
                }
                ok
            };
            if ready {
                n += 1;
                let pool = self.pool.clone();
                let guard = epoch::pin();
                guard.defer(move || pool.recycled(s));
                guard.flush();
            }
        }
        self.nudge_epochs();
        n
    }

    /// Deferred recycling runs as the epoch advances; an idle gateway must advance it itself.
    pub fn nudge_epochs(&self) {
        for _ in 0..4 {
            epoch::pin().flush();
        }
    }

    /// Counts by phase.
    pub fn segment_counts(&self) -> SegmentCounts {
        let p = self.pool.counts();
        let mut c = SegmentCounts {
            free: p.free,
            reserved: p.reserved,
            used_bytes: p.busy_bytes,
            ..Default::default()
        };
        for s in self.pool.all() {
            match s.state.lock().phase {
                Phase::Open => c.open += 1,
                Phase::Sealed | Phase::Retiring => c.sealed += 1,
                Phase::Free => {}
            }
        }
        c
    }

    /// The open segments: for whom, what room is left, since when they hold something.
    pub fn open_segments(&self) -> Vec<OpenSegment> {
        let mut v = Vec::new();
        for s in self.pool.all() {
            let st = s.state.lock();
            if st.phase == Phase::Open {
                let first_ns = (st.first_ns != 0).then_some(st.first_ns);
                v.push(OpenSegment { owner: st.owner, room_bytes: (s.size - st.pos) as u64, first_ns });
            }
        }
        v
    }

    /// Bytes of content that are still needed, by whose segments they lie in.
    pub fn live_by_owner(&self) -> Vec<(Owner, i64)> {
        self.pool.all().iter().map(|s| (s.state.lock().owner, s.live())).filter(|l| l.1 > 0).collect()
    }

    /// Bytes of sealed segments that hold no content which is still needed: a checkpoint frees them.
    pub fn idle_sealed_bytes(&self) -> u64 {
        let idle = |s: &Arc<Segment>| s.live() == 0 && s.state.lock().phase == Phase::Sealed;
        self.pool.all().iter().filter(|s| idle(s)).map(|s| s.size as u64).sum()
    }

    /// Number, generation and durable position of every segment in use, for the checkpoint.
    pub fn durable_positions(&self) -> Vec<(SegmentId, u32, u32)> {
        let mut v = Vec::new();
        for s in self.pool.all() {
            let st = s.state.lock();
            if matches!(st.phase, Phase::Open | Phase::Sealed) {
                v.push((s.id, s.generation(), s.durable()));
            }
        }
        v
    }
}
