//! A replay as one page that needs nothing else: the table, and for each policy what was forecast against what came,
//! and what was reserved against what was needed.

use super::report::ReplayReport;
use super::track::{Column, Track};
use plotters::prelude::*;
use std::fmt::Write;

const MIB: f64 = 1048576.0;
const SIZE: (u32, u32) = (1200, 260);
const BAND: RGBColor = RGBColor(158, 202, 225);
const LINE: RGBColor = RGBColor(8, 81, 156);
const CAME: RGBColor = RGBColor(217, 72, 1);

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:1240px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2em .6em;text-align:right;\
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto;display:block}\
figure{margin:1em 0 2em}figcaption{color:#555}h2{margin-top:2em}";

/// The page. Errors: what the drawing said.
pub fn page(title: &str, report: &ReplayReport) -> Result<String, String> {
    let mut out = String::new();
    let t = &report.trace;
    let head = format!(
        "<!DOCTYPE html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p>{} writes, {:.1} MiB in {:.1} s by {} programs. \
         Scored on the last half. An allocation is taken to cost {} ms and {} ms a MiB.</p>",
        t.writes,
        t.bytes as f64 / MIB,
        t.seconds,
        t.programs,
        report.alloc_ms,
        report.alloc_ms_per_mib,
        title = escaped(title)
    );
    out.push_str(&head);
    table(&mut out, report);
    for track in &report.tracks {
        let name = escaped(&track.policy);
        let write = |out: &mut String, svg: String, text: String| {
            // Writing to a String cannot fail.
            let _ = write!(out, "<figure>{svg}<figcaption>{text}</figcaption></figure>");
        };
        out.push_str(&format!("<h2>{name}</h2>"));
        let h = track.horizon_seconds;
        let text = format!(
            "Bytes of the next {h} s: forecast (band: median to .99 quantile, line: .95) and what came (orange)."
        );
        write(&mut out, draw(track, "MiB", forecast)?, text);
        let text = format!("Reserved and unused (blue) against what the next {h} s needed (orange).");
        write(&mut out, draw(track, "MiB", reserve)?, text);
    }
    out.push_str("</html>\n");
    Ok(out)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn table(out: &mut String, report: &ReplayReport) {
    out.push_str(
        "<table><tr><th>policy<th>stalls<th>ready %<th>idle MiB<th>most MiB<th>seals<th>p99 wait us<th>p99.9 wait us\
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
    out.push_str("</table>");
}

/// Bytes of a column.
type Of = fn(&Column) -> f64;

/// What a picture shows: an area between two amounts, and lines.
struct Picture {
    band: (Of, Of),
    lines: &'static [(Of, RGBColor)],
}

fn forecast() -> Picture {
    Picture { band: (|c| c.q50, |c| c.q99), lines: &[(|c| c.q95, LINE), (|c| c.need, CAME)] }
}

fn reserve() -> Picture {
    Picture { band: (|_| 0.0, |c| c.reserve), lines: &[(|c| c.reserve, LINE), (|c| c.need, CAME)] }
}

fn draw(track: &Track, unit: &str, what: fn() -> Picture) -> Result<String, String> {
    let mut svg = String::new();
    let picture = what();
    let seconds = track.seconds.max(0.05);
    let at = |i: usize| (i as f64 + 0.5) * seconds / track.columns.len() as f64;
    // An outlier of the forecast must not press what came to the floor.
    let most = |of: Of| track.columns.iter().map(of).fold(0.0, f64::max) / MIB;
    let shown = picture
        .lines
        .iter()
        .map(|l| most(l.0))
        .fold(most(picture.band.1).min(4.0 * most(|c| c.need)), f64::max);
    let top = shown.max(0.001) * 1.05;
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let failed = |e: &dyn std::fmt::Display| format!("drawing failed: {e}");
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut chart = ChartBuilder::on(&root)
            .margin(6)
            .x_label_area_size(28)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..seconds, 0.0..top)
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(230, 230, 230))
            .x_desc("s")
            .y_desc(unit)
            .draw()
            .map_err(|e| failed(&e))?;
        let (low, high) = picture.band;
        let upper = track.columns.iter().enumerate().map(|(i, c)| (at(i), (high(c) / MIB).min(top)));
        let lower = track.columns.iter().enumerate().rev().map(|(i, c)| (at(i), (low(c) / MIB).min(top)));
        let area = Polygon::new(upper.chain(lower).collect::<Vec<_>>(), BAND.mix(0.6).filled());
        chart.draw_series(std::iter::once(area)).map_err(|e| failed(&e))?;
        for (of, color) in picture.lines {
            let points = track.columns.iter().enumerate().map(|(i, c)| (at(i), (of(c) / MIB).min(top)));
            chart.draw_series(LineSeries::new(points, color.stroke_width(1))).map_err(|e| failed(&e))?;
        }
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(svg)
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
