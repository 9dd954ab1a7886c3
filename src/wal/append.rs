//! Appending: one record to the segment of its client.

use super::Wal;
use super::pool::{Class, TakeError};
use super::segment::{Dep, Owner, Phase, Segment};
use crate::format::frame::{self, HEADER_BYTES, Header, PREDECESSORS_MAX};
use crate::types::{ClientId, Lsn, Pos};
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A write is split over two segments only if at least this much goes into the first.
const SPLIT_BYTES_MIN: usize = 64 << 10;
/// A client that has written this much gets a segment of its own.
const OWN_SEGMENT_AFTER_BYTES: u64 = 128 << 10;

/// A client's place in the log.
pub struct ClientSlot {
    pub id: ClientId,
    /// Process id, as written into records.
    pub pid: u32,
    /// Start of the process in clock ticks since boot; 0 until it is known.
    pub start: AtomicU64,
    state: Mutex<SlotState>,
    /// Size of its segments, by the plan; 0: the static size.
    segment_bytes: AtomicU32,
    /// Bytes appended in all.
    pub appended_bytes: AtomicU64,
}

#[derive(Default)]
struct SlotState {
    own: Option<Arc<Segment>>,
    last: Pos,
    recent: u64,
}

impl ClientSlot {
    /// A client that has written nothing yet.
    pub fn new(id: ClientId, pid: u32) -> Self {
        ClientSlot {
            id,
            pid,
            start: AtomicU64::new(0),
            state: Mutex::default(),
            segment_bytes: AtomicU32::new(0),
            appended_bytes: AtomicU64::new(0),
        }
    }
    /// Its latest record.
    pub fn last(&self) -> Pos {
        self.state.lock().last
    }
    /// Sets the size of its next segments.
    pub fn set_segment_bytes(&self, bytes: u32) {
        self.segment_bytes.store(bytes, Ordering::Relaxed);
    }
    /// Size of its next segments, 0: the static size.
    pub fn segment_bytes(&self) -> u32 {
        self.segment_bytes.load(Ordering::Relaxed)
    }
    /// Size of its own open segment, 0 when it shares one.
    pub fn open_bytes(&self) -> u64 {
        self.state.lock().own.as_ref().map_or(0, |s| s.size as u64)
    }
}

/// What to append. The log does not look into `body` or `data`.
pub struct Record<'a> {
    pub kind: u8,
    /// The mutation's fields.
    pub body: &'a [u8],
    /// Records that must survive if this one does; durable ones are left out by the log.
    pub predecessors: &'a [Pos],
    pub data: &'a [u8],
    pub class: Class,
    /// Only a first part of `data` may be taken, if the segment ends.
    pub may_split: bool,
    pub wall_ns: i64,
}

/// Where a record went.
#[derive(Clone)]
pub struct Appended {
    pub pos: Pos,
    pub segment: Arc<Segment>,
    /// Offsets of the frame and of its data in the segment.
    pub record_at: u32,
    pub data_at: u32,
    /// Bytes of `data` taken.
    pub taken: usize,
}

/// Why a record was not appended. Nothing has changed.
#[derive(Debug)]
pub enum AppendError {
    /// The log has no room for this class now.
    Full,
    /// The log device failed.
    Io(io::Error),
}

impl From<TakeError> for AppendError {
    fn from(e: TakeError) -> Self {
        match e {
            TakeError::Full => AppendError::Full,
            TakeError::Io(e) => AppendError::Io(e),
        }
    }
}

impl Wal {
    /// Appends one record for a client. Its LSN is given out with the segment's lock held, so that
    /// order in a segment is LSN order.
    pub fn append(&self, slot: &ClientSlot, rec: &Record<'_>) -> Result<Appended, AppendError> {
        let mut st = slot.state.lock();
        let least = frame::frame_bytes(8 * PREDECESSORS_MAX + rec.body.len(), {
            if rec.may_split { rec.data.len().min(SPLIT_BYTES_MIN) } else { rec.data.len() }
        });
        let mut retried = false;
        loop {
            let (seg, shared) = self.choose(slot, &mut st, rec, least)?;
            match self.try_append(slot, st.last, &seg, rec) {
                Ok(Some(done)) => {
                    st.last = done.pos;
                    st.recent += done.taken as u64;
                    slot.appended_bytes.fetch_add(done.taken as u64, Ordering::Relaxed);
                    if shared {
                        self.shared_appended.fetch_add(done.taken as u64, Ordering::Relaxed);
                    }
                    return Ok(done);
                }
                // No room left, or sealed meanwhile.
                Ok(None) => self.seal(&seg),
                Err(e) => {
                    // A segment that cannot be written is closed; one other is tried.
                    self.seal(&seg);
                    if retried {
                        return Err(AppendError::Io(e));
                    }
                    log::error!("writing log segment {} failed: {e}; trying another", seg.id.0);
                    retried = true;
                }
            }
            if shared {
                let mut cur = self.shared.lock();
                if cur.as_ref().is_some_and(|c| Arc::ptr_eq(c, &seg)) {
                    *cur = None;
                }
            } else {
                st.own = None;
            }
        }
    }

