//! Which program started to write last, and when: where programs run one after another, a better clock than
//! the bytes of all of them together.

use crate::types::ProgramId;
use std::collections::HashMap;

/// A program that was silent this long starts anew when it writes.
const SILENT_TICKS: u64 = 20;
const PROGRAMS_MAX: usize = 512;

/// The last start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Onset {
    /// Number of the program that started last, and of the other one before it; 0 for none.
    pub program: u32,
    pub before: u32,
    /// Ticks since.
    pub ticks: u32,
}

/// Follows starts.
#[derive(Clone, Debug, Default)]
pub struct Onsets {
    now: Onset,
    tick: u64,
    last_wrote: HashMap<ProgramId, u64>,
}

impl Onsets {
    /// A finished tick: who wrote. Of several that start at once the one with the most bytes counts.
    pub fn observe(&mut self, programs: &[(ProgramId, u64, u64)]) -> Onset {
        self.tick += 1;
        self.now.ticks = self.now.ticks.saturating_add(1);
        let tick = self.tick;
        let mut first: Option<(ProgramId, u64)> = None;
        for (program, bytes, _) in programs.iter().filter(|p| p.1 > 0) {
            let silent = self.last_wrote.insert(*program, tick).is_none_or(|at| tick - at > SILENT_TICKS);
            if silent && first.is_none_or(|f| (*bytes, f.0) > (f.1, *program)) {
                first = Some((*program, *bytes));
            }
        }
        if let Some((program, _)) = first {
            let number = program.0.wrapping_add(1);
            if number != self.now.program {
                self.now.before = self.now.program;
            }
            (self.now.program, self.now.ticks) = (number, 0);
        }
        if self.last_wrote.len() > PROGRAMS_MAX {
            self.last_wrote.retain(|_, at| tick - *at <= SILENT_TICKS);
        }
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_to_start_and_the_one_before() {
        let mut o = Onsets::default();
        let (a, b) = (ProgramId(4), ProgramId(7));
        assert_eq!(o.observe(&[(a, 5, 1)]), Onset { program: 5, before: 0, ticks: 0 });
        assert_eq!(o.observe(&[(a, 5, 1), (b, 1, 1)]), Onset { program: 8, before: 5, ticks: 0 });
        // Both go on: no start.
        assert_eq!(o.observe(&[(a, 5, 1), (b, 1, 1)]), Onset { program: 8, before: 5, ticks: 1 });
        (0..30).for_each(|_| _ = o.observe(&[(b, 1, 1)]));
        assert_eq!(o.observe(&[(a, 5, 1), (b, 9, 1)]), Onset { program: 5, before: 8, ticks: 0 });
        (0..9000).for_each(|n| _ = o.observe(&[(ProgramId(n), 1, 1)]));
        assert!(o.last_wrote.len() <= PROGRAMS_MAX + 1);
    }
}
