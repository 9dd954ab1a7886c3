//! What a gateway notes of itself over time: a point a second for an hour, a point a minute for a day, in
//! memory only and below 2 MiB.

use super::status::State;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Points kept: an hour of seconds, a day of minutes.
pub const SECONDS_MAX: usize = 3600;
pub const MINUTES_MAX: usize = 1440;

/// Programs named in a point; what others wrote goes by number 0.
pub const PROGRAMS_MAX: usize = 5;

/// Points of one message: each takes at most 400 bytes there.
const PART_POINTS: usize = 1000;

/// Service times of a span, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    pub p50: u32,
    pub p99: u32,
    pub p999: u32,
}

/// One second or minute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Counts up from 1 since the mount.
    pub number: u64,
    /// Its end, milliseconds since 1970.
    pub at_ms: i64,
    /// Its true length.
    pub span_ms: u32,
    pub state: State,
    // What happened in it.
    pub writes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub fsyncs: u64,
    pub write_us: Times,
    pub read_us: Times,
    pub fsync_us: Times,
    pub stored_bytes: u64,
    pub absorbed_bytes: u64,
    /// Requests made of a bucket's store; steps of the writeback where the backing is a directory.
    pub requests: u64,
    pub errors: u64,
    pub stalls: u64,
    pub closes: u64,
    pub contents: u64,
    /// Program number and bytes, the largest first.
    pub programs: Box<[(u32, u64)]>,
    // How things stood at its end.
    /// Forecast of the bytes of the next `horizon_ms`.
    pub expected_bytes: u64,
    pub q95_bytes: u64,
    pub q99_bytes: u64,
    pub horizon_ms: u32,
    /// Ready for writes: reserved segments and the room of open ones.
    pub reserve_bytes: u64,
    pub dirty_bytes: u64,
    pub used_bytes: u64,
    pub oldest_dirty_ms: u64,
}

impl Point {
    /// So many in its span as a rate a second.
    pub fn rate(&self, n: u64) -> f64 {
        n as f64 * 1000.0 / self.span_ms.max(1) as f64
    }

    /// Names the heaviest programs of the span, and lumps the rest.
    pub fn set_programs(&mut self, bytes: &BTreeMap<u32, u64>) {
        let mut all: Vec<(u32, u64)> = bytes.iter().map(|(p, n)| (*p, *n)).filter(|p| p.1 > 0).collect();
        all.sort_by_key(|p| (p.0 == 0, std::cmp::Reverse(p.1)));
        let rest: u64 = all
            .iter()
            .skip_while(|p| p.0 != 0)
            .chain(all.iter().take_while(|p| p.0 != 0).skip(PROGRAMS_MAX))
            .map(|p| p.1)
            .sum();
        all.retain(|p| p.0 != 0);
        all.truncate(PROGRAMS_MAX);
        if rest > 0 {
            all.push((0, rest));
        }
        self.programs = all.into();
    }
}

/// A message of points, with the names of the programs in them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeriesPart {
    pub names: Vec<(u32, String)>,
    pub points: Vec<Point>,
}

impl SeriesPart {
    /// Takes what follows.
    pub fn append(&mut self, next: SeriesPart) {
        for name in next.names {
            if !self.names.contains(&name) {
                self.names.push(name);
            }
        }
        self.points.extend(next.points);
    }

    /// The name of a program in it.
    pub fn name(&self, program: u32) -> &str {
        self.names.iter().find(|n| n.0 == program).map_or("other", |n| n.1.as_str())
    }
}

/// The points that are kept.
#[derive(Debug, Default)]
pub struct Series {
    seconds: VecDeque<Point>,
    minutes: VecDeque<Point>,
}

impl Series {
    /// Keeps one more, and gives it its number.
    pub fn push(&mut self, minutes: bool, mut point: Point) {
        let (all, max) = match minutes {
            false => (&mut self.seconds, SECONDS_MAX),
            true => (&mut self.minutes, MINUTES_MAX),
        };
        point.number = all.back().map_or(0, |p| p.number) + 1;
        if all.len() == max {
            all.pop_front();
        }
        all.push_back(point);
    }

    /// Those after a number, in messages. `name` tells a program's.
    pub fn parts(&self, minutes: bool, after: u64, name: &dyn Fn(u32) -> String) -> Vec<SeriesPart> {
        let all = if minutes { &self.minutes } else { &self.seconds };
        let points: Vec<Point> =
            all.iter().skip(all.partition_point(|p| p.number <= after)).cloned().collect();
        let part = |points: &[Point]| {
            let mut numbers: Vec<u32> = points.iter().flat_map(|p| p.programs.iter().map(|p| p.0)).collect();
            numbers.sort_unstable();
            numbers.dedup();
            SeriesPart { names: numbers.into_iter().map(|n| (n, name(n))).collect(), points: points.to_vec() }
        };
        points.chunks(PART_POINTS).map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::codec::{FRAME_BYTES_MAX, encode};

    /// As large as a point can get.
    fn large() -> Point {
        let mut p = Point { at_ms: i64::MAX, span_ms: u32::MAX, ..Point::default() };
        for x in [&mut p.writes, &mut p.written_bytes, &mut p.reads, &mut p.read_bytes, &mut p.fsyncs] {
            *x = u64::MAX;
        }
        p.programs = vec![(u32::MAX, u64::MAX); PROGRAMS_MAX + 1].into();
        p
    }

    #[test]
    fn memory_and_messages_are_bounded() {
        let mut s = Series::default();
        for _ in 0..SECONDS_MAX + 10 {
            s.push(false, large());
            s.push(true, large());
        }
        assert_eq!((s.seconds.len(), s.minutes.len()), (SECONDS_MAX, MINUTES_MAX));
        let each = size_of::<Point>() + 16 * (PROGRAMS_MAX + 1);
        assert!((SECONDS_MAX + MINUTES_MAX) * each < 2 << 20, "{each} bytes a point");
        let parts = s.parts(false, 0, &|_| "n".repeat(15));
        assert_eq!(parts.iter().map(|p| p.points.len()).sum::<usize>(), SECONDS_MAX);
        assert!(parts.iter().all(|p| encode(p).unwrap().len() < FRAME_BYTES_MAX / 2));
        let last = s.parts(false, SECONDS_MAX as u64 + 8, &|_| String::new());
        assert_eq!(last[0].points.iter().map(|p| p.number).collect::<Vec<_>>(), [3609, 3610]);
        assert!(s.parts(false, 4000, &|_| String::new()).is_empty());
    }

    #[test]
    fn the_heaviest_programs_are_named() {
        let mut p = Point { span_ms: 500, ..Point::default() };
        p.set_programs(&(0..8).map(|n| (n, 10 * n as u64)).collect());
        assert_eq!(*p.programs, [(7, 70), (6, 60), (5, 50), (4, 40), (3, 30), (0, 30)]);
        p.set_programs(&BTreeMap::from([(0, 5), (1, 0)]));
        assert_eq!(*p.programs, [(0, 5)]);
        assert_eq!(p.rate(10), 20.0);
    }
}
