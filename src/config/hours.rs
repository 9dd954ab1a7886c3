//! Hours of the day, local time, at which what is written goes to the backing.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Most windows.
const WINDOWS_MAX: usize = 24;

/// Windows of the day: first minute, and the first after it. One that ends before it begins goes over midnight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    windows: Vec<(u16, u16)>,
}

fn minute(text: &str) -> Option<u16> {
    let (h, m) = text.trim().split_once(':')?;
    let number = |t: &str| match t.len() {
        1 | 2 if t.bytes().all(|b| b.is_ascii_digit()) => t.parse::<u16>().ok(),
        _ => None,
    };
    let (h, m) = (number(h)?, number(m).filter(|_| m.len() == 2)?);
    (m < 60 && h * 60 + m <= DAY).then_some(h * 60 + m)
}

impl Hours {
    /// From `22:00-06:00`, several with `+` or `,` between them. Errors: one line for people.
    pub fn parse(text: &str) -> Result<Hours, String> {
        let wrong = || {
            format!("'{text}' are no hours; write them as 22:00-06:00 or 22:00-06:00+12:00-13:00, or none")
        };
        let mut windows = Vec::new();
        for part in text.split(['+', ',']) {
            let (from, to) = part.split_once('-').ok_or_else(wrong)?;
            let (from, to) = (minute(from).ok_or_else(wrong)?, minute(to).ok_or_else(wrong)?);
            if from % DAY == to % DAY {
                return Err(format!(
                    "'{}' is the whole day or no time at all; for no bounds write none",
                    part.trim()
                ));
            }
            windows.push((from % DAY, to));
        }
        if windows.len() > WINDOWS_MAX {
            return Err(format!("'{text}' has more than {WINDOWS_MAX} windows"));
        }
        Ok(Hours { windows })
    }

    /// Whether a minute of the day is within.
    pub fn contains(&self, minute: u16) -> bool {
        self.windows.iter().any(|&(from, to)| match from < to {
            true => (from..to).contains(&minute),
            false => minute >= from || minute < to,
        })
    }

    /// The minute of the day at which it is next within, as seen from one that is not.
    pub fn next(&self, now: u16) -> u16 {
        let wait = |from: u16| (from + DAY - now % DAY) % DAY;
        self.windows.iter().map(|w| w.0).min_by_key(|&from| wait(from)).unwrap_or(0)
    }
}

/// A minute of the day as `06:30`.
pub fn clock_text(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (from, to)) in self.windows.iter().enumerate() {
            let plus = if n > 0 { "+" } else { "" };
            write!(f, "{plus}{}-{}", clock_text(*from), clock_text(*to))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_the_day() {
        let h = Hours::parse("22:00-06:00+12:30-13:00").unwrap();
        for (at, within) in [
            ("21:59", false),
            ("22:00", true),
            ("23:59", true),
            ("0:00", true),
            ("05:59", true),
            ("06:00", false),
            ("12:29", false),
            ("12:30", true),
            ("13:00", false),
        ] {
            assert_eq!(h.contains(minute(at).unwrap()), within, "{at}");
        }
        assert_eq!(clock_text(h.next(minute("06:00").unwrap())), "12:30");
        assert_eq!(clock_text(h.next(minute("13:00").unwrap())), "22:00");
        assert_eq!(h.to_string(), "22:00-06:00+12:30-13:00");
        assert_eq!(Hours::parse(&h.to_string()).unwrap(), h);
        let whole = Hours::parse("08:00-24:00").unwrap();
        assert!(whole.contains(DAY - 1) && !whole.contains(0) && whole.contains(480));
        assert_eq!(Hours::parse(&whole.to_string()).unwrap(), whole);
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in [
            "",
            "22-6",
            "22:00",
            "25:00-06:00",
            "22:60-06:00",
            "22:0-06:00",
            "22:00-06:00+",
            "a:b-c:d",
            "-1:00-02:00",
            "22:00-22:00",
            "00:00-24:00",
        ] {
            assert!(Hours::parse(bad).is_err(), "{bad}");
        }
    }
}
