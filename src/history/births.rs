//! How much a new client writes in its first second: the best single hint there is, known by the
//! program's name at the first open (PREDICTION.md, finding 3).

use super::Sample;
use crate::types::{ClientId, ProgramId};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};

/// Length of the window after a client's first sample.
pub const BIRTH_WINDOW_NS: u64 = 1_000_000_000;
/// Clients watched; beyond it the longest quiet are forgotten.
const CLIENTS_MAX: usize = 4096;
/// Births kept.
const BIRTHS_MAX: usize = 4096;

/// One client's first second, complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    pub program: u32,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    born_ns: u64,
    seen_ns: u64,
    bytes: u64,
    program: ProgramId,
}

/// Watches clients appear.
#[derive(Clone, Debug, Default)]
pub struct Births {
    lives: HashMap<ClientId, Life>,
    young: VecDeque<ClientId>,
    done: VecDeque<Birth>,
    finished: u64,
}

impl Births {
    /// Notes a sample; true when it is the client's first.
    pub fn observe(&mut self, s: &Sample) -> bool {
        if let Some(life) = self.lives.get_mut(&s.client) {
            life.seen_ns = life.seen_ns.max(s.at_ns);
            if s.at_ns.saturating_sub(life.born_ns) < BIRTH_WINDOW_NS {
                life.bytes = life.bytes.saturating_add(s.bytes as u64);
                // A process that opened before exec is known by its later name.
                life.program = s.program;
            }
            return false;
        }
        if self.lives.len() >= CLIENTS_MAX {
            self.forget_quiet();
        }
        let life = Life { born_ns: s.at_ns, seen_ns: s.at_ns, bytes: s.bytes as u64, program: s.program };
        self.lives.insert(s.client, life);
        self.young.push_back(s.client);
        true
    }

    /// Completes the first seconds that are over at `now_ns`; `each` sees the program and its bytes.
    pub fn complete(&mut self, now_ns: u64, mut each: impl FnMut(ProgramId, u64)) {
        while let Some(client) = self.young.front() {
            let Some(life) = self.lives.get(client) else {
                self.young.pop_front();
                continue;
            };
            if now_ns.saturating_sub(life.born_ns) < BIRTH_WINDOW_NS {
                break;
            }
            each(life.program, life.bytes);
            if self.done.len() == BIRTHS_MAX {
                self.done.pop_front();
            }
            self.done.push_back(Birth { program: life.program.0, bytes: life.bytes });
            self.finished += 1;
            self.young.pop_front();
        }
    }

    /// Completed births, oldest first.
    pub fn completed(&self) -> impl Iterator<Item = &Birth> {
        self.done.iter()
    }

    /// Completed births ever.
    pub fn count(&self) -> u64 {
        self.finished
    }

    pub(super) fn restore(&mut self, births: impl Iterator<Item = Birth>) {
        self.done.extend(births.take(BIRTHS_MAX));
        self.finished = self.done.len() as u64;
    }

    fn forget_quiet(&mut self) {
        let mut seen: Vec<u64> = self.lives.values().map(|l| l.seen_ns).collect();
        let middle = seen.len() / 2;
        let cut = *seen.select_nth_unstable(middle).1;
        // `<=` so that equal times cannot keep the table full.
        self.lives.retain(|_, l| l.seen_ns > cut);
        self.young.retain(|c| self.lives.contains_key(c));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{How, InodeId};

    fn write(client: u32, ms: u64, bytes: u32) -> Sample {
        let (client, program) = (ClientId(client), ProgramId(client % 2));
        Sample { at_ns: ms * 1_000_000, client, program, bytes, inode: InodeId(1), how: How::Write }
    }

    #[test]
    fn sums_the_first_second() {
        let mut b = Births::default();
        let firsts: Vec<bool> = [write(1, 0, 10), write(1, 900, 20), write(2, 950, 1), write(1, 1_000, 40)]
            .iter()
            .map(|s| b.observe(s))
            .collect();
        assert_eq!(firsts, [true, false, true, false]);
        let mut seen = Vec::new();
        b.complete(1_500_000_000, |p, n| seen.push((p.0, n)));
        b.complete(1_950_000_000, |p, n| seen.push((p.0, n)));
        assert_eq!(seen, [(1, 30), (0, 1)]);
        assert_eq!((b.count(), b.completed().count()), (2, 2));
    }

    #[test]
    fn is_bounded() {
        let mut b = Births::default();
        for n in 0..20_000 {
            b.observe(&write(n, 5, 1));
        }
        assert!(b.lives.len() <= CLIENTS_MAX && b.young.len() <= CLIENTS_MAX);
        b.complete(u64::MAX, |_, _| ());
        assert!(b.completed().count() <= BIRTHS_MAX);
    }
}
