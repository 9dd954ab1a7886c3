//! The log's segments on simulated time. One allocator makes segments one after another.

use crate::history::Sample;
use crate::segmenter::{Owner, OwnerState, PoolState, SegmentPool};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;

const MIB: f64 = 1048576.0;

struct Open {
    bytes: u64,
    used: u64,
    first_ns: Option<u64>,
}

#[derive(Default)]
struct Segments {
    segment_bytes: u64,
    open: Option<Open>,
    /// Class, and when it is ready.
    ready: Vec<(u64, u64)>,
    appended_bytes: u64,
    /// Its writers wait until then.
    blocked_ns: u64,
}

/// What a policy came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Writes that needed a segment when none was ready. Those queued behind them show in the waits.
    pub stalls: u64,
    /// Segments taken into use, and those that were ready when needed.
    pub switches: u64,
    pub switches_ready: u64,
    pub seals: u64,
    idle_sum: f64,
    idle_count: u64,
    pub idle_max_bytes: u64,
    waits_us: Vec<u32>,
}

impl Tally {
    /// Mean bytes ready or left in open segments.
    pub fn idle_mean_bytes(&self) -> f64 {
        self.idle_sum / self.idle_count.max(1) as f64
    }
    /// A quantile of what writes waited, microseconds.
    pub fn wait_us(&self, tau: f64) -> u64 {
        let mut all = self.waits_us.clone();
        all.sort_unstable();
        let rank = (tau * all.len() as f64).ceil() as usize;
        all.get(rank.saturating_sub(1)).copied().unwrap_or(0) as u64
    }
    /// Share of switches that found a ready segment.
    pub fn ready_rate(&self) -> f64 {
        if self.switches == 0 { 1.0 } else { self.switches_ready as f64 / self.switches as f64 }
    }
}

struct Inner {
    now_ns: u64,
    allocator_ns: u64,
    missed: u64,
    owners: BTreeMap<Owner, Segments>,
    tally: Tally,
}

/// The simulated pool.
pub struct SimPool {
    alloc_ms: f64,
    alloc_ms_per_mib: f64,
    seal_after_ns: u64,
    inner: Mutex<Inner>,
}

impl SimPool {
    /// Allocating a segment takes `alloc_ms` and `alloc_ms_per_mib` for each MiB of it.
    pub fn new(alloc_ms: f64, alloc_ms_per_mib: f64, seal_after_ns: u64) -> Self {
        let owners = BTreeMap::from([(Owner::Shared, Segments::default())]);
        let inner = Inner { now_ns: 0, allocator_ns: 0, missed: 0, owners, tally: Tally::default() };
        SimPool { alloc_ms, alloc_ms_per_mib, seal_after_ns, inner: Mutex::new(inner) }
    }

    /// A write arrives. True when it took a new segment into use: time to step the segmenter.
    pub fn write(&self, s: &Sample) -> bool {
        let mut inner = self.inner.lock();
        inner.now_ns = s.at_ns;
        let client = Owner::Client(s.client);
        let (mut at_ns, mut left) = (s.at_ns, s.bytes as u64);
        let (mut switched, mut missed) = (false, false);
        while left > 0 {
            // Its own segment may end within a write; what is left then goes to the shared one.
            let owner = inner.owner_of(client);
            at_ns = at_ns.max(inner.segments(owner).blocked_ns);
            inner.seal_if_old(owner, self.seal_after_ns);
            if inner.segments(owner).open.is_none() {
                let then_ns = self.switch(&mut inner, owner, at_ns);
                (switched, missed) = (true, missed || then_ns > at_ns);
                at_ns = then_ns;
            }
            left -= inner.append(owner, left, at_ns);
            inner.segments(owner).blocked_ns = at_ns;
        }
        let wait_ns = at_ns - s.at_ns;
        inner.tally.stalls += missed as u64;
        inner.missed += missed as u64;
        inner.tally.waits_us.push((wait_ns / 1000).min(u32::MAX as u64) as u32);
        switched
    }

    /// End of a tick: seals by age, notes what lies idle.
    pub fn tick(&self, now_ns: u64) {
        let mut inner = self.inner.lock();
        inner.now_ns = now_ns;
        let owners: Vec<Owner> = inner.owners.keys().copied().collect();
        owners.into_iter().for_each(|o| inner.seal_if_old(o, self.seal_after_ns));
        inner.note_idle();
    }

    /// Bytes that are ready or left in open segments now.
    pub fn idle_bytes(&self) -> u64 {
        self.inner.lock().idle()
    }

    /// What was counted since the last call.
    pub fn take_tally(&self) -> Tally {
        std::mem::take(&mut self.inner.lock().tally)
    }

    fn alloc_ns(&self, bytes: u64) -> u64 {
        ((self.alloc_ms + self.alloc_ms_per_mib * bytes as f64 / MIB).max(0.0) * 1e6) as u64
    }

