//! A status for people: one screen, the worst news first.

use super::status::{State, Status, Timing};
use std::fmt::Write;

/// Clients shown.
const CLIENTS_SHOWN: usize = 10;

/// `1536` as `1.5 KiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut x = n as f64;
    let mut unit = 0;
    // 1023.95 would print as 1024.0.
    while x >= 1023.95 && unit + 1 < UNITS.len() {
        x /= 1024.0;
        unit += 1;
    }
    format!("{x:.1} {}", UNITS[unit])
}

/// A span as `850 ms`, `12 s`, `3m 20s`, `5h 2m`, `3d 4h`.
pub fn seconds(s: f64) -> String {
    if !s.is_finite() || s < 0.0 {
        return "?".into();
    }
    let whole = s.round() as u64;
    match s {
        _ if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        _ if s < 10.0 => format!("{s:.1} s"),
        _ if whole < 60 => format!("{whole} s"),
        _ if whole < 3600 => format!("{}m {}s", whole / 60, whole % 60),
        _ if whole < 86_400 => format!("{}h {}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d {}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Microseconds as `12 us`, `12.5 ms`, `12 s`.
pub fn micros(us: u64) -> String {
    match us {
        0..=9_999 => format!("{us} us"),
        10_000..=9_999_999 => format!("{:.1} ms", us as f64 / 1e3),
        _ => seconds(us as f64 / 1e6),
    }
}

/// The status as text, ending in a newline. Text from outside is shown without control characters.
pub fn render(s: &Status) -> String {
    let mut out = String::with_capacity(2048);
    head(&mut out, s).and_then(|()| body(&mut out, s)).expect("writing to a String cannot fail");
    out
}

fn head(out: &mut String, s: &Status) -> std::fmt::Result {
    let reason = s.reason.as_deref().map(|r| format!(": {}", plain(r))).unwrap_or_default();
    let state = if s.state == State::Degraded { "DEGRADED" } else { s.state.name() };
    writeln!(out, "{}  {state}{reason}", plain(&s.mountpoint))?;
    writeln!(out, "  backing    {}", plain(&s.backing))?;
    writeln!(out, "  log dir    {}", plain(&s.log_dir))?;
    writeln!(
        out,
        "  gateway    pid {}, up {}, {} open handles, requests by {}",
        s.pid,
        seconds(s.uptime_seconds),
        s.open_handles,
        plain(&s.transport)
    )
}

fn body(out: &mut String, s: &Status) -> std::fmt::Result {
    let l = &s.log;
    let full =
        if l.capacity_bytes == 0 { 0.0 } else { 100.0 * l.used_bytes as f64 / l.capacity_bytes as f64 };
    writeln!(
        out,
        "  log        {} of {} used ({full:.0} %), {} dirty, oldest {}",
        bytes(l.used_bytes),
        bytes(l.capacity_bytes),
        bytes(l.dirty_bytes),
        seconds(l.oldest_dirty_seconds)
    )?;
    let g = &l.segments;
    writeln!(
        out,
        "             lsn {} appended, {} durable, {} device syncs; segments {} open, {} sealed, {} reserved, {} free",
        l.appended_lsn, l.durable_lsn, l.device_syncs, g.open, g.sealed, g.reserved, g.free
    )?;
    let w = &s.writeback;
    let eta = w.eta_seconds.map(|e| format!(", done in {}", seconds(e))).unwrap_or_default();
    writeln!(
        out,
        "  writeback  {} in {} files left, {}/s{eta}",
        bytes(w.backlog_bytes),
        w.files,
        bytes(w.bytes_per_second)
    )?;
    let last = w.last_error.as_deref().map(|e| format!("; last error: {}", plain(e))).unwrap_or_default();
    writeln!(
        out,
        "             {} stored, {} absorbed, {} requests, {} retries, {} errors{last}",
        bytes(w.stored_bytes),
        bytes(w.absorbed_bytes),
        w.requests,
        w.retries,
        w.errors
    )?;
    if let Some(note) = &w.note {
        writeln!(out, "             {}", plain(note))?;
    }
    let kinds: Vec<String> =
        s.store_requests.iter().filter(|r| *r.1 > 0).map(|(k, n)| format!("{n} {}", plain(k))).collect();
    if !kinds.is_empty() {
        writeln!(out, "             asked of the store: {}", kinds.join(", "))?;
    }
    let c = &s.read_cache;
    if c.capacity_bytes > 0 {
        let damaged = if c.damaged > 0 { format!(", {} damaged", c.damaged) } else { String::new() };
        let (used, most) = (bytes(c.used_bytes), bytes(c.capacity_bytes));
        writeln!(out, "  read cache {used} of {most}, {} hits, {} misses{damaged}", c.hits, c.misses)?;
    }
    let k = &s.kept;
    if k.on {
        let given_up = if k.given_up > 0 { ", the oldest given up for want of room" } else { "" };
        writeln!(
            out,
            "  undo       the last {}, {} of {} kept{given_up}",
            seconds(k.oldest_seconds),
            bytes(k.bytes),
            bytes(k.room_bytes)
        )?;
    }
    prediction(out, s)?;
    writeln!(
        out,
        "  {:<9} {:>10} {:>11} {:>9} {:>9} {:>9}",
        "requests", "count", "bytes", "p50", "p99", "p99.9"
    )?;
    for (name, t) in [("write", &s.requests.write), ("read", &s.requests.read), ("fsync", &s.requests.fsync)]
    {
        timing(out, name, t)?;
    }
    clients(out, s)
}

fn prediction(out: &mut String, s: &Status) -> std::fmt::Result {
    let p = &s.prediction;
    let model = if p.model.is_empty() { "no model" } else { p.model.as_str() };
    let fallback = p.fallback.as_deref().map(|f| format!(", fallback: {}", plain(f))).unwrap_or_default();
    writeln!(
        out,
        "  prediction {}, confidence {:.2}{fallback}; next {} ms: {:.0} requests, {}",
        plain(model),
        p.confidence,
        p.horizon_ms,
        p.expected_requests,
        bytes(p.expected_bytes.max(0.0) as u64)
    )?;
    writeln!(
        out,
        "             reserve {} hits, {} misses, {} idle; {} stalls",
        p.reserve_hits,
        p.reserve_misses,
        bytes(p.idle_reserved_bytes),
        p.stalls
    )
}

fn timing(out: &mut String, name: &str, t: &Timing) -> std::fmt::Result {
    writeln!(
        out,
        "    {name:<7} {:>10} {:>11} {:>9} {:>9} {:>9}",
        t.count,
        bytes(t.bytes),
        micros(t.p50_us),
        micros(t.p99_us),
        micros(t.p999_us)
    )
}

fn clients(out: &mut String, s: &Status) -> std::fmt::Result {
    if s.clients.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "  {:<16} {:>8} {:>9} {:>11} {:>11} {:>11} {:>6} {:>9}",
        "clients", "pid", "requests", "bytes", "dirty", "reserved", "share", "throttled"
    )?;
    for c in s.clients.iter().take(CLIENTS_SHOWN) {
        writeln!(
            out,
            "    {:<14} {:>8} {:>9} {:>11} {:>11} {:>11} {:>5.0}% {:>9}",
            plain(&c.program),
            c.pid,
            c.requests,
            bytes(c.bytes),
            bytes(c.dirty_bytes),
            bytes(c.reserved_bytes),
            c.share * 100.0,
            seconds(c.throttled_seconds)
        )?;
    }
    match s.clients.len().saturating_sub(CLIENTS_SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "    and {more} more"),
    }
}

/// Names of programs and paths may hold anything, escape sequences too.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::Client;

    #[test]
    fn amounts() {
        for (n, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
        ] {
            assert_eq!(bytes(n), want);
        }
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        for (s, want) in [
            (0.0, "0 ms"),
            (0.25, "250 ms"),
            (3.21, "3.2 s"),
            (59.4, "59 s"),
            (200.0, "3m 20s"),
            (18_120.0, "5h 2m"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(seconds(s), want);
        }
        assert_eq!((micros(12), micros(12_500)), ("12 us".into(), "12.5 ms".into()));
    }

    #[test]
    fn shows_the_essentials_and_no_escapes() {
        let mut s = Status { mountpoint: "/mnt/x".into(), state: State::Degraded, ..Status::default() };
        s.reason = Some("backing down".into());
        s.clients = (0..12).map(|_| Client { program: "a\x1b[2J".into(), ..Client::default() }).collect();
        let text = render(&s);
        assert!(text.starts_with("/mnt/x  DEGRADED: backing down\n"), "{text}");
        assert!(text.contains("a?[2J") && !text.contains('\x1b') && text.contains("and 2 more"));
        assert!(text.lines().all(|l| l.len() <= 130), "{text}");
    }
}
