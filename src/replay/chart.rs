//! Pictures for pages that need nothing else: SVG in the page, colours that a dark screen changes by style alone, and
//! legends in words, so that nothing in a picture can lie over another thing.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use std::fmt::Write;
use std::ops::Range;

const SIZE: (u32, u32) = (1200, 280);

/// Colours by Okabe and Ito, told apart by those who see few: as drawn, and on a dark screen.
const COLOURS: [(RGBColor, &str); 7] = [
    (RGBColor(0, 114, 178), "#56b4e9"),
    (RGBColor(213, 94, 0), "#ff9d4d"),
    (RGBColor(0, 158, 115), "#3ddbab"),
    (RGBColor(204, 121, 167), "#eba3cb"),
    (RGBColor(170, 130, 0), "#f0e442"),
    (RGBColor(86, 86, 200), "#a9a9ff"),
    (RGBColor(110, 110, 110), "#b0b0b0"),
];
const GRID: RGBColor = RGBColor(230, 230, 230);

/// A colour of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Blue,
    Orange,
    Green,
    Pink,
    Ochre,
    Violet,
    Grey,
}

impl Colour {
    pub const ALL: [Colour; 7] = [
        Colour::Blue,
        Colour::Orange,
        Colour::Green,
        Colour::Pink,
        Colour::Ochre,
        Colour::Violet,
        Colour::Grey,
    ];
    fn rgb(self) -> RGBColor {
        COLOURS[self as usize].0
    }
}

/// How a series is drawn.
#[derive(Clone, Debug)]
pub enum Shape {
    Line(Vec<(f64, f64)>),
    Dashed(Vec<(f64, f64)>),
    /// From 0.
    Area(Vec<(f64, f64)>),
    /// At, from, to; what lies below shines through.
    Band(Vec<(f64, f64, f64)>),
    /// The same, for areas that stand one upon the other.
    Stack(Vec<(f64, f64, f64)>),
}

/// One series.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub colour: Colour,
    pub shape: Shape,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Bytes,
    BytesPerSecond,
    Seconds,
    PerSecond,
    /// Microseconds, each decade as high as the next.
    Micros,
}

/// What the axis to the right says: seconds since the start, or since 1970 and shown as time of the day (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    Since,
    Day,
}

/// A picture.
#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    /// What is to be seen, and what it means.
    pub caption: String,
    pub measure: Measure,
    pub time: Time,
    pub span: Range<f64>,
    /// Nothing above this is shown, if given.
    pub cap: Option<f64>,
    pub series: Vec<Series>,
}

/// The style of all pages.
pub fn style() -> String {
    let mut dark = String::new();
    for (colour, on_dark) in COLOURS {
        let hex = format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2);
        let _ = write!(
            dark,
            "svg [stroke=\"{hex}\"]{{stroke:{on_dark}}}svg [fill=\"{hex}\"]{{fill:{on_dark}}}.key[data-c=\"{hex}\"]{{background:{on_dark}!important}}"
        );
    }
    format!(
        ":root{{color-scheme:light dark;--fg:#222;--soft:#5a5a5a;--bg:#fff;--grid:#e3e3e3}}\
         body{{font:15px/1.45 system-ui,sans-serif;max-width:1240px;margin:2em auto;padding:0 1em;color:var(--fg);background:var(--bg)}}\
         table{{border-collapse:collapse;font-variant-numeric:tabular-nums}}td,th{{padding:.2em .6em;text-align:right;\
         border-bottom:1px solid var(--grid)}}td:first-child,th:first-child{{text-align:left}}\
         .wide{{overflow-x:auto}}svg{{width:100%;height:auto;display:block}}svg text{{fill:var(--soft)}}\
         svg [stroke=\"#000000\"]{{stroke:var(--soft)}}svg [stroke=\"#E6E6E6\"]{{stroke:var(--grid)}}\
         figure{{margin:1em 0 2em}}figure h3{{margin:0 0 .3em;font-size:1.05em}}figcaption{{color:var(--soft)}}h2{{margin-top:2em}}\
         .legend{{display:flex;flex-wrap:wrap;gap:.2em 1.4em;margin:.2em 0;padding:0;list-style:none}}\
         .key{{display:inline-block;width:1.6em;height:.7em;margin-right:.4em;border-radius:2px}}\
         .key.line{{height:.22em;vertical-align:.22em}}.key.dashed{{height:.22em;vertical-align:.22em;width:.7em;margin-right:1.3em;box-shadow:.9em 0 0 0 currentColor}}\
         .key.band{{opacity:.45}}\
         @media (prefers-color-scheme:dark){{:root{{--fg:#e6e6e6;--soft:#a8a8a8;--bg:#16181b;--grid:#33373c}}{dark}}}"
    )
}