    /// Opens the next segment; returns when the writer can go on.
    fn switch(&self, inner: &mut Inner, owner: Owner, at_ns: u64) -> u64 {
        let class = match inner.segments(owner).segment_bytes {
            0 => inner.segments(Owner::Shared).segment_bytes.max(1 << 18),
            class => class,
        };
        inner.tally.switches += 1;
        let ready = &mut inner.segments(owner).ready;
        let first = ready.iter().enumerate().min_by_key(|r| r.1.1).map(|r| r.0);
        let (bytes, ready_ns) = match first {
            Some(i) => ready.remove(i),
            None => (class, at_ns + self.alloc_ns(class)),
        };
        inner.tally.switches_ready += (ready_ns <= at_ns) as u64;
        inner.segments(owner).open = Some(Open { bytes, used: 0, first_ns: None });
        at_ns.max(ready_ns)
    }
}

impl Inner {
    fn segments(&mut self, owner: Owner) -> &mut Segments {
        self.owners.entry(owner).or_default()
    }

    /// A client writes to its own segment once it has one or one is ready for it, else to the shared.
    fn owner_of(&self, client: Owner) -> Owner {
        let now_ns = self.now_ns;
        let own = self.owners.get(&client).is_some_and(|s| {
            s.open.is_some() || (s.segment_bytes > 0 && s.ready.iter().any(|r| r.1 <= now_ns))
        });
        if own { client } else { Owner::Shared }
    }

    fn append(&mut self, owner: Owner, bytes: u64, at_ns: u64) -> u64 {
        let segments = self.segments(owner);
        let Some(open) = &mut segments.open else { return 0 };
        let part = bytes.min(open.bytes - open.used);
        open.used += part;
        open.first_ns.get_or_insert(at_ns);
        let full = open.used == open.bytes;
        segments.appended_bytes += part;
        if full {
            segments.open = None;
            self.tally.seals += 1;
        }
        part
    }

    fn seal_if_old(&mut self, owner: Owner, seal_after_ns: u64) {
        let now_ns = self.now_ns;
        let segments = self.segments(owner);
        let first_ns = segments.open.as_ref().and_then(|o| o.first_ns);
        if first_ns.is_some_and(|first| now_ns.saturating_sub(first) >= seal_after_ns) {
            segments.open = None;
            self.tally.seals += 1;
        }
        let s = &self.owners[&owner];
        if owner != Owner::Shared && s.segment_bytes == 0 && s.open.is_none() && s.ready.is_empty() {
            self.owners.remove(&owner);
        }
    }

    fn idle(&self) -> u64 {
        let idle_of = |s: &Segments| {
            let room = s.open.as_ref().map_or(0, |o| o.bytes - o.used);
            room + s.ready.iter().map(|r| r.0).sum::<u64>()
        };
        self.owners.values().map(idle_of).sum()
    }

    fn note_idle(&mut self) {
        let idle = self.idle();
        self.tally.idle_sum += idle as f64;
        self.tally.idle_count += 1;
        self.tally.idle_max_bytes = self.tally.idle_max_bytes.max(idle);
    }
}

impl SegmentPool for SimPool {
    fn state(&self) -> PoolState {
        let inner = self.inner.lock();
        let state = |(owner, s): (&Owner, &Segments)| {
            let mut o = OwnerState::new(*owner);
            o.segment_bytes = s.segment_bytes;
            o.appended_bytes = s.appended_bytes;
            if let Some(open) = &s.open {
                o.room_bytes = open.bytes - open.used;
                o.open_age_ns = open.first_ns.map(|first| inner.now_ns.saturating_sub(first));
            }
            for (class, _) in &s.ready {
                match o.ready.iter_mut().find(|r| r.0 == *class) {
                    Some(r) => r.1 += 1,
                    None => o.ready.push((*class, 1)),
                }
            }
            o
        };
        PoolState { owners: inner.owners.iter().map(state).collect(), missed: inner.missed }
    }

    fn reserve(&self, owner: Owner, class_bytes: u64) -> io::Result<Option<u64>> {
        let mut inner = self.inner.lock();
        let took_ns = self.alloc_ns(class_bytes);
        inner.allocator_ns = inner.allocator_ns.max(inner.now_ns) + took_ns;
        let ready_ns = inner.allocator_ns;
        inner.segments(owner).ready.push((class_bytes, ready_ns));
        Ok(Some(took_ns))
    }

    fn release(&self, owner: Owner, class_bytes: u64) {
        let mut inner = self.inner.lock();
        let ready = &mut inner.segments(owner).ready;
        if let Some(last) = ready.iter().rposition(|r| r.0 == class_bytes) {
            ready.remove(last);
        }
    }

    fn resize(&self, owner: Owner, class_bytes: u64) {
        self.inner.lock().segments(owner).segment_bytes = class_bytes;
    }
}
