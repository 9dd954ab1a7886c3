//! Keeps idle CPUs from halting while programs ask a lot. The kernel likes to wake a program on a CPU that is idle; in a
//! virtual machine waking one that halted takes longer than what was asked for.

use crate::config::Idle;
use crate::sys::cpus::{self, NoHalt};
use std::time::Duration;

/// Requests in a millisecond from which it pays.
const BUSY_PER_MS: u64 = 1;
/// Ticks with less before CPUs may halt again.
const CALM_TICKS: u32 = 4;
/// With more CPUs `auto` leaves it: all of them would be kept from halting for one busy program.
const CPUS_MAX: usize = 4;

/// See the module. Stepped once a tick.
pub struct Awake {
    wanted: bool,
    held: Option<NoHalt>,
    asked: u64,
    calm: u32,
}

impl Awake {
    pub fn new(idle: Idle) -> Awake {
        let few = || cpus::possible_and_online().is_ok_and(|(_, online)| online.len() <= CPUS_MAX);
        let wanted = match idle {
            Idle::Halt => false,
            Idle::Poll => true,
            Idle::Auto => few(),
        };
        Awake { wanted, held: None, asked: 0, calm: 0 }
    }

    /// `asked`: requests since the start.
    pub fn tick(&mut self, asked: u64, interval: Duration) {
        if !self.wanted {
            return;
        }
        let new = asked.saturating_sub(std::mem::replace(&mut self.asked, asked));
        if new < BUSY_PER_MS * interval.as_millis() as u64 {
            self.calm = self.calm.saturating_add(1);
            if self.calm >= CALM_TICKS {
                self.held = None;
            }
            return;
        }
        self.calm = 0;
        if self.held.is_none() {
            match NoHalt::begin() {
                Ok(held) => self.held = Some(held),
                Err(e) => {
                    log::debug!("idle CPUs cannot be kept from halting: {e}");
                    self.wanted = false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halting_is_left_to_the_kernel_unless_programs_ask_a_lot() {
        let tick = Duration::from_millis(50);
        let mut a = Awake::new(Idle::Halt);
        a.tick(1_000_000, tick);
        assert!(a.held.is_none());
        let mut a = Awake::new(Idle::Poll);
        let mut asked = 0;
        let mut step = |a: &mut Awake, n: u64| {
            asked += n;
            a.tick(asked, tick);
            a.held.is_some()
        };
        assert!(!step(&mut a, 49));
        // Where it may not, it does not try again.
        if step(&mut a, 50) {
            assert_eq!([0; 5].map(|n| step(&mut a, n)), [true, true, true, false, false]);
            assert!(step(&mut a, 500));
        } else {
            assert!(!a.wanted && !step(&mut a, 500));
        }
    }
}
