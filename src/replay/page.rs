//! A replay as one page that needs nothing else: the table, and for each policy what was forecast against what came,
//! and what was reserved against what was needed.

use super::chart::{Chart, Colour, Measure, Series, Shape, Time, escaped, head};
use super::report::ReplayReport;
use super::track::{Column, Track};
use std::fmt::Write;

const MIB: f64 = 1048576.0;

/// The page. Errors: what the drawing said.
pub fn page(title: &str, report: &ReplayReport) -> Result<String, String> {
    let mut out = String::new();
    let t = &report.trace;
    out.push_str(&head(title));
    let text = format!(
        "<p>{} writes, {:.1} MiB in {:.1} s by {} programs. Scored on the last half. An allocation is taken to cost {} ms \
         and {} ms a MiB.</p>",
        t.writes,
        t.bytes as f64 / MIB,
        t.seconds,
        t.programs,
        report.alloc_ms,
        report.alloc_ms_per_mib
    );
    out.push_str(&text);
    table(&mut out, report);
    for track in &report.tracks {
        out.push_str(&format!("<h2>{}</h2>", escaped(&track.policy)));
        out.push_str(&forecast(track).figure()?);
        out.push_str(&reserve(track).figure()?);
    }
    out.push_str("</html>\n");
    Ok(out)
}

fn table(out: &mut String, report: &ReplayReport) {
    out.push_str(
        "<div class=wide><table><tr><th>policy<th>stalls<th>ready %<th>idle MiB<th>most MiB<th>seals<th>p99 wait us<th>p99.9 wait us\
         <th>pinball .95<th>.99<th>covered .95<th>.99<th>active .99<th>bytes .99<th>client nats<th>tick us",
    );
    for p in &report.policies {
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{:.2}<td>{:.2}<td>{:.1}<td>{}<td>{}<td>{}<td>{:.3}<td>{:.3}<td>{:.3}<td>{:.3}<td>{:.3}\
             <td>{:.3}<td>{:.3}<td>{}",
            escaped(&p.policy),
            p.stalls,
            100.0 * p.ready_rate,
            p.idle_mib,
            p.idle_max_mib,
            p.seals,
            p.wait_p99_us,
            p.wait_p999_us,
            p.relative_pinball_95,
            p.relative_pinball_99,
            p.coverage_95,
            p.coverage_99,
            p.active_coverage_99,
            p.byte_coverage_99,
            p.client_log_loss_nats,
            p.tick_p50_us
        );
    }
    out.push_str("</table></div>");
}

/// A column's place in time and an amount of it.
fn points(track: &Track, of: fn(&Column) -> f64) -> Vec<(f64, f64)> {
    let wide = track.seconds.max(0.05) / track.columns.len() as f64;
    track.columns.iter().enumerate().map(|(i, c)| ((i as f64 + 0.5) * wide, of(c))).collect()
}

fn chart(track: &Track, title: &str, caption: String, series: Vec<Series>) -> Chart {
    let span = 0.0..track.seconds.max(0.05);
    Chart {
        title: title.into(),
        caption,
        measure: Measure::Bytes,
        time: Time::Since,
        span,
        cap: None,
        series,
    }
}

fn series(name: &str, colour: Colour, shape: Shape) -> Series {
    Series { name: name.into(), colour, shape }
}

/// What a policy forecast against what came.
pub fn forecast(track: &Track) -> Chart {
    let h = track.horizon_seconds;
    let need = points(track, |c| c.need);
    let most = |points: &[(f64, f64)]| points.iter().map(|p| p.1).fold(0.0, f64::max);
    let q95 = points(track, |c| c.q95);
    let q99 = points(track, |c| c.q99);
    let (low, high) = (points(track, |c| c.q50), &q99);
    let band = low.iter().zip(high).map(|(l, h)| (l.0, l.1, h.1)).collect();
    // An outlier of the forecast must not press what came to the floor.
    let cap = most(&need).max(most(&q95)).max(most(&q99).min(4.0 * most(&need)));
    let caption = format!("Bytes of the {h} s that begin at each moment.");
    let all = vec![
        series("forecast: median to .99 quantile", Colour::Blue, Shape::Band(band)),
        series("forecast: .95 quantile", Colour::Blue, Shape::Line(q95)),
        series("came", Colour::Orange, Shape::Line(need)),
    ];
    Chart { cap: Some(cap), ..chart(track, "Forecast against what came", caption, all) }
}

/// What it held ready against what was needed.
pub fn reserve(track: &Track) -> Chart {
    let caption =
        format!("Bytes ready at each moment, and bytes that the next {} s needed.", track.horizon_seconds);
    let all = vec![
        series(
            "ready: reserved, or room in open segments",
            Colour::Blue,
            Shape::Area(points(track, |c| c.reserve)),
        ),
        series("needed", Colour::Orange, Shape::Line(points(track, |c| c.need))),
    ];
    chart(track, "Reserve against need", caption, all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{ReplayOptions, Trace, replay};
    use crate::sys::clock;

    #[test]
    fn a_page_holds_a_table_and_two_pictures_a_policy() {
        let mut csv = String::from("t_us,pid,comm,bytes\n");
        for n in 0..400 {
            csv.push_str(&format!("{},1,<b>,{}\n", n * 50_000, if n % 40 == 0 { 1 << 20 } else { 10 }));
        }
        let trace = Trace::parse(csv.as_bytes()).expect("sound");
        let policies = vec!["leader".into(), "static-4m".into()];
        let options = ReplayOptions { policies, ..ReplayOptions::default() };
        let report = replay(&trace, &options, &*clock::real()).expect("played");
        let html = page("a <trace>", &report).expect("drawn");
        assert_eq!(html.matches("<svg").count(), 4);
        assert!(html.contains("a &lt;trace&gt;") && html.contains("<td>leader"));
        assert!(
            !html.contains("http://")
                || html.matches("http").count() == html.matches("http://www.w3.org").count()
        );
        assert!(html.len() < 1 << 20, "{} bytes", html.len());
    }
}