/// The start of a page.
pub fn head(title: &str) -> String {
    format!(
        "<!DOCTYPE html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>{}</style><h1>{title}</h1>",
        style(),
        title = escaped(title)
    )
}

/// Text as HTML; control characters are shown as `?`.
pub fn escaped(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Chart {
    /// The picture with its title, legend and caption. Errors: what the drawing said.
    pub fn figure(&self) -> Result<String, String> {
        let mut out = format!("<figure><h3>{}</h3>", escaped(&self.title));
        out.push_str("<ul class=legend>");
        for s in &self.series {
            let c = s.colour.rgb();
            let hex = format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2);
            let kind = match s.shape {
                Shape::Line(_) => "line",
                Shape::Dashed(_) => "dashed",
                Shape::Area(_) | Shape::Stack(_) => "area",
                Shape::Band(_) => "band",
            };
            // Writing to a String cannot fail.
            let _ = write!(
                out,
                "<li><span class=\"key {kind}\" data-c=\"{hex}\" style=\"background:{hex};color:{hex}\"></span>{}",
                escaped(&s.name)
            );
        }
        out.push_str("</ul>");
        out.push_str(&self.draw()?);
        let _ = write!(out, "<figcaption>{}</figcaption></figure>", escaped(&self.caption));
        Ok(out)
    }

    fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.series.iter().flat_map(|s| match &s.shape {
            Shape::Line(p) | Shape::Dashed(p) | Shape::Area(p) => p.iter().map(|p| p.1).collect::<Vec<_>>(),
            Shape::Band(p) | Shape::Stack(p) => p.iter().map(|p| p.1.max(p.2)).collect(),
        })
    }

    /// What the values are divided by, and how that is called.
    fn unit(&self, top: f64) -> (f64, &'static str) {
        let bytes = [(1u64 << 40, 4), (1 << 30, 3), (1 << 20, 2), (1 << 10, 1), (1, 0)];
        let step = bytes.iter().find(|(n, _)| top >= *n as f64).copied().unwrap_or((1, 0));
        match self.measure {
            Measure::Bytes => (step.0 as f64, ["B", "KiB", "MiB", "GiB", "TiB"][step.1]),
            Measure::BytesPerSecond => (step.0 as f64, ["B/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s"][step.1]),
            Measure::Seconds if top >= 7200.0 => (3600.0, "hours"),
            Measure::Seconds if top >= 120.0 => (60.0, "minutes"),
            Measure::Seconds => (1.0, "seconds"),
            Measure::PerSecond => (1.0, "per second"),
            Measure::Micros => (1.0, "log scale"),
        }
    }

    fn draw(&self) -> Result<String, String> {
        let log = self.measure == Measure::Micros;
        let most = self.values().filter(|v| v.is_finite()).fold(0.0, f64::max);
        let most = self.cap.map_or(most, |cap| most.min(cap.max(0.0)));
        let (by, unit) = self.unit(most);
        let scaled = |v: f64| if log { v.max(1.0).log10() } else { v / by };
        let top = if log { scaled(most).ceil().max(2.0) } else { (most / by).max(0.001) * 1.05 };
        let y = |v: f64| scaled(v).clamp(0.0, top);
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let failed = |e: &dyn std::fmt::Display| format!("drawing failed: {e}");
            let end = self.span.end.max(self.span.start + 0.05);
            let axis = TimeAxis { span: self.span.start..end, time: self.time };
            let mut chart = ChartBuilder::on(&root)
                .margin(8)
                .margin_right(24)
                .x_label_area_size(44)
                .y_label_area_size(78)
                .build_cartesian_2d(axis, 0.0..top)
                .map_err(|e| failed(&e))?;
            let amount = |v: &f64| if log { decade(*v) } else { number(*v, top) };
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(GRID)
                .x_labels(10)
                .y_labels(if log { top as usize + 1 } else { 6 })
                .x_desc(if self.time == Time::Day { "time of day, UTC" } else { "seconds" })
                .y_desc(unit)
                .y_label_formatter(&amount)
                .label_style(("sans-serif", 15))
                .axis_desc_style(("sans-serif", 16))
                .draw()
                .map_err(|e| failed(&e))?;
            for s in &self.series {
                let colour = s.colour.rgb();
                match &s.shape {
                    Shape::Line(points) => {
                        for part in parts(points, |p| p.0, self.gap(points.len())) {
                            let points = part.iter().map(|p| (p.0, y(p.1)));
                            chart
                                .draw_series(LineSeries::new(points, colour.stroke_width(2)))
                                .map_err(|e| failed(&e))?;
                        }
                    }
                    Shape::Dashed(points) => {
                        for part in parts(points, |p| p.0, self.gap(points.len())) {
                            let points = part.iter().map(|p| (p.0, y(p.1)));
                            chart
                                .draw_series(DashedLineSeries::new(points, 6, 4, colour.stroke_width(2)))
                                .map_err(|e| failed(&e))?;
                        }
                    }
                    Shape::Area(points) => {
                        for part in parts(points, |p| p.0, self.gap(points.len())) {
                            let mut shape: Vec<_> = part.iter().map(|p| (p.0, y(p.1))).collect();
                            shape.extend(part.iter().rev().map(|p| (p.0, 0.0)));
                            let area = Polygon::new(shape, colour.mix(0.75).filled());
                            chart.draw_series(std::iter::once(area)).map_err(|e| failed(&e))?;
                        }
                    }
                    Shape::Band(points) | Shape::Stack(points) => {
                        let mix = if matches!(s.shape, Shape::Band(_)) { 0.4 } else { 0.85 };
                        for part in parts(points, |p| p.0, self.gap(points.len())) {
                            let mut shape: Vec<_> = part.iter().map(|p| (p.0, y(p.2))).collect();
                            shape.extend(part.iter().rev().map(|p| (p.0, y(p.1))));
                            let area = Polygon::new(shape, colour.mix(mix).filled());
                            chart.draw_series(std::iter::once(area)).map_err(|e| failed(&e))?;
                        }
                    }
                }
            }
            root.present().map_err(|e| failed(&e))?;
        }
        Ok(svg)
    }

    /// A hole in time over which no line is drawn.
    fn gap(&self, points: usize) -> f64 {
        (4.0 * (self.span.end - self.span.start) / points.max(1) as f64).max(5.0)
    }
}

