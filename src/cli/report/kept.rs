//! The page of a kept write pattern history, and that of a recorded trace.

use super::live::{stacked, utc};
use crate::control::render::bytes;
use crate::history::{Bucket, Pattern, Programs, Resolution, Scope};
use crate::replay::chart::{Chart, Colour, Measure, Series, Shape, Time, escaped, head};
use crate::replay::{ReplayOptions, Trace, forecast_chart, replay, reserve_chart};
use crate::sys::clock::{self, Clock, RealClock};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// Columns of a picture at most.
const COLUMNS: usize = 600;

/// Whether a file begins as a history does.
pub fn is_history(bytes: &[u8]) -> bool {
    bytes.starts_with(b"flgHIST\0")
}

/// Amounts in time, in columns of one width.
struct Columns {
    span: Range<f64>,
    /// Seconds of a column.
    width: f64,
    rows: Vec<(f64, BTreeMap<u32, f64>)>,
}

impl Columns {
    /// Of at least `finest` seconds each.
    fn new(span: Range<f64>, finest: f64) -> Columns {
        let length = (span.end - span.start).max(finest);
        let width = finest * (length / finest / COLUMNS as f64).ceil().max(1.0);
        let count = (length / width).ceil() as usize;
        let rows = (0..count).map(|i| (span.start + (i as f64 + 0.5) * width, BTreeMap::new())).collect();
        Columns { span: span.start..span.start + count as f64 * width, width, rows }
    }

    fn add(&mut self, at: f64, key: u32, amount: f64) {
        let i = ((at - self.span.start) / self.width).max(0.0) as usize;
        if let Some(row) = self.rows.get_mut(i) {
            *row.1.entry(key).or_default() += amount;
        }
    }

    /// Amounts as rates a second.
    fn rates(&self) -> Vec<(f64, BTreeMap<u32, f64>)> {
        let rate = |row: &BTreeMap<u32, f64>| row.iter().map(|(k, x)| (*k, x / self.width)).collect();
        self.rows.iter().map(|(at, row)| (*at, rate(row))).collect()
    }

    fn totals(&self) -> Vec<(f64, f64)> {
        self.rates().into_iter().map(|(at, row)| (at, row.values().sum())).collect()
    }

    fn chart(
        &self,
        title: &str,
        caption: &str,
        (measure, time): (Measure, Time),
        series: Vec<Series>,
    ) -> Chart {
        let (title, caption) = (title.into(), caption.into());
        Chart { title, caption, measure, time, span: self.span.clone(), cap: None, series }
    }
}

fn area(name: &str, points: Vec<(f64, f64)>) -> Vec<Series> {
    vec![Series { name: name.into(), colour: Colour::Blue, shape: Shape::Area(points) }]
}

/// Of a history that a gateway kept. Errors: it cannot be read, or not be drawn.
pub fn history(title: &str, kept: &[u8]) -> Result<String, String> {
    let programs = Programs::new();
    let (now_ns, wall_ns) = (RealClock.monotonic_ns(), RealClock.wall_ns());
    let (pattern, why) = Pattern::load(kept, &programs, now_ns, wall_ns);
    if let Some(why) = why {
        return Err(why);
    }
    let wall = |at_ns: i64| wall_ns.saturating_sub(now_ns as i64).saturating_add(at_ns) as f64 / 1e9;
    let window = |scope, resolution| pattern.window(scope, resolution, i64::MIN, i64::MAX);
    let mut out = head(title);
    let long = window(Scope::Total, Resolution::S10);
    let (Some(first), Some(last)) = (long.first(), long.last()) else {
        return Err("the history is empty: nothing had been written".into());
    };
    let sum: u64 = long.iter().map(|b| b.bytes).sum();
    let writes: u64 = long.iter().map(|b| u64::from(b.requests)).sum();
    let moment = |b: &Bucket| utc((wall(b.at_ns) * 1000.0) as i64);
    out.push_str(&format!(
        "<p>A gateway's write pattern history: {writes} writes, {} from {} to {}, by {} programs.</p>",
        bytes(sum),
        moment(first),
        moment(last),
        pattern.programs().len()
    ));
    for (resolution, title) in
        [(Resolution::S10, "All that is kept"), (Resolution::S1, "The last hour of writing")]
    {
        let total = window(Scope::Total, resolution);
        let (Some(first), Some(last)) = (total.first(), total.last()) else { continue };
        let width = resolution.ns() as f64 / 1e9;
        // Sparse: what lies further back than an hour of seconds is in the coarser picture.
        let from = if resolution == Resolution::S1 {
            wall(first.at_ns).max(wall(last.at_ns) - 3600.0)
        } else {
            wall(first.at_ns)
        };
        let span = from..wall(last.at_ns) + width;
        let mut all = Columns::new(span.clone(), width);
        let mut count = Columns::new(span.clone(), width);
        for b in total.iter().filter(|b| wall(b.at_ns) >= from) {
            all.add(wall(b.at_ns), 0, b.bytes as f64);
            count.add(wall(b.at_ns), 0, f64::from(b.requests));
        }
        let mut by_program = Columns::new(span, width);
        for p in pattern.programs() {
            for b in window(Scope::Program(p), resolution).iter().filter(|b| wall(b.at_ns) >= from) {
                by_program.add(wall(b.at_ns), p.0, b.bytes as f64);
            }
        }
        let name = |n| programs.name(crate::types::ProgramId(n)).to_string();
        let day = |measure| (measure, Time::Day);
        out.push_str(&format!("<h2>{title}</h2>"));
        for chart in [
            all.chart("Write rate", "Bytes that programs wrote.", day(Measure::BytesPerSecond), area("written", all.totals())),
            count.chart("Writes", "Requests, whatever their size.", day(Measure::PerSecond), area("writes", count.totals())),
            by_program.chart(
                "Who wrote",
                "Programs stacked upon each other. Of each only the newest part is kept, so the past is thinner.",
                day(Measure::BytesPerSecond),
                stacked(&by_program.rates(), &name),
            ),
        ] {
            out.push_str(&chart.figure()?);
        }
    }
    out.push_str("</html>\n");
    Ok(out)
}

