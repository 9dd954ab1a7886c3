//! The page of a running gateway, from the series it keeps.

use crate::control::render::{bytes, micros, seconds};
use crate::control::series::{Point, SeriesPart, Times};
use crate::control::status::Status;
use crate::replay::chart::{Chart, Colour, Measure, Series, Shape, Time, escaped, head};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Columns of a picture at most: more cannot be told apart.
const COLUMNS: usize = 600;

/// Programs that have a colour of their own.
const PROGRAMS_SHOWN: usize = 6;

/// The page. Errors: what the drawing said.
pub fn page(status: &Status, by_second: &SeriesPart, by_minute: &SeriesPart) -> Result<String, String> {
    let mut out = head(&format!("forelog on {}", status.mountpoint));
    facts(&mut out, status, by_second);
    section(&mut out, "The last hour", by_second, status)?;
    // Of less than an hour there is nothing that the seconds do not show.
    if by_minute.points.len() > 60 {
        section(&mut out, "The last day", by_minute, status)?;
    }
    out.push_str("</html>\n");
    Ok(out)
}

fn facts(out: &mut String, s: &Status, part: &SeriesPart) {
    let (w, l, p) = (&s.writeback, &s.log, &s.prediction);
    let state = match &s.reason {
        Some(reason) => format!("{}: {reason}", s.state.name()),
        None => s.state.name().to_owned(),
    };
    let now = part.points.last().map_or_else(String::new, |p| utc(p.at_ms));
    let eta = w.eta_seconds.filter(|_| w.backlog_bytes > 0).map(|e| format!(", done in {}", seconds(e)));
    let asked: Vec<String> =
        s.store_requests.iter().filter(|r| *r.1 > 0).map(|(k, n)| format!("{n} {k}")).collect();
    let asked =
        if asked.is_empty() { String::new() } else { format!("; asked of the store: {}", asked.join(", ")) };
    let times = |t: &crate::control::status::Timing| {
        format!("{} / {} / {}", micros(t.p50_us), micros(t.p99_us), micros(t.p999_us))
    };
    let rows = [
        ("at", now),
        ("state", state),
        ("backing", s.backing.clone()),
        (
            "log",
            format!(
                "{} of {} used, {} dirty in {} files, oldest {}{}",
                bytes(l.used_bytes),
                bytes(l.capacity_bytes),
                bytes(l.dirty_bytes),
                w.files,
                seconds(l.oldest_dirty_seconds),
                eta.unwrap_or_default()
            ),
        ),
        (
            "up",
            format!("{} as pid {}, forelog {}", seconds(s.uptime_seconds), s.pid, env!("CARGO_PKG_VERSION")),
        ),
        (
            "since then",
            format!(
                "{} writes, {}; {} reads, {}; {} fsyncs",
                s.requests.write.count,
                bytes(s.requests.write.bytes),
                s.requests.read.count,
                bytes(s.requests.read.bytes),
                s.requests.fsync.count
            ),
        ),
        (
            "p50 / p99 / p99.9",
            format!(
                "write {}; read {}; fsync {}",
                times(&s.requests.write),
                times(&s.requests.read),
                times(&s.requests.fsync)
            ),
        ),
        (
            "writeback",
            format!(
                "{} stored, {} absorbed, {} of {} closes needed no store of their own, {} errors, {} conflicts{asked}",
                bytes(w.stored_bytes),
                bytes(w.absorbed_bytes),
                w.uploads_saved,
                w.closes_after_write,
                w.errors,
                w.conflicts
            ),
        ),
        (
            "prediction",
            format!(
                "{}, confidence {:.2}{}; reserve {} hits, {} misses; {} stalls",
                p.model,
                p.confidence,
                p.fallback.as_ref().map(|f| format!(", static: {f}")).unwrap_or_default(),
                p.reserve_hits,
                p.reserve_misses,
                p.stalls
            ),
        ),
        ("last error", w.last_error.clone().unwrap_or_else(|| "none".into())),
    ];
    out.push_str("<table class=facts>");
    for (name, text) in rows {
        // Writing to a String cannot fail.
        let _ = write!(out, "<tr><th>{name}<td style=\"text-align:left\">{}", escaped(&text));
    }
    out.push_str("</table>");
}