/// The stretches without a gap.
fn parts<P>(points: &[P], at: impl Fn(&P) -> f64, gap: f64) -> Vec<&[P]> {
    points.chunk_by(|a, b| at(b) - at(a) <= gap).collect()
}

/// `2.0` as `100 us`.
fn decade(v: f64) -> String {
    let n = v.round();
    if (v - n).abs() > 1e-6 {
        return String::new();
    }
    let (power, unit) =
        [(6, "s"), (3, "ms"), (0, "us")].into_iter().find(|u| n >= f64::from(u.0)).unwrap_or((0, "us"));
    format!("{} {unit}", 10f64.powf(n - f64::from(power)))
}

/// As many places as the scale needs.
fn number(v: f64, top: f64) -> String {
    match top {
        t if t >= 20.0 => format!("{v:.0}"),
        t if t >= 2.0 => format!("{v:.1}"),
        t if t >= 0.2 => format!("{v:.2}"),
        _ => format!("{v:.4}"),
    }
}

/// An axis whose marks are whole seconds, minutes, hours.
struct TimeAxis {
    span: Range<f64>,
    time: Time,
}

impl TimeAxis {
    fn mark_step(&self, marks: usize) -> f64 {
        const STEPS: [f64; 20] = [
            0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0,
            7200.0, 10_800.0, 21_600.0, 43_200.0,
        ];
        let width = self.span.end - self.span.start;
        let fits = |s: &&f64| width / **s <= marks.clamp(2, 12) as f64;
        STEPS.iter().find(fits).copied().unwrap_or((width / 864_000.0).ceil() * 86_400.0)
    }
}

