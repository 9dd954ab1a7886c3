//! Amounts as people write them: SIZE `4MiB`, `4M`, `4194304`; DURATION `300ms`, `5s`, `5m`, `2h`; RATE a
//! SIZE a second. Multiples are binary.

use crate::config::Hours;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Longest span taken: a year. Deadlines are added to clocks and must not overflow.
const SECONDS_MAX: u64 = 366 * 86_400;

/// A number with an optional fraction, scaled and rounded down; none when there is no such number, or it
/// does not fit.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    // Nine digits of fraction are more than any unit can show.
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    if number.ends_with('.') {
        return None;
    }
    let whole = u128::from(whole.parse::<u64>().ok()?).checked_mul(u128::from(scale))?;
    let part = match fraction {
        "" => 0,
        f => f.parse::<u128>().ok()? * u128::from(scale) / 10u128.pow(f.len() as u32),
    };
    u64::try_from(whole.checked_add(part)?).ok()
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..at], text[at..].trim_start())
}

/// Bytes of a SIZE.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        "p" | "pib" => 50,
        "kb" | "mb" | "gb" | "tb" | "pb" => {
            return Err(format!(
                "'{text}' could mean two sizes; write {number}{}iB, a binary multiple",
                &unit[..1].to_ascii_uppercase()
            ));
        }
        _ => return Err(format!("'{text}' is no size; write one as 4MiB, 4M or 4194304")),
    };
    match scaled(number, 1 << shift) {
        Some(n) => Ok(n),
        None if number.is_empty() => Err(format!("'{text}' is no size; write one as 4MiB, 4M or 4194304")),
        None => Err(format!("'{text}' is no size this program can hold")),
    }
}

/// A DURATION.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let nanos = match unit.to_ascii_lowercase().as_str() {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" | "sec" => 1_000_000_000,
        "m" | "min" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        "d" => 86_400 * 1_000_000_000,
        "" if number.bytes().any(|b| b.is_ascii_digit()) && number.bytes().all(|b| b == b'0') => 1,
        "" if !number.is_empty() => {
            return Err(format!("'{text}' has no unit; write {number}s for seconds, {number}ms, {number}m"));
        }
        _ => return Err(format!("'{text}' is no duration; write one as 300ms, 5s, 5m or 2h")),
    };
    match scaled(number, nanos) {
        Some(n) if n <= SECONDS_MAX * 1_000_000_000 => Ok(Duration::from_nanos(n)),
        Some(_) => Err(format!("'{text}' is more than a year")),
        None if number.is_empty() => {
            Err(format!("'{text}' is no duration; write one as 300ms, 5s, 5m or 2h"))
        }
        None => Err(format!("'{text}' is no duration this program can hold")),
    }
}

/// Bytes a second of a RATE; none for `0`, `off`, `none`, `unlimited`.
pub fn rate(text: &str) -> Result<Option<u64>, String> {
    let amount = text.trim();
    if ["off", "none", "unlimited"].contains(&amount.to_ascii_lowercase().as_str()) {
        return Ok(None);
    }
    let amount = amount.strip_suffix("/s").unwrap_or(amount);
    let n = size(amount).map_err(|_| format!("'{text}' is no rate; write one as 10MiB/s or 10M"))?;
    Ok((n > 0).then_some(n))
}

/// Where to listen: `ADDR:PORT`, `[ADDR6]:PORT`, or `:PORT` and `PORT`, which are of 127.0.0.1.
pub fn listener(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let named = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    match (named, text.parse()) {
        (Some(port), _) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        (None, Ok(address)) => Ok(address),
        (None, Err(_)) => {
            Err(format!("'{text}' is no place to listen at; write 9469, 127.0.0.1:9469 or [::1]:9469"))
        }
    }
}

/// Yes or no.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "" | "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(format!("'{text}' is neither yes nor no")),
    }
}

/// Bytes a second outside of the upload hours: a RATE, or `stop` for nothing.
pub fn rate_or_stop(text: &str) -> Result<u64, String> {
    if text.trim().eq_ignore_ascii_case("stop") {
        return Ok(0);
    }
    match rate(text).map_err(|e| format!("{e}, or stop for nothing"))? {
        Some(n) => Ok(n),
        None => Err(format!("'{text}' does not bound anything; write a rate as 1MiB/s, or stop for nothing")),
    }
}

/// Upload hours; none for `none`, `off`, `always`.
pub fn hours(text: &str) -> Result<Option<Hours>, String> {
    match ["none", "off", "always"].contains(&text.trim().to_ascii_lowercase().as_str()) {
        true => Ok(None),
        false => Hours::parse(text).map(Some),
    }
}

pub use crate::config::size_text as show_size;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for text in ["4MiB", "4M", "4m", "4194304", " 4 MiB ", "4096k", "4194304B", "0.00390625GiB"] {
            assert_eq!(size(text), Ok(4 << 20), "{text}");
        }
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1.5K"), Ok(1536));
        assert_eq!(size("16383P"), Ok(16_383 << 50));
        assert_eq!(size("0"), Ok(0));
        for bad in [
            "",
            "M",
            "-1",
            "1e9",
            "4 4",
            "1.",
            ".5M",
            "16384P",
            "99999999999999999999",
            "1.2.3",
            "4MiBs",
            "٣",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(size("4mb").unwrap_err(), "'4mb' could mean two sizes; write 4MiB, a binary multiple");
    }

    #[test]
    fn durations() {
        for (text, ms) in
            [("300ms", 300), ("5s", 5000), ("5m", 300_000), ("2h", 7_200_000), ("1.5s", 1500), ("0", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "s", "5 parsecs", "-5s", "9999999d", "18446744073709551616s", "1e3s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration("5").unwrap_err().contains("5s"));
    }

    #[test]
    fn listeners_are_of_this_machine_unless_said_otherwise() {
        for (text, want) in [
            ("9469", "127.0.0.1:9469"),
            (":9469", "127.0.0.1:9469"),
            ("localhost:1", "127.0.0.1:1"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:0", "[::1]:0"),
        ] {
            assert_eq!(listener(text).map(|a| a.to_string()), Ok(want.into()));
        }
        for bad in ["", ":", "host:1", "1.2.3.4", "65536", "::1:80:", "1.2.3.4:x"] {
            assert!(listener(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_and_booleans() {
        for (text, want) in [("10MiB/s", Some(10 << 20)), ("10M", Some(10 << 20)), ("0", None), ("off", None)]
        {
            assert_eq!(rate(text), Ok(want), "{text}");
        }
        assert!(rate("fast").is_err());
        assert_eq!((boolean("yes"), boolean("0"), boolean("").is_ok()), (Ok(true), Ok(false), true));
        assert!(boolean("maybe").is_err());
    }

    proptest! {
        #[test]
        fn never_panics_and_shown_sizes_read_back(text in "\\PC{0,24}", n in any::<u64>()) {
            drop((size(&text), duration(&text), rate(&text), boolean(&text)));
            prop_assert_eq!(size(&show_size(n)), Ok(n));
        }
    }
}