/// A moment as `2026-01-31 12:00:00 UTC` (days to dates: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub fn utc(at_ms: i64) -> String {
    let second = at_ms.div_euclid(1000);
    let (day, rest) = (second.div_euclid(86_400), second.rem_euclid(86_400));
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let y = yoe + era * 400 + (m <= 2) as i64;
    format!("{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Neighbours as one, so that no more than `COLUMNS` are left: counts are added, times and backlogs keep their worst,
/// and what is compared with a rate is averaged as the rate is.
fn merged(points: &[Point]) -> Vec<Point> {
    let each = points.len().div_ceil(COLUMNS).max(1);
    points.chunks(each).map(one).collect()
}

fn one(points: &[Point]) -> Point {
    let sum = |of: fn(&Point) -> u64| points.iter().map(of).fold(0, u64::saturating_add);
    let mean = |of: fn(&Point) -> u64| sum(of) / points.len().max(1) as u64;
    let most = |of: fn(&Point) -> u64| points.iter().map(of).max().unwrap_or(0);
    let worst = |of: fn(&Point) -> Times| {
        let all = points.iter().map(of);
        all.fold(Times::default(), |a, b| Times {
            p50: a.p50.max(b.p50),
            p99: a.p99.max(b.p99),
            p999: a.p999.max(b.p999),
        })
    };
    let Some(last) = points.last() else { return Point::default() };
    let mut programs: BTreeMap<u32, u64> = BTreeMap::new();
    points.iter().flat_map(|p| &p.programs).for_each(|(p, n)| *programs.entry(*p).or_default() += n);
    Point {
        span_ms: points.iter().map(|p| p.span_ms).fold(0, u32::saturating_add),
        writes: sum(|p| p.writes),
        written_bytes: sum(|p| p.written_bytes),
        reads: sum(|p| p.reads),
        read_bytes: sum(|p| p.read_bytes),
        fsyncs: sum(|p| p.fsyncs),
        write_us: worst(|p| p.write_us),
        read_us: worst(|p| p.read_us),
        fsync_us: worst(|p| p.fsync_us),
        stored_bytes: sum(|p| p.stored_bytes),
        absorbed_bytes: sum(|p| p.absorbed_bytes),
        requests: sum(|p| p.requests),
        errors: sum(|p| p.errors),
        stalls: sum(|p| p.stalls),
        closes: sum(|p| p.closes),
        contents: sum(|p| p.contents),
        programs: programs.into_iter().collect(),
        expected_bytes: mean(|p| p.expected_bytes),
        q95_bytes: mean(|p| p.q95_bytes),
        q99_bytes: mean(|p| p.q99_bytes),
        reserve_bytes: mean(|p| p.reserve_bytes),
        dirty_bytes: most(|p| p.dirty_bytes),
        used_bytes: most(|p| p.used_bytes),
        oldest_dirty_ms: most(|p| p.oldest_dirty_ms),
        ..last.clone()
    }
}

/// A value at each point's end, seconds since 1970.
fn line(points: &[Point], of: impl Fn(&Point) -> f64) -> Vec<(f64, f64)> {
    points.iter().map(|p| (at(p), of(p))).collect()
}

fn at(p: &Point) -> f64 {
    p.at_ms as f64 / 1000.0
}

/// Service times; where nothing was asked there is none.
fn times(points: &[Point], of: impl Fn(&Point) -> u32) -> Vec<(f64, f64)> {
    points.iter().filter(|p| of(p) > 0).map(|p| (at(p), f64::from(of(p)))).collect()
}

fn series(name: &str, colour: Colour, shape: Shape) -> Series {
    Series { name: name.into(), colour, shape }
}

/// What was forecast for the time of each point: said at the end of the one before it.
fn said(points: &[Point], of: fn(&Point) -> u64) -> Vec<(f64, f64)> {
    let rate = |p: &Point| of(p) as f64 * 1000.0 / f64::from(p.horizon_ms.max(1));
    points.windows(2).map(|w| (at(&w[1]), rate(&w[0]))).collect()
}

fn section(out: &mut String, title: &str, part: &SeriesPart, status: &Status) -> Result<(), String> {
    let _ = write!(out, "<h2>{}</h2>", escaped(title));
    if part.points.len() < 2 {
        out.push_str("<p>Nothing is noted yet: a point is noted each second.</p>");
        return Ok(());
    }
    let points = merged(&part.points);
    let span =
        points.first().map_or(0.0, |p| at(p) - f64::from(p.span_ms) / 1000.0)..points.last().map_or(1.0, at);
    let chart = |title: &str, caption: &str, measure, series| Chart {
        title: title.into(),
        caption: caption.into(),
        measure,
        time: Time::Day,
        span: span.clone(),
        cap: None,
        series,
    };
    let per = |of: fn(&Point) -> u64| line(&points, move |p| p.rate(of(p)));
    let written = per(|p| p.written_bytes);
    let (mean, q95) = (said(&points, |p| p.expected_bytes), said(&points, |p| p.q95_bytes));
    let top = |points: &[(f64, f64)]| points.iter().map(|p| p.1).fold(0.0, f64::max);
    let cap = top(&written).max(top(&mean)).max(top(&q95).min(3.0 * top(&written))).max(1024.0);
    let band = mean.iter().zip(&q95).map(|(m, q)| (m.0, m.1, q.1)).collect();
    let rate = Chart {
        cap: Some(cap),
        ..chart(
            "Write rate and forecast",
            "What programs wrote, and what had been forecast for that time.",
            Measure::BytesPerSecond,
            vec![
                series("written", Colour::Blue, Shape::Area(written)),
                series("forecast, mean to credible .95 quantile", Colour::Orange, Shape::Band(band)),
                series("forecast, .95", Colour::Orange, Shape::Line(q95)),
            ],
        )
    };
    let need = points
        .windows(2)
        .map(|w| (at(&w[0]), w[1].rate(w[1].written_bytes) * f64::from(w[0].horizon_ms) / 1000.0));
    let reserve = chart(
        "Reserve against need",
        "Bytes that stood ready in segments, and bytes that the horizon after that brought.",
        Measure::Bytes,
        vec![
            series(
                "ready: reserved, or room in open segments",
                Colour::Blue,
                Shape::Area(line(&points, |p| p.reserve_bytes as f64)),
            ),
            series("needed", Colour::Orange, Shape::Line(need.collect())),
        ],
    );
    let writes = chart(
        "Service time of writes",
        "Each decade is as high as the next. Where nothing was written there is no line.",
        Measure::Micros,
        vec![
            series("p99.9", Colour::Orange, Shape::Dashed(times(&points, |p| p.write_us.p999))),
            series("p99", Colour::Blue, Shape::Line(times(&points, |p| p.write_us.p99))),
            series("p50", Colour::Green, Shape::Line(times(&points, |p| p.write_us.p50))),
        ],
    );
    let others = chart(
        "Service time of fsync and reads",
        "Each decade is as high as the next.",
        Measure::Micros,
        vec![
            series("fsync p99", Colour::Orange, Shape::Line(times(&points, |p| p.fsync_us.p99))),
            series("fsync p50", Colour::Ochre, Shape::Dashed(times(&points, |p| p.fsync_us.p50))),
            series("read p99", Colour::Blue, Shape::Line(times(&points, |p| p.read_us.p99))),
            series("read p50", Colour::Green, Shape::Dashed(times(&points, |p| p.read_us.p50))),
        ],
    );
    let rows = points.iter().map(|p| (at(p), p.programs.iter().map(|(n, b)| (*n, p.rate(*b))).collect()));
    let programs = chart(
        "Who writes",
        "Programs stacked upon each other; the heaviest have colours of their own.",
        Measure::BytesPerSecond,
        stacked(&rows.collect::<Vec<_>>(), &|n| part.name(n).to_owned()),
    );
    let backlog = chart(
        "Backlog",
        &format!("What is in the log, of {} capacity.", bytes(status.log.capacity_bytes)),
        Measure::Bytes,
        vec![
            series(
                "dirty: not yet in the backing",
                Colour::Blue,
                Shape::Area(line(&points, |p| p.dirty_bytes as f64)),
            ),
            series("log in use", Colour::Orange, Shape::Line(line(&points, |p| p.used_bytes as f64))),
        ],
    );
    let age = chart(
        "Age of the oldest change not yet in the backing",
        "Above the writeback age the backing does not keep up, or does not answer.",
        Measure::Seconds,
        vec![series("age", Colour::Blue, Shape::Line(line(&points, |p| p.oldest_dirty_ms as f64 / 1000.0)))],
    );
    let absorbed = chart(
        "Absorption",
        "What programs wrote is either brought to the backing or overwritten and deleted before it had to go there.",
        Measure::BytesPerSecond,
        vec![
            series("brought to the backing", Colour::Blue, Shape::Area(per(|p| p.stored_bytes))),
            series("absorbed", Colour::Green, Shape::Line(per(|p| p.absorbed_bytes))),
        ],
    );
    let stores = chart(
        "Closes and stores",
        "A store at each close, as other gateways make it, against the contents that were stored.",
        Measure::PerSecond,
        vec![
            series("files closed after writing", Colour::Orange, Shape::Line(per(|p| p.closes))),
            series("contents stored", Colour::Blue, Shape::Area(per(|p| p.contents))),
        ],
    );
    for chart in [rate, reserve, writes, others, programs, backlog, age, absorbed, stores] {
        out.push_str(&chart.figure()?);
    }
    Ok(())
}

/// Amounts of programs over time, one upon the other. `name` says what a program is called; 0 stands for all others.
pub fn stacked(rows: &[(f64, BTreeMap<u32, f64>)], name: &dyn Fn(u32) -> String) -> Vec<Series> {
    let mut sums: BTreeMap<u32, f64> = BTreeMap::new();
    rows.iter().flat_map(|r| &r.1).for_each(|(p, x)| *sums.entry(*p).or_default() += x);
    let mut order: Vec<u32> = sums.keys().copied().filter(|p| *p != 0).collect();
    order.sort_by(|a, b| sums[b].total_cmp(&sums[a]));
    order.truncate(PROGRAMS_SHOWN);
    let mut floor: Vec<f64> = vec![0.0; rows.len()];
    let mut all = Vec::new();
    let mut put = |name: String, colour: Colour, of: &dyn Fn(&BTreeMap<u32, f64>) -> f64| {
        let band = rows.iter().zip(&mut floor).map(|((at, amounts), floor)| {
            let from = *floor;
            *floor += of(amounts);
            (*at, from, *floor)
        });
        all.push(Series { name, colour, shape: Shape::Stack(band.collect()) });
    };
    for (program, colour) in order.iter().zip(Colour::ALL) {
        put(name(*program), colour, &|amounts| amounts.get(program).copied().unwrap_or(0.0));
    }
    let rest =
        |amounts: &BTreeMap<u32, f64>| amounts.iter().filter(|a| !order.contains(a.0)).map(|a| a.1).sum();
    if rows.iter().any(|r| rest(&r.1) > 0.0) {
        put("others".into(), Colour::Grey, &rest);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(count: u64, step_ms: i64) -> SeriesPart {
        let point = |n: u64| Point {
            number: n,
            at_ms: 1_790_000_000_000 + n as i64 * step_ms,
            span_ms: step_ms as u32,
            horizon_ms: 1000,
            written_bytes: (n % 50) << 20,
            writes: n,
            write_us: Times { p50: 10, p99: 100 + n as u32 % 900, p999: 50_000 },
            expected_bytes: 10 << 20,
            q95_bytes: 30 << 20,
            dirty_bytes: (n % 1000) << 20,
            programs: [(1, 10 << 20), (2, n), (0, 5)].into(),
            ..Point::default()
        };
        SeriesPart { names: vec![(1, "a</svg><script>".into())], points: (1..=count).map(point).collect() }
    }

    #[test]
    fn a_page_holds_all_pictures_and_nothing_from_elsewhere() {
        let status = Status { mountpoint: "/m&<x>".into(), ..Status::default() };
        let html = page(&status, &part(3600, 1000), &part(1440, 60_000)).unwrap();
        assert_eq!(html.matches("<svg").count(), 18);
        assert!(html.contains("/m&amp;&lt;x&gt;") && !html.contains("<script"));
        assert_eq!(html.matches("http").count(), html.matches("http://www.w3.org").count());
        assert!(html.len() < 3 << 20, "{} bytes", html.len());
        for title in [
            "Write rate and forecast",
            "Reserve against need",
            "Service time of writes",
            "Who writes",
            "Backlog",
            "Absorption",
        ] {
            assert_eq!(html.matches(&format!("<h3>{title}</h3>")).count(), 2, "{title}");
        }
    }

    #[test]
    fn a_gateway_that_just_began_has_a_page_too() {
        let html = page(&Status::default(), &part(1, 1000), &part(0, 1)).unwrap();
        assert!(html.contains("Nothing is noted yet") && !html.contains("The last day"));
        assert_eq!(page(&Status::default(), &part(2, 1000), &part(0, 1)).unwrap().matches("<svg").count(), 9);
    }

    #[test]
    fn merging_keeps_sums_and_the_worst() {
        let p = merged(&part(3600, 1000).points);
        assert_eq!(p.len(), 600);
        assert_eq!((p[0].span_ms, p[0].writes, p[0].written_bytes), (6000, 21, 21 << 20));
        assert_eq!((p[0].write_us.p99, p[0].dirty_bytes, p[0].expected_bytes), (106, 6 << 20, 10 << 20));
        assert_eq!(*p[0].programs, [(0, 30), (1, 60 << 20), (2, 21)]);
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399_000), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(1_709_208_000_000), "2024-02-29 12:00:00 UTC");
        assert_eq!(utc(-1000), "1969-12-31 23:59:59 UTC");
    }

    #[test]
    fn programs_are_stacked_and_the_light_ones_lumped() {
        let rows: Vec<(f64, BTreeMap<u32, f64>)> =
            (0..3).map(|t| (f64::from(t), (0..10).map(|p| (p, f64::from(p))).collect())).collect();
        let all = stacked(&rows, &|n| format!("p{n}"));
        assert_eq!(
            all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["p9", "p8", "p7", "p6", "p5", "p4", "others"]
        );
        let Shape::Stack(last) = &all[6].shape else { panic!() };
        assert_eq!(last[0], (0.0, 39.0, 45.0));
    }
}