impl Ranged for TimeAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.span.start) / (self.span.end - self.span.start);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, hint: H) -> Vec<f64> {
        let step = self.mark_step(hint.max_num_points());
        let first = (self.span.start / step).ceil() as i64;
        (first..).map(|n| n as f64 * step).take_while(|at| *at <= self.span.end).collect()
    }

    fn range(&self) -> Range<f64> {
        self.span.clone()
    }
}

impl ValueFormatter<f64> for TimeAxis {
    fn format_ext(&self, value: &f64) -> String {
        if self.time == Time::Since {
            return format!("{}", (value * 10.0).round() / 10.0);
        }
        let day = (value.round() as i64).rem_euclid(86_400);
        match self.span.end - self.span.start {
            w if w < 600.0 => format!("{:02}:{:02}:{:02}", day / 3600, day / 60 % 60, day % 60),
            _ => format!("{:02}:{:02}", day / 3600, day / 60 % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(measure: Measure, time: Time) -> Chart {
        let line: Vec<(f64, f64)> =
            (0..100).map(|n| (1000.0 + f64::from(n), f64::from(n * n * 1000))).collect();
        let band = line.iter().map(|p| (p.0, p.1 / 2.0, p.1 * 1.5)).collect();
        let series = |colour, shape| Series { name: "a <b>".into(), colour, shape };
        Chart {
            title: "t & u".into(),
            caption: "c".into(),
            measure,
            time,
            span: 1000.0..1100.0,
            cap: Some(5e6),
            series: vec![
                series(Colour::Blue, Shape::Area(line.clone())),
                series(Colour::Orange, Shape::Band(band)),
                series(Colour::Green, Shape::Line(line.clone())),
                series(Colour::Grey, Shape::Dashed(line)),
            ],
        }
    }

    #[test]
    fn a_figure_has_axes_with_units_and_a_legend() {
        let html = chart(Measure::BytesPerSecond, Time::Day).figure().unwrap();
        for part in ["t &amp; u", "a &lt;b&gt;", "MiB/s", "time of day, UTC", "00:17:", "<svg", "</svg>"] {
            assert!(html.contains(part), "{part}: {html}");
        }
        assert_eq!(html.matches("class=\"key").count(), 4);
        let html = chart(Measure::Micros, Time::Since).figure().unwrap();
        assert!(html.contains("100 us") && html.contains("1 s") && html.contains("seconds"), "{html}");
    }

    #[test]
    fn every_colour_that_is_drawn_changes_on_a_dark_screen() {
        let html = chart(Measure::Bytes, Time::Since).figure().unwrap();
        let css = style();
        let colours =
            html.split("stroke=\"#").chain(html.split("fill=\"#")).skip(1).filter_map(|t| t.get(..6));
        for hex in colours.filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit())) {
            assert!(css.contains(&format!("#{hex}")), "#{hex} has no dark twin");
        }
    }

    #[test]
    fn nothing_and_odd_values_are_drawn() {
        for points in [vec![], vec![(1.0, f64::NAN)], vec![(5.0, f64::INFINITY), (5.0, -1.0)]] {
            let series =
                vec![Series { name: String::new(), colour: Colour::Blue, shape: Shape::Line(points) }];
            let chart = Chart { series, span: 5.0..5.0, ..chart(Measure::Seconds, Time::Day) };
            chart.figure().unwrap();
        }
    }

    #[test]
    fn marks_are_round_and_gaps_stay_open() {
        let axis = |span| TimeAxis { span, time: Time::Day };
        assert_eq!(axis(0.0..3600.0).mark_step(10), 600.0);
        assert_eq!(axis(0.0..86_400.0).mark_step(10), 10_800.0);
        assert_eq!(axis(90_000.0..93_600.0).format_ext(&90_600.0), "01:10");
        assert_eq!(parts(&[1.0, 2.0, 9.0, 10.0], |p| *p, 3.0), [&[1.0, 2.0][..], &[9.0, 10.0]]);
        assert_eq!(
            (decade(0.0), decade(2.0), decade(4.0), decade(6.0), decade(0.5)),
            ("1 us".into(), "100 us".into(), "10 ms".into(), "1 s".into(), String::new())
        );
    }
}
