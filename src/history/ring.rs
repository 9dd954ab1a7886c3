//! The write path's side: sharded rings of atomic slots. A writer claims a position with one
//! `fetch_add` and its slot with one compare-exchange (a sequence lock, so readers see whole
//! samples); the newest win, what the reader did not fetch in time is counted as lost.

use super::Sample;
use crate::types::{ClientId, How, InodeId, ProgramId};
use parking_lot::Mutex;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

const SHARDS: usize = 8;
const SLOTS: usize = 8192;

/// `sequence` is `2p + 1` while position `p` is written and `2p + 2` once it can be read.
#[derive(Default)]
struct Slot {
    sequence: AtomicU64,
    at_ns: AtomicU64,
    who: AtomicU64,
    what: AtomicU64,
    inode: AtomicU64,
}

#[repr(align(128))]
struct Shard {
    head: AtomicU64,
    slots: Box<[Slot]>,
}

/// Where the reader is in a shard, and whether it already waited there once.
#[derive(Clone, Copy, Default)]
struct Cursor {
    next: u64,
    waited: bool,
}

enum Fetch {
    Got(Sample),
    NotYet,
    Lost,
}

/// The samples on their way from the write path to the prediction loop.
pub struct History {
    shards: Box<[Shard]>,
    reader: Mutex<Vec<Cursor>>,
    lost: AtomicU64,
}

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(usize::MAX) };
}
static LANES: AtomicUsize = AtomicUsize::new(0);