/// Of a trace: what was written, and what the prediction would have made of it. Errors: it cannot be read, or not be drawn.
pub fn trace(title: &str, kept: &[u8]) -> Result<String, String> {
    let trace = Trace::parse(kept)?;
    let seconds = trace.seconds().max(1.0);
    let clients: HashSet<_> = trace.samples.iter().map(|s| s.client).collect();
    let mut sizes: Vec<u32> = trace.samples.iter().filter(|s| s.is_write()).map(|s| s.bytes).collect();
    sizes.sort_unstable();
    let size = |q: f64| sizes.get(((sizes.len() as f64 - 1.0) * q) as usize).copied().unwrap_or(0);
    let mut out = head(title);
    out.push_str(&format!(
        "<p>A recorded trace: {} writes, {} in {seconds:.0} s by {} clients of {} programs; half of the writes had at most {}, \
         99 of 100 at most {}.{}</p>",
        trace.writes(),
        bytes(trace.bytes()),
        clients.len(),
        trace.programs,
        bytes(u64::from(size(0.5))),
        bytes(u64::from(size(0.99))),
        if trace.lost > 0 { format!(" {} more came too fast to be recorded.", trace.lost) } else { String::new() }
    ));
    let finest = if seconds < 60.0 { 0.1 } else { 1.0 };
    let columns = || Columns::new(0.0..seconds, finest);
    let (mut all, mut count, mut by_program) = (columns(), columns(), columns());
    for s in trace.samples.iter().filter(|s| s.is_write()) {
        let at = s.at_ns as f64 / 1e9;
        all.add(at, 0, f64::from(s.bytes));
        count.add(at, 0, 1.0);
        by_program.add(at, s.program.0, f64::from(s.bytes));
    }
    let since = |measure| (measure, Time::Since);
    out.push_str("<h2>What was written</h2>");
    for chart in [
        all.chart(
            "Write rate",
            "Bytes that programs wrote.",
            since(Measure::BytesPerSecond),
            area("written", all.totals()),
        ),
        count.chart(
            "Writes",
            "Requests, whatever their size.",
            since(Measure::PerSecond),
            area("writes", count.totals()),
        ),
        by_program.chart(
            "Who wrote",
            "Programs, numbered as they appear (a trace has no names), stacked upon each other.",
            since(Measure::BytesPerSecond),
            stacked(&by_program.rates(), &|n| format!("program {n}")),
        ),
    ] {
        out.push_str(&chart.figure()?);
    }
    let options = ReplayOptions { policies: vec!["leader".into()], ..ReplayOptions::default() };
    let report = replay(&trace, &options, &*clock::real())?;
    for track in &report.tracks {
        out.push_str(&format!("<h2>What the prediction makes of it ({})</h2>", escaped(&track.policy)));
        out.push_str(&forecast_chart(track).figure()?);
        out.push_str(&reserve_chart(track).figure()?);
    }
    out.push_str("</html>\n");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Sample;
    use crate::types::{ClientId, How, InodeId};

    fn sample(programs: &Programs, n: u64) -> Sample {
        let program = programs.intern(["git", "<tar>"][n as usize % 2]);
        let (client, inode) = (ClientId(n as u32 % 4), InodeId(2));
        Sample { at_ns: n * 700_000_000, client, program, bytes: 1 << (n % 20), inode, how: How::Write }
    }

    #[test]
    fn a_history_becomes_a_page() {
        let programs = Programs::new();
        let mut p = Pattern::default();
        p.absorb(&(0..5000).map(|n| sample(&programs, n)).collect::<Vec<_>>(), |_| ());
        let kept = p.save(&programs, 5000 * 700_000_000, RealClock.wall_ns());
        assert!(is_history(&kept) && !is_history(b"t_us"));
        let html = history("history of <x>", &kept).unwrap();
        assert_eq!(html.matches("<svg").count(), 6);
        assert!(
            html.contains("5000 writes")
                && html.contains("&lt;tar&gt;")
                && html.contains("history of &lt;x&gt;")
        );
        assert!(history("x", &kept[..100]).unwrap_err().contains("dropped"));
        assert!(history("x", &Pattern::default().save(&programs, 1, 1)).unwrap_err().contains("empty"));
    }

    #[test]
    fn a_trace_becomes_a_page() {
        let mut csv = String::from("t_us,pid,comm,bytes\n");
        (0..2000).for_each(|n| csv.push_str(&format!("{},{},x,{}\n", n * 50_000, n % 3, 1 << (n % 21))));
        let html = trace("t.csv", csv.as_bytes()).unwrap();
        assert_eq!(html.matches("<svg").count(), 5);
        assert!(html.contains("2000 writes") && html.contains("Forecast against what came"));
        assert!(trace("x", b"nothing").is_err());
    }

    #[test]
    fn columns_are_few_and_keep_all() {
        let mut c = Columns::new(100.0..100_100.0, 10.0);
        assert!(c.rows.len() <= COLUMNS);
        (0..100_000).for_each(|n| c.add(100.0 + f64::from(n), 1, 2.0));
        let sum: f64 = c.totals().iter().map(|t| t.1 * c.width).sum();
        assert!((sum - 200_000.0).abs() < 1e-6, "{sum}");
    }
}