    /// The segment to append to, and whether it is the shared one.
    fn choose(
        &self,
        slot: &ClientSlot,
        st: &mut SlotState,
        rec: &Record<'_>,
        least: usize,
    ) -> Result<(Arc<Segment>, bool), AppendError> {
        if let Some(s) = &st.own {
            if s.state.lock().phase == Phase::Open {
                return Ok((s.clone(), false));
            }
            st.own = None;
        }
        let wants_own = rec.class == Class::Data
            && (st.recent + rec.data.len() as u64 > OWN_SEGMENT_AFTER_BYTES
                || slot.segment_bytes.load(Ordering::Relaxed) > 0)
            && self.own_segments.load(Ordering::Relaxed) < self.own_segments_max;
        if wants_own {
            let size = match slot.segment_bytes.load(Ordering::Relaxed) {
                0 => self.static_bytes(),
                n => n,
            };
            match self.pool.take(Owner::Client(slot.id), size, least as u32, rec.class) {
                Ok(s) => {
                    self.own_segments.fetch_add(1, Ordering::Relaxed);
                    st.own = Some(s.clone());
                    return Ok((s, false));
                }
                // Not into the shared one: it is for those who write little.
                Err(TakeError::Full) if self.pool.held_by(Owner::Client(slot.id)) > 0 => {
                    return Err(AppendError::Full);
                }
                Err(TakeError::Full) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let mut cur = self.shared.lock();
        if let Some(s) = &*cur {
            return Ok((s.clone(), true));
        }
        let s = self.pool.take(Owner::Shared, self.static_bytes(), least as u32, rec.class)?;
        *cur = Some(s.clone());
        Ok((s, true))
    }

    fn try_append(
        &self,
        slot: &ClientSlot,
        client_last: Pos,
        seg: &Arc<Segment>,
        rec: &Record<'_>,
    ) -> io::Result<Option<Appended>> {
        let mut st = seg.state.lock();
        if st.phase != Phase::Open || seg.latched().is_some() {
            return Ok(None);
        }
        let generation = seg.generation();
        let mut named: SmallVec<[Pos; 8]> = SmallVec::new();
        for p in rec.predecessors.iter().chain([&client_last]) {
            // A durable predecessor needs no name: whatever happens, it is there.
            if p.lsn != Lsn::NONE
                && !named.iter().any(|n| n.lsn == p.lsn)
                && named.len() < PREDECESSORS_MAX
                && !self.is_durable_held(p, seg, generation)
            {
                named.push(*p);
            }
        }
        let mut meta: SmallVec<[u8; 256]> = SmallVec::new();
        for p in &named {
            meta.extend_from_slice(&p.lsn.0.to_le_bytes());
        }
        meta.extend_from_slice(rec.body);
        let room = (seg.size - st.pos) as usize;
        let whole = frame::frame_bytes(meta.len(), rec.data.len());
        let taken = if whole <= room {
            rec.data.len()
        } else {
            let part = room.saturating_sub(HEADER_BYTES + meta.len());
            if !rec.may_split || part < SPLIT_BYTES_MIN {
                return Ok(None);
            }
            part & !4095
        };
        let data = &rec.data[..taken];
        let lsn = self.marks.allocate();
        let head = Header {
            lsn,
            generation,
            pid: slot.pid,
            start: slot.start.load(Ordering::Relaxed),
            kind: rec.kind,
            predecessors: named.len() as u8,
            meta_bytes: meta.len() as u16,
            data_bytes: taken as u32,
            data_crc: frame::data_crc(seg.id, generation, data),
            durable: seg.durable(),
            wall_ns: rec.wall_ns,
        };
        let record_at = st.pos;
        let bytes = head.encode(&self.place(seg, record_at), &meta);
        seg.file().write_all_at(&[&bytes, &meta, data], record_at as u64)?;
        st.pos += head.frame_bytes() as u32;
        st.max_lsn = lsn;
        if st.first_ns == 0 {
            st.first_ns = self.clock.monotonic_ns();
        }
        let end = st.pos;
        for p in named.iter().filter(|p| p.segment != seg.id) {
            st.deps.push(Dep { end, on: *p });
        }
        let pos = Pos { segment: seg.id, generation, end, lsn };
        Ok(Some(Appended {
            pos,
            segment: seg.clone(),
            record_at,
            data_at: record_at + head.data_at() as u32,
            taken,
        }))
    }

    /// Closes a segment to appends.
    pub fn seal(&self, seg: &Segment) {
        let mut st = seg.state.lock();
        if st.phase == Phase::Open {
            st.phase = Phase::Sealed;
            if st.owner != Owner::Shared {
                self.own_segments.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// A client is gone: its own segment is sealed.
    pub fn retire_client(&self, slot: &ClientSlot) {
        let own = slot.state.lock().own.take();
        if let Some(s) = own {
            self.seal(&s);
        }
    }

    /// Seals every open segment that holds something: those at least `age_ns` old, or all.
    /// Returns how many.
    pub fn seal_older(&self, age_ns: u64) -> usize {
        let now = self.clock.monotonic_ns();
        let mut n = 0;
        for s in self.pool.all() {
            let old = {
                let st = s.state.lock();
                st.phase == Phase::Open && st.first_ns != 0 && now.saturating_sub(st.first_ns) >= age_ns
            };
            if old {
                self.seal(&s);
                n += 1;
            }
        }
        n
    }
}