/// A small number for this thread, so that threads spread over the shards.
fn lane() -> usize {
    LANE.with(|l| {
        if l.get() == usize::MAX {
            l.set(LANES.fetch_add(1, Ordering::Relaxed));
        }
        l.get()
    })
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

impl History {
    /// Room for 8 x 8192 samples (2.5 MiB): a 50 ms tick of one thread at 160,000 writes a second.
    pub fn new() -> Self {
        Self::with_capacity(SHARDS, SLOTS)
    }

    /// `slots` are rounded up to a power of two, at least 2; `shards` to at least 1.
    pub fn with_capacity(shards: usize, slots: usize) -> Self {
        let slots = slots.max(2).next_power_of_two();
        let shards = shards.max(1);
        let shard =
            || Shard { head: AtomicU64::new(0), slots: (0..slots).map(|_| Slot::default()).collect() };
        History {
            shards: (0..shards).map(|_| shard()).collect(),
            reader: Mutex::new(vec![Cursor::default(); shards]),
            lost: AtomicU64::new(0),
        }
    }

    /// Notes a sample. Lock-free, a few tens of nanoseconds, never fails: when the reader is slow the
    /// oldest are overwritten.
    pub fn record(&self, sample: Sample) {
        let shard = &self.shards[lane() % self.shards.len()];
        let position = shard.head.fetch_add(1, Ordering::Relaxed);
        let slot = &shard.slots[position as usize & (shard.slots.len() - 1)];
        let before = slot.sequence.load(Ordering::Relaxed);
        let mine = 2 * position + 1;
        // Odd: a writer a whole lap behind is still in there; larger: one a lap ahead was quicker. Then
        // this sample is given up, and the reader counts the position as lost.
        if before & 1 == 1
            || before > mine
            || slot.sequence.compare_exchange(before, mine, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        fence(Ordering::Release);
        slot.at_ns.store(sample.at_ns, Ordering::Relaxed);
        slot.who.store(pair(sample.client.0, sample.program.0), Ordering::Relaxed);
        slot.what.store(pair(sample.bytes, sample.how as u32), Ordering::Relaxed);
        slot.inode.store(sample.inode.0, Ordering::Relaxed);
        slot.sequence.store(mine + 1, Ordering::Release);
    }

    /// Appends all samples recorded since the last call, in order of time. For one reader at a time:
    /// a second one waits.
    pub fn drain(&self, out: &mut Vec<Sample>) {
        let start = out.len();
        let mut lost = 0;
        let mut cursors = self.reader.lock();
        for (shard, cursor) in self.shards.iter().zip(cursors.iter_mut()) {
            lost += shard.drain(cursor, out);
        }
        drop(cursors);
        out[start..].sort_by_key(|s| s.at_ns);
        if lost > 0 {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// Samples overwritten before they were read, since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Shard {
    /// Fetches what is ready; returns how many were lost.
    fn drain(&self, cursor: &mut Cursor, out: &mut Vec<Sample>) -> u64 {
        let head = self.head.load(Ordering::Acquire);
        let oldest = head.saturating_sub(self.slots.len() as u64);
        let mut lost = oldest.saturating_sub(cursor.next);
        if lost > 0 {
            *cursor = Cursor { next: oldest, waited: false };
        }
        while cursor.next < head {
            match self.fetch(cursor.next) {
                Fetch::Got(sample) => out.push(sample),
                // A writer between claim and store; if it is still there at the next call it gave up.
                Fetch::NotYet if !cursor.waited => {
                    cursor.waited = true;
                    return lost;
                }
                Fetch::NotYet | Fetch::Lost => lost += 1,
            }
            *cursor = Cursor { next: cursor.next + 1, waited: false };
        }
        lost
    }

    fn fetch(&self, position: u64) -> Fetch {
        let slot = &self.slots[position as usize & (self.slots.len() - 1)];
        let want = 2 * position + 2;
        let before = slot.sequence.load(Ordering::Acquire);
        if before < want {
            return Fetch::NotYet;
        }
        let (client, program) = split(slot.who.load(Ordering::Relaxed));
        let (bytes, how) = split(slot.what.load(Ordering::Relaxed));
        let at_ns = slot.at_ns.load(Ordering::Relaxed);
        let inode = slot.inode.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let unchanged = before == want && slot.sequence.load(Ordering::Relaxed) == want;
        match How::from_number(how) {
            Some(how) if unchanged => Fetch::Got(Sample {
                at_ns,
                client: ClientId(client),
                program: ProgramId(program),
                bytes,
                inode: InodeId(inode),
                how,
            }),
            _ => Fetch::Lost,
        }
    }
}

fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::worker;
    use std::sync::Arc;

    fn sample(n: u32) -> Sample {
        Sample {
            at_ns: n as u64,
            client: ClientId(n),
            program: ProgramId(n ^ 5),
            bytes: n.wrapping_mul(3),
            inode: InodeId(n as u64 + 7),
            how: How::Mmap,
        }
    }

    #[test]
    fn keeps_order_and_content() {
        let h = History::with_capacity(2, 64);
        (0..50).for_each(|n| h.record(sample(n)));
        let mut out = Vec::new();
        h.drain(&mut out);
        assert_eq!(out, (0..50).map(sample).collect::<Vec<_>>());
        h.drain(&mut out);
        assert_eq!((out.len(), h.lost()), (50, 0));
    }

    #[test]
    fn overflow_drops_the_oldest_and_counts_them() {
        let h = History::with_capacity(1, 16);
        (0..40).for_each(|n| h.record(sample(n)));
        let mut out = Vec::new();
        h.drain(&mut out);
        assert_eq!(out, (24..40).map(sample).collect::<Vec<_>>());
        assert_eq!(h.lost(), 24);
    }

    #[test]
    fn a_writer_that_gave_up_is_passed_at_the_second_drain() {
        let h = History::with_capacity(1, 4);
        h.record(sample(0));
        h.shards[0].head.fetch_add(1, Ordering::Relaxed);
        h.record(sample(2));
        let mut out = Vec::new();
        h.drain(&mut out);
        assert_eq!(out, vec![sample(0)]);
        h.drain(&mut out);
        assert_eq!(out, vec![sample(0), sample(2)]);
        assert_eq!(h.lost(), 1);
    }

    #[test]
    fn many_writers_and_a_reader_never_see_a_torn_sample() {
        let h = Arc::new(History::with_capacity(2, 128));
        let each = 20_000u32;
        let writers: Vec<_> = (0..4)
            .map(|w| {
                let h = h.clone();
                worker::spawn("writer", move || {
                    (0..each).for_each(|i| h.record(sample(w * each + i)));
                })
                .expect("a test thread starts")
            })
            .collect();
        let mut out = Vec::new();
        while !writers.iter().all(|w| w.is_finished()) {
            h.drain(&mut out);
        }
        writers.into_iter().for_each(|w| w.join().expect("a writer ends"));
        (0..300).for_each(|_| h.drain(&mut out));
        assert!(out.iter().all(|s| *s == sample(s.client.0)));
        assert_eq!(out.len() as u64 + h.lost(), 4 * each as u64);
        let mut ids: Vec<_> = out.iter().map(|s| s.client.0).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), out.len());
    }
}
