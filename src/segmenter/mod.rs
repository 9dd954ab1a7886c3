//! F4: the Adaptive Segmenter: turns a forecast into segment sizes and reserves. `decide` is pure;
//! [`Segmenter::step`] carries its decision out on the log's [`SegmentPool`] and measures what
//! allocations take.

mod cost;
mod decide;
mod demand;
mod outrun;
mod step;

pub use cost::{Allocations, Costs, best_count, cost};
pub use decide::decide;
pub use outrun::Outrun;
pub use step::{Segmenter, Step};

use crate::types::ClientId;
use smallvec::SmallVec;
use std::io;

/// Whose segment it is. Clients that write little share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    Shared,
    Client(ClientId),
}

/// One step of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The owner's next segments have this size. For a client: it has segments of its own from now on;
    /// with 0 it returns to the shared one when its open segment is sealed.
    Resize { owner: Owner, segment_bytes: u64 },
    /// Make so many segments ready.
    Reserve { owner: Owner, class_bytes: u64, count: u32 },
    /// Give so many ready ones back.
    Release { owner: Owner, class_bytes: u64, count: u32 },
}

/// Bounds of all decisions. Sizes are powers of two from `segment_bytes_min` to `segment_bytes_max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Size in fallback, and how many ready ones are kept then.
    pub segment_bytes_static: u64,
    pub spares_static: u32,
    pub segment_bytes_min: u64,
    pub segment_bytes_max: u64,
    /// All ready segments together.
    pub reserve_bytes_max: u64,
    /// Held ready for the shared segments beside the open one, whatever the forecast: of what no model foresees the first writes wait
    /// least then.
    pub floor_bytes: u64,
    /// Age at which an open segment is sealed.
    pub seal_after_ns: u64,
    /// Clients with segments of their own at a time.
    pub clients_max: usize,
    /// The naive rule, for comparison: one ready segment that holds the whole forecast.
    pub one_segment: bool,
}

/// The usual [`Limits::floor_bytes`]. With 4 MiB what lies idle would be above 10 MiB in the mean of 18 recordings.
pub const FLOOR_BYTES: u64 = 2 << 20;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            segment_bytes_static: 4 << 20,
            spares_static: 1,
            segment_bytes_min: 256 << 10,
            segment_bytes_max: 64 << 20,
            reserve_bytes_max: 256 << 20,
            floor_bytes: 0,
            seal_after_ns: 5_000_000_000,
            clients_max: 8,
            one_segment: false,
        }
    }
}

impl Limits {
    /// The smallest class that holds `bytes`, within the limits.
    pub fn class_up(&self, bytes: f64) -> u64 {
        let min = self.segment_bytes_min.max(1).next_power_of_two();
        let max = self.segment_bytes_max.max(min);
        let wanted = bytes.clamp(0.0, (1u64 << 62) as f64) as u64;
        let class = wanted.max(min).next_power_of_two();
        if class <= max { class } else { 1 << max.ilog2() }
    }

    /// What static sizing holds on average: its spares and half an open segment.
    pub fn static_bytes(&self) -> u64 {
        self.segment_bytes_static * self.spares_static as u64 + self.segment_bytes_static / 2
    }
}

/// The segments of one owner.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerState {
    pub owner: Owner,
    /// As last set by `resize`.
    pub segment_bytes: u64,
    /// Left in the open segment, 0 without one.
    pub room_bytes: u64,
    /// Since its first append; `None` for one without any.
    pub open_age_ns: Option<u64>,
    /// Ready segments: size and count.
    pub ready: SmallVec<[(u64, u32); 4]>,
    /// Appended by this owner since the log was opened.
    pub appended_bytes: u64,
    /// Appended since the forecast was made; set by the [`Segmenter`], the pool says 0.
    pub taken_bytes: u64,
    /// Appended since the burst that goes on began, at least `taken_bytes`; set by the [`Segmenter`], the pool says 0.
    pub burst_bytes: u64,
    /// False within a second of the last time it shrank; set by the [`Segmenter`], the pool says true.
    pub may_shrink: bool,
}

impl OwnerState {
    /// An owner that has nothing yet.
    pub fn new(owner: Owner) -> Self {
        OwnerState {
            owner,
            segment_bytes: 0,
            room_bytes: 0,
            open_age_ns: None,
            ready: SmallVec::new(),
            appended_bytes: 0,
            taken_bytes: 0,
            burst_bytes: 0,
            may_shrink: true,
        }
    }

    /// Bytes of its ready segments.
    pub fn ready_bytes(&self) -> u64 {
        self.ready.iter().map(|(class, count)| class * *count as u64).sum()
    }
}

/// The segments of the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolState {
    /// `Shared`, and every client with a segment or a reserve of its own.
    pub owners: Vec<OwnerState>,
    /// Writers that found no segment ready: since the log was opened from the pool, since the forecast was made from the
    /// [`Segmenter`].
    pub missed: u64,
}

/// What the segmenter needs of the log.
///
/// A client with a size of its own moves to its own segment once one is ready for it; when that is full and
/// none of its own is ready, it goes on in the shared segment until one is.
pub trait SegmentPool {
    /// As it is now; segments still being made count as ready.
    fn state(&self) -> PoolState;
    /// Makes one segment ready. Returns what making it took, nanoseconds; `None` if one was at hand. Fails when the
    /// disk does; then nothing has changed.
    fn reserve(&self, owner: Owner, class_bytes: u64) -> io::Result<Option<u64>>;
    /// Gives one ready segment back, if there still is one.
    fn release(&self, owner: Owner, class_bytes: u64);
    /// Sets the size of the owner's next segments; 0 sends a client back to the shared ones.
    fn resize(&self, owner: Owner, class_bytes: u64);
}
