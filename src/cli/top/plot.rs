//! The picture of the last minutes: a column a second. What was written stands as a bar, the forecast for that second
//! as a shade from what was expected to the credible .95 quantile, and under the axis what stood ready.

use super::paint::Paint;
use crate::control::render::bytes;
use crate::control::series::Point;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::collections::VecDeque;

/// Width of the scale at the left.
const SCALE: u16 = 13;

/// Bars in eighths of a cell.
const BARS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// One second as bytes a second, and bytes that stood ready when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Slice {
    written: f64,
    expected: f64,
    credible: f64,
    reserve: f64,
}

/// The slices of the newest `count` seconds. What a second's end forecast and held ready was for the next.
fn slices(points: &VecDeque<Point>, count: usize) -> Vec<Slice> {
    let skip = points.len().saturating_sub(count);
    (skip..points.len())
        .map(|i| {
            let p = &points[i];
            let before = i.checked_sub(1).map(|b| &points[b]);
            let said = |of: fn(&Point) -> u64| {
                before.map_or(0.0, |b| of(b) as f64 * 1000.0 / f64::from(b.horizon_ms.max(1)))
            };
            Slice {
                written: p.rate(p.written_bytes),
                expected: said(|b| b.expected_bytes),
                credible: said(|b| b.q95_bytes),
                reserve: before.map_or(0.0, |b| b.reserve_bytes as f64),
            }
        })
        .collect()
}

/// Draws it into `area`: at least 3 rows, of which the lowest holds the times and the one above it the reserve.
pub fn plot(points: &VecDeque<Point>, paint: Paint, area: Rect, out: &mut Buffer) {
    if area.width < SCALE + 8 || area.height < 4 {
        return;
    }
    let (left, width) = (area.x + SCALE, area.width - SCALE);
    let below: u16 = if area.height >= 14 { 3 } else { 1 };
    let height = area.height - below - 1;
    let slices = slices(points, width as usize);
    let most = |of: fn(&Slice) -> f64| slices.iter().map(of).fold(0.0, f64::max);
    let written = most(|s| s.written);
    // A forecast that is far off must not press what came to the floor.
    let top = written.max(most(|s| s.credible).min(2.0 * written.max(1024.0))).max(1024.0);
    let ready = most(|s| s.reserve);
    let label = |text: String, y: u16, out: &mut Buffer| {
        out.set_stringn(area.x, y, format!("{text:>11} "), SCALE as usize, paint.quiet());
    };
    label(format!("{}/s", bytes(top as u64)), area.y, out);
    label("0".into(), area.y + height - 1, out);
    label(bytes(ready as u64), area.y + height, out);
    let first = left + width - slices.len() as u16;
    for (i, s) in slices.iter().enumerate() {
        let x = first + i as u16;
        column(s, top, (x, area.y, height), paint, out);
        // Downwards there are no eighths: the bar hangs by shades.
        let depth = f64::from(below) * if ready > 0.0 { s.reserve / ready } else { 0.0 };
        for row in 0..below {
            let part = (depth - f64::from(row)).clamp(0.0, 1.0);
            let glyph = match below {
                1 => BARS[(part * 8.0).ceil() as usize],
                _ if part >= 0.75 => "▓",
                _ if part >= 0.25 => "▒",
                _ if part > 0.0 => "░",
                _ => " ",
            };
            out.set_string(x, area.y + height + row, glyph, paint.reserve());
        }
    }
    let y = area.y + area.height - 1;
    out.set_stringn(area.x, y, format!("{:>11} ", "ready"), SCALE as usize, paint.quiet());
    let span = format!("{} s ago", width.saturating_sub(1));
    out.set_stringn(left, y, &span, width as usize, paint.quiet());
    if width as usize > span.len() + 4 {
        out.set_string(left + width - 3, y, "now", paint.quiet());
    }
}

/// One bar with the shade of its forecast.
fn column(s: &Slice, top: f64, (x, y, height): (u16, u16, u16), paint: Paint, out: &mut Buffer) {
    let level = |v: f64| ((v / top).clamp(0.0, 1.0) * f64::from(height) * 8.0).round() as i32;
    let bar = if s.written > 0.0 { level(s.written).max(1) } else { 0 };
    let (low, high) = (level(s.expected.min(s.credible)), level(s.expected.max(s.credible)));
    for row in 0..height {
        let floor = i32::from(row) * 8;
        let shaded = high > 0 && floor + 8 > low && floor < high;
        let part = (bar - floor).clamp(0, 8);
        let (glyph, style) = match part {
            0 if shaded => ("░", paint.forecast()),
            8 if shaded => ("▓", paint.written()),
            n => (BARS[n as usize], paint.written()),
        };
        out.set_string(x, y + height - 1 - row, glyph, style);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_shown_at_the_second_it_was_for() {
        let said = Point {
            span_ms: 1000,
            expected_bytes: 10,
            q95_bytes: 30,
            horizon_ms: 500,
            reserve_bytes: 7,
            ..Point::default()
        };
        let came = Point { span_ms: 2000, written_bytes: 50, ..Point::default() };
        let all: VecDeque<Point> = [said, came].into();
        let s = slices(&all, 9);
        assert_eq!(s[0], Slice::default());
        assert_eq!(s[1], Slice { written: 25.0, expected: 20.0, credible: 60.0, reserve: 7.0 });
        assert_eq!(slices(&all, 1), s[1..]);
    }

    #[test]
    fn a_little_is_not_nothing_and_an_outlier_does_not_hide_what_came() {
        let mut all: VecDeque<Point> = VecDeque::new();
        for n in 0..30u64 {
            all.push_back(Point {
                span_ms: 1000,
                horizon_ms: 1000,
                written_bytes: if n == 20 { 1 << 20 } else { 1 },
                q95_bytes: 1 << 40,
                ..Point::default()
            });
        }
        let area = Rect::new(0, 0, 60, 8);
        let mut out = Buffer::empty(area);
        plot(&all, Paint::with(false), area, &mut out);
        let row = |y: u16| (0..60).map(|x| out[(x, y)].symbol().to_owned()).collect::<String>();
        assert!(row(0).contains("2.0 MiB/s"), "{}", row(0));
        assert!(row(2).contains('░') && row(5).contains('▓'), "{}\n{}", row(2), row(5));
        assert!(row(5).contains('▁'), "{}", row(5));
        for (w, h) in [(0, 0), (20, 3), (21, 4), (200, 50)] {
            let area = Rect::new(0, 0, w, h);
            plot(&all, Paint::with(true), area, &mut Buffer::empty(area));
        }
    }
}
