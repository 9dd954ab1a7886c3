//! What may go to the backing now: the upload limit, and the hours outside of which less goes, or nothing.

use super::Settings;
use crate::config::{clock_text, size_text};

/// Fill of the log from which it goes to the backing at any hour, and to which it is brought then.
const PRESSED: f64 = 0.8;
const EASED: f64 = 0.7;
/// Writers are slowed down from so much less of that memory than of the log.
const CROWDED_EARLIER: f64 = 0.3;

/// What may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// All, at most so many bytes a second.
    Open(Option<u64>),
    /// Only what was asked to go first.
    Chosen(Option<u64>),
}

impl Pass {
    /// Bytes a second.
    pub(super) fn rate(self) -> Option<u64> {
        let (Pass::Open(rate) | Pass::Chosen(rate)) = self;
        rate.filter(|&r| r > 0)
    }
}

/// How it is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Of the day, local time.
    pub minute: u16,
    /// Of the log, and of the memory for files with changes: 1 is full.
    pub fill: f64,
    pub crowding: f64,
    /// Someone waits until everything is stored.
    pub draining: bool,
}

/// The gate to the backing.
#[derive(Default)]
pub(super) struct Gate {
    pressed: bool,
    said: Option<String>,
}

impl Gate {
    /// What may go, and what a person should know of it.
    pub(super) fn look(&mut self, s: &Settings, now: Now) -> (Pass, Option<String>) {
        let (pass, note) = self.judge(s, now);
        // Its figures change all the time; what it is about does not.
        let about = note.as_ref().map(|n| n.0.clone());
        if about != self.said {
            match &note {
                Some((_, text)) if self.pressed => log::warn!("writeback: {text}"),
                Some((_, text)) => log::info!("writeback: {text}"),
                None => log::info!("writeback: all may go to the backing again"),
            }
            self.said = about;
        }
        (pass, note.map(|n| n.1))
    }

    fn judge(&mut self, s: &Settings, now: Now) -> (Pass, Option<(String, String)>) {
        let open = Pass::Open(s.upload_limit);
        let Some(hours) = s.hours.as_ref().filter(|h| !now.draining && !h.contains(now.minute)) else {
            self.pressed = false;
            return (open, None);
        };
        let pressure = now.fill.max(now.crowding + CROWDED_EARLIER);
        self.pressed = pressure >= if self.pressed { EASED } else { PRESSED };
        let outside = format!("outside the upload hours {hours}");
        if self.pressed {
            let why = match pressure > now.fill {
                true => "too many files wait".to_owned(),
                false => format!("the log is {:.0} % full", 100.0 * now.fill),
            };
            let text = format!("{outside}, but {why}: it goes to the backing all the same");
            return (open, Some((format!("{outside} pressed"), text)));
        }
        let until = clock_text(hours.next(now.minute));
        let (pass, what) = match s.outside {
            0 => (Pass::Chosen(s.upload_limit), "nothing goes to the backing".to_owned()),
            n => {
                let rate = s.upload_limit.map_or(n, |l| l.min(n));
                (Pass::Open(Some(rate)), format!("at most {}/s go to the backing", size_text(rate)))
            }
        };
        let text = format!("{outside}: {what} until {until}");
        (pass, Some((text.clone(), text)))
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::config::Hours;
    use crate::sys::clock::Clock;
    use crate::testing::ManualClock;
    use std::time::Duration;

    fn settings(outside: u64, limit: Option<u64>) -> Settings {
        let hours = Some(Hours::parse("22:00-06:00").unwrap());
        Settings { age: Duration::ZERO, upload_limit: limit, hours, outside }
    }

    #[test]
    fn a_day() {
        // The clock of the tests begins at 22:13:20.
        let (clock, mut gate) = (ManualClock::default(), Gate::default());
        let s = settings(0, Some(7));
        let mut seen = Vec::new();
        for _ in 0..24 * 4 {
            let now = Now { minute: clock.local_minute(), fill: 0.1, crowding: 0.0, draining: false };
            let (pass, note) = gate.look(&s, now);
            assert_eq!(note.is_some(), pass == Pass::Chosen(Some(7)));
            if seen.last().is_none_or(|l: &(Pass, u16)| l.0 != pass) {
                seen.push((pass, now.minute));
            }
            clock.advance(Duration::from_secs(900));
        }
        let at = |h: u16, m: u16| h * 60 + m;
        assert_eq!(seen, [(Pass::Open(Some(7)), at(22, 13)), (Pass::Chosen(Some(7)), at(6, 13))]);
    }

    #[test]
    fn a_log_that_fills_up_goes_all_the_same_and_says_so() {
        let mut gate = Gate::default();
        let s = settings(0, None);
        let mut at = |fill| gate.look(&s, Now { minute: 720, fill, crowding: 0.0, draining: false });
        let shut = "outside the upload hours 22:00-06:00: nothing goes to the backing until 22:00";
        assert_eq!(at(0.79), (Pass::Chosen(None), Some(shut.into())));
        let full = "outside the upload hours 22:00-06:00, but the log is 83 % full: it goes to the backing all the same";
        assert_eq!(at(0.83), (Pass::Open(None), Some(full.into())));
        assert_eq!(at(0.72).0, Pass::Open(None));
        assert_eq!(at(0.69).0, Pass::Chosen(None));
        assert_eq!(at(0.79).0, Pass::Chosen(None));
        let (pass, note) = gate.look(&s, Now { minute: 720, fill: 0.1, crowding: 0.5, draining: false });
        assert!(pass == Pass::Open(None) && note.unwrap().contains("but too many files wait: "));
    }

    #[test]
    fn who_waits_for_all_is_not_held_up_and_a_rate_outside_bounds() {
        let mut gate = Gate::default();
        let now = Now { minute: 720, fill: 0.0, crowding: 0.0, draining: false };
        let look = |g: &mut Gate, s: &Settings, n: Now| g.look(s, n).0;
        assert_eq!(look(&mut gate, &settings(0, None), Now { draining: true, ..now }), Pass::Open(None));
        assert_eq!(look(&mut gate, &settings(5, None), now), Pass::Open(Some(5)));
        assert_eq!(look(&mut gate, &settings(5, Some(3)), now), Pass::Open(Some(3)));
        assert_eq!(
            look(&mut gate, &Settings { hours: None, ..settings(5, Some(9)) }, now),
            Pass::Open(Some(9))
        );
        assert_eq!(Pass::Open(Some(0)).rate(), None);
    }
}
