//! The Write Pattern History as series: in total, by program and by client.

use super::{Births, Bucket, Resolution, Sample, Series};
use crate::types::{ClientId, ProgramId};
use std::collections::HashMap;
use std::hash::Hash;

/// Buckets kept at 10 ms, 50 ms, 1 s, 10 s: about 330 KiB for the total, 20 a program, 6 a client.
pub(super) const TOTAL_LIMITS: [usize; 4] = [6000, 2400, 3600, 8640];
pub(super) const PROGRAM_LIMITS: [usize; 4] = [256, 256, 300, 360];
const CLIENT_LIMITS: [usize; 4] = [128, 128, 60, 36];
/// Programs and clients with a series of their own; the least written go first.
pub(super) const PROGRAM_SERIES_MAX: usize = 32;
const CLIENT_SERIES_MAX: usize = 64;

/// Whose writes a query is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Total,
    Program(ProgramId),
    Client(ClientId),
}

/// The aggregated history. Owned by the prediction loop; memory is bounded (below 2 MiB).
#[derive(Clone, Debug, Default)]
pub struct Pattern {
    pub(super) total: Series,
    pub(super) programs: HashMap<ProgramId, Series>,
    clients: HashMap<ClientId, Series>,
    /// First seconds of clients.
    pub births: Births,
}

impl Pattern {
    /// Adds drained samples; events without bytes only count as signs of life. `born` is called for each
    /// sample that is its client's first.
    pub fn absorb(&mut self, samples: &[Sample], mut born: impl FnMut(&Sample)) {
        for s in samples {
            if self.births.observe(s) {
                born(s);
            }
            if !s.is_write() {
                continue;
            }
            let bytes = s.bytes as u64;
            self.total.add(s.at_ns, bytes, &TOTAL_LIMITS);
            entry(&mut self.programs, s.program, PROGRAM_SERIES_MAX).add(s.at_ns, bytes, &PROGRAM_LIMITS);
            entry(&mut self.clients, s.client, CLIENT_SERIES_MAX).add(s.at_ns, bytes, &CLIENT_LIMITS);
        }
    }

    /// The non-empty buckets of a scope that start in `from_ns..to_ns`; none for one not kept.
    pub fn window(&self, scope: Scope, resolution: Resolution, from_ns: i64, to_ns: i64) -> Vec<Bucket> {
        let series = match scope {
            Scope::Total => Some(&self.total),
            Scope::Program(p) => self.programs.get(&p),
            Scope::Client(c) => self.clients.get(&c),
        };
        series.map_or_else(Vec::new, |s| s.window(resolution, from_ns, to_ns))
    }

    /// Programs with a series, in the order of their numbers.
    pub fn programs(&self) -> Vec<ProgramId> {
        let mut all: Vec<_> = self.programs.keys().copied().collect();
        all.sort_unstable();
        all
    }
}

/// The series of a key; makes room by dropping the one with the least bytes lately, then the stalest.
fn entry<K: Copy + Eq + Hash + Ord>(map: &mut HashMap<K, Series>, key: K, max: usize) -> &mut Series {
    if map.len() >= max
        && !map.contains_key(&key)
        && let Some(least) =
            map.iter().map(|(k, s)| (s.last_second() / 60, s.recent_bytes(), *k)).min().map(|m| m.2)
    {
        map.remove(&least);
    }
    map.entry(key).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{How, InodeId};

    #[test]
    fn series_by_scope_and_bounded() {
        let mut p = Pattern::default();
        let mut born = 0;
        for n in 0..1000u32 {
            let s = Sample {
                at_ns: n as u64 * 10_000_000,
                client: ClientId(n / 2),
                program: ProgramId(n % 100),
                bytes: 10,
                inode: InodeId(2),
                how: if n % 10 == 0 { How::Fsync } else { How::Write },
            };
            p.absorb(&[if n % 10 == 0 { Sample { bytes: 0, ..s } } else { s }], |_| born += 1);
        }
        assert_eq!(born, 500);
        let total: u64 = p.window(Scope::Total, Resolution::S1, 0, i64::MAX).iter().map(|b| b.bytes).sum();
        assert_eq!(total, 9_000);
        assert_eq!(p.window(Scope::Client(ClientId(499)), Resolution::S10, 0, i64::MAX)[0].bytes, 20);
        assert!(p.window(Scope::Program(ProgramId(100)), Resolution::S1, 0, i64::MAX).is_empty());
        assert!(p.programs.len() <= PROGRAM_SERIES_MAX && p.clients.len() <= CLIENT_SERIES_MAX);
    }
}
