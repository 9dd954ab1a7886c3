//! Moments, as people write and read them.

use super::super::units;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

/// Nanoseconds since 1970 of a moment: RFC 3339, a time of day (the last such), or an age.
///
/// # Errors
/// What would be one, in words that go on from the text.
pub fn parse(text: &str, now_ns: i64) -> Result<i64, String> {
    let text = text.trim();
    let now = zoned(now_ns).ok_or("the clock stands at a time that no calendar has")?;
    let at = if let Ok(t) = text.parse::<Timestamp>() {
        i64::try_from(t.as_nanosecond()).map_err(|_| "no moment that can be told".to_owned())?
    } else if let Ok(age) = units::duration(text) {
        now_ns.saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX))
    } else if let Some(time) = time_of_day(text) {
        let of = |day: &Zoned| day.date().to_datetime(time).to_zoned(now.time_zone().clone()).ok();
        let today = of(&now).filter(|t| *t <= now);
        let last = today.or_else(|| of(&now.checked_sub(1.day()).ok()?));
        let t = last.ok_or("no such time of day lately")?.timestamp().as_nanosecond();
        i64::try_from(t).map_err(|_| "no moment that can be told".to_owned())?
    } else {
        return Err("no moment; write one as 2026-05-01T14:03:00Z, 14:03, 14:03:20, or an age as 5m".into());
    };
    match at > now_ns {
        true => Err("that is yet to come".into()),
        false => Ok(at),
    }
}

fn time_of_day(text: &str) -> Option<Time> {
    let parts: Vec<&str> = text.split(':').collect();
    let digits = |s: &&str| s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit());
    if !(2..=3).contains(&parts.len()) || !parts.iter().all(digits) {
        return None;
    }
    let number = |n: usize| parts.get(n).map_or(Some(0), |p| p.parse::<i8>().ok());
    Time::new(number(0)?, number(1)?, number(2)?, 0).ok()
}

fn zoned(ns: i64) -> Option<Zoned> {
    Some(Timestamp::from_nanosecond(i128::from(ns)).ok()?.to_zoned(TimeZone::system()))
}

/// RFC 3339 with milliseconds, by the machine's zone.
pub fn show(ns: i64) -> String {
    zoned(ns).map_or_else(|| format!("{ns} ns"), |z| z.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let now = parse("2026-05-01T14:03:00Z", i64::MAX).unwrap();
        assert_eq!(now, 1_777_644_180_000_000_000);
        assert_eq!(parse("2026-05-01T16:02:59.5+02:00", now).unwrap(), now - 500_000_000);
        assert_eq!(parse("5m", now).unwrap(), now - 300_000_000_000);
        for text in ["14:03", "00:00:01", "23:59"] {
            let at = parse(text, now).unwrap();
            assert!(at <= now && now - at <= 25 * 3_600_000_000_000, "{text}: {at}");
            let shown = show(at);
            assert!(shown.contains(&format!("T{text}")), "{shown}");
            assert_eq!(parse(&shown, now).unwrap(), at);
        }
        for text in ["", "soon", "25:00", "1:2", "2026-05-01", "2026-05-01T14:03:01Z", "5"] {
            parse(text, now).unwrap_err();
        }
    }
}
