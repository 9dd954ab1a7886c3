//! A time series of counts and bytes at four resolutions, sparse: idle time costs nothing.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Width of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    Ms10,
    Ms50,
    S1,
    S10,
}

impl Resolution {
    /// All, finest first.
    pub const ALL: [Resolution; 4] = [Resolution::Ms10, Resolution::Ms50, Resolution::S1, Resolution::S10];

    /// Width in nanoseconds.
    pub fn ns(self) -> i64 {
        match self {
            Resolution::Ms10 => 10_000_000,
            Resolution::Ms50 => 50_000_000,
            Resolution::S1 => 1_000_000_000,
            Resolution::S10 => 10_000_000_000,
        }
    }
}

/// What was written in one bucket of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Start, monotonic nanoseconds; negative before this clock started (an earlier boot).
    pub at_ns: i64,
    pub requests: u32,
    pub bytes: u64,
}

/// A stored bucket: its number in units of the resolution, requests, bytes.
pub(super) type Row = (i64, u32, u64);

/// The series of one scope; each resolution keeps its newest non-empty buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    rows: [VecDeque<Row>; 4],
}

impl Series {
    /// Adds a write. `limits` are the buckets kept per resolution, the newest stay.
    pub(super) fn add(&mut self, at_ns: u64, bytes: u64, limits: &[usize; 4]) {
        for (i, resolution) in Resolution::ALL.iter().enumerate() {
            let rows = &mut self.rows[i];
            let number = at_ns as i64 / resolution.ns();
            // Writes come almost in order, so the place is at or near the end.
            let place = rows.iter().rev().take_while(|r| r.0 > number).count();
            let place = rows.len() - place;
            if place > 0 && rows[place - 1].0 == number {
                let row = &mut rows[place - 1];
                row.1 = row.1.saturating_add(1);
                row.2 = row.2.saturating_add(bytes);
            } else if rows.len() < limits[i] {
                rows.insert(place, (number, 1, bytes));
            } else if place > 0 {
                rows.pop_front();
                rows.insert(place - 1, (number, 1, bytes));
            }
        }
    }

    /// The non-empty buckets that start in `from_ns..to_ns`, in order.
    pub fn window(&self, resolution: Resolution, from_ns: i64, to_ns: i64) -> Vec<Bucket> {
        let width = resolution.ns();
        let rows = &self.rows[resolution as usize];
        let start = rows.partition_point(|r| r.0.saturating_mul(width) < from_ns);
        rows.iter()
            .skip(start)
            .map(|r| Bucket { at_ns: r.0.saturating_mul(width), requests: r.1, bytes: r.2 })
            .take_while(|b| b.at_ns < to_ns)
            .collect()
    }

    /// Bytes of the newest buckets at 10 s: what eviction goes by.
    pub(super) fn recent_bytes(&self) -> u64 {
        self.rows[Resolution::S10 as usize].iter().rev().take(30).fold(0, |sum, r| sum.saturating_add(r.2))
    }

    /// Time of the newest bucket at 1 s, in its seconds.
    pub(super) fn last_second(&self) -> i64 {
        self.rows[Resolution::S1 as usize].back().map_or(0, |r| r.0)
    }

    /// Moves all by `shift_ns` (a multiple of 10 s) and keeps `limits`. False when the rows are not
    /// ascending, as damage may have it.
    pub(super) fn rebase(&mut self, shift_ns: i64, limits: &[usize; 4]) -> bool {
        for (i, resolution) in Resolution::ALL.iter().enumerate() {
            let rows = &mut self.rows[i];
            rows.iter_mut().for_each(|r| r.0 = r.0.saturating_add(shift_ns / resolution.ns()));
            if !rows.iter().zip(rows.iter().skip(1)).all(|(a, b)| a.0 < b.0) {
                return false;
            }
            while rows.len() > limits[i] {
                rows.pop_front();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: [usize; 4] = [4, 4, 4, 4];

    #[test]
    fn buckets_and_windows() {
        let mut s = Series::default();
        for (ms, bytes) in [(0, 1), (5, 2), (12, 4), (60, 8), (1_500, 16)] {
            s.add(ms * 1_000_000, bytes, &LIMITS);
        }
        let all = |r| s.window(r, 0, i64::MAX).iter().map(|b| b.bytes).collect::<Vec<_>>();
        assert_eq!(all(Resolution::Ms10), [3, 4, 8, 16]);
        assert_eq!(all(Resolution::Ms50), [7, 8, 16]);
        assert_eq!(all(Resolution::S1), [15, 16]);
        assert_eq!(all(Resolution::S10), [31]);
        let some = s.window(Resolution::Ms50, 50_000_000, 1_500_000_000);
        assert_eq!(some, [Bucket { at_ns: 50_000_000, requests: 1, bytes: 8 }]);
    }

    #[test]
    fn late_writes_find_their_bucket_and_the_oldest_go() {
        let mut s = Series::default();
        for second in [1, 4, 3, 2, 4, 5, 0, 9] {
            s.add(second * 1_000_000_000, second, &LIMITS);
        }
        let rows: Vec<_> = s
            .window(Resolution::S1, 0, i64::MAX)
            .iter()
            .map(|b| (b.at_ns / 1_000_000_000, b.bytes))
            .collect();
        assert_eq!(rows, [(3, 3), (4, 8), (5, 5), (9, 9)]);
    }
}
