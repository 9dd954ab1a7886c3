//! How much of the log who may use.

/// Who may use the last of the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// File content and everything that makes more of it.
    Data,
    /// Deletes, renames, attributes: work at 100 %.
    Meta,
    /// The gateway's own records, without which nothing could drain.
    System,
}

/// Sizes of the log.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// All segment files together, bytes.
    pub capacity: u64,
    pub segment_min: u32,
    pub segment_max: u32,
    /// Segments of this size when nothing says otherwise.
    pub segment_static: u32,
}

impl PoolLimits {
    /// Bytes of segments in use that a class of appends may reach.
    pub fn limit(&self, class: Class) -> u64 {
        let step = self.headroom() / 2;
        match class {
            Class::Data => self.capacity - 2 * step,
            Class::Meta => self.capacity - step,
            Class::System => self.capacity,
        }
    }
    /// Kept back from content: two segments for deletes, two for the drain.
    pub(super) fn headroom(&self) -> u64 {
        (4 * self.segment_min as u64).min(self.capacity / 2)
    }
    /// Bytes of segments in use that an owner may reach who holds `mine` of them already. Whoever holds more than
    /// an even share of what `owners` have between them leaves an eighth of the log to the others: a flood
    /// fills the log, but a small writer beside it never finds it full.
    pub(super) fn limit_for(&self, class: Class, mine: u64, owners: usize) -> u64 {
        let limit = self.limit(class);
        let heavy = class == Class::Data && mine > limit / owners.max(2) as u64;
        if heavy { limit - limit / 8 } else { limit }
    }
    /// Segments of the least size that make up the headroom.
    pub(super) fn spares(&self) -> usize {
        (self.headroom() / self.segment_min.max(1) as u64) as usize
    }
}
