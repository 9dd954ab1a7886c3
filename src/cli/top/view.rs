//! The view: what is important first, and what does not fit left out.

use super::app::App;
use super::fit::{Piece, columns_of, fitted, middle, wrapped};
use super::plot::plot;
use super::rows::{Column, Group, Row};
use crate::control::render::{bytes, micros, plain, seconds};
use crate::control::status::{State, Status};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};

/// Rows of the table that are worth having.
const TABLE_MIN: u16 = 4;

/// Draws all.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    let Some(status) = app.status.as_deref() else {
        let why = app.gone.as_deref().unwrap_or("waiting for the gateway");
        let lines = wrapped(&plain(why), area.width, area.height as usize);
        return frame.render_widget(Paragraph::new(lines.join("\n")), area);
    };
    let mut top = vec![title(app, status, area.width)];
    top.extend(news(app, status, area.width));
    let facts = facts(app, status, area.width);
    // From the most important to the least: title and keys, the facts, the table, the picture.
    let left = area.height.saturating_sub(top.len() as u16 + 1);
    let shown = (facts.len() as u16).min(left);
    let left = left - shown;
    let plot_height = if left >= TABLE_MIN + 6 { ((left - TABLE_MIN) * 6 / 10).clamp(5, 18) } else { 0 };
    let [head, fact_area, legend_area, plot_area, table_area, key_area] = Layout::vertical([
        Constraint::Length(top.len() as u16),
        Constraint::Length(shown),
        Constraint::Length((plot_height > 0) as u16),
        Constraint::Length(plot_height.saturating_sub(1)),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(top), head);
    frame.render_widget(Paragraph::new(facts), fact_area);
    if plot_height > 0 {
        frame.render_widget(Paragraph::new(legend(app, area.width)), legend_area);
        plot(&app.points, app.paint, plot_area, frame.buffer_mut());
    }
    table(app, frame, table_area);
    keys(app, frame, key_area);
}

/// Columns that a path keeps at least before pid and handles give way.
const PATH_MIN: usize = 24;

/// Lines that a piece of news takes at most.
const NEWS_LINES: usize = 2;

fn title<'a>(app: &App, s: &Status, width: u16) -> Line<'a> {
    let p = app.paint;
    let state = match s.state {
        State::Degraded => Span::styled(" DEGRADED ", p.alarm()),
        state => Span::styled(state.name(), p.head()),
    };
    let up = format!("  up {}", seconds(s.uptime_seconds));
    let more = format!(", {} open, pid {}", s.open_handles, s.pid);
    let paused = if app.paused { columns_of("   PAUSED ") } else { 0 };
    let (mount, backing) = (plain(&s.mountpoint), plain(&s.backing));
    let both = columns_of(&mount) + columns_of("  -> ") + columns_of(&backing);
    let mut room = (width as usize).saturating_sub(columns_of("  ") + state.width() + paused);
    // Both paths have to be told apart; whoever is long gives way to the other.
    let mut rest = String::new();
    for (text, least) in [(up, PATH_MIN), (more, 2 * PATH_MIN)] {
        if room < columns_of(&text) + both.min(least) {
            break;
        }
        room -= columns_of(&text);
        rest += &text;
    }
    let for_mount = (room * 3 / 5).max(room.saturating_sub(columns_of("  -> ") + columns_of(&backing)));
    // Without room for the backing the mountpoint has it all.
    let for_mount = if room < PATH_MIN { room } else { for_mount };
    let mount = middle(&mount, for_mount.max(columns_of(&mount).min(9)));
    let left = room.saturating_sub(columns_of(&mount) + columns_of("  -> "));
    let mut line = vec![(0, Span::styled(mount, p.head())), (0, Span::raw("  ")), (0, state)];
    if app.paused {
        line.extend([(0, Span::raw("  ")), (0, Span::styled(" PAUSED ", p.alarm()))]);
    }
    line.push((1, Span::styled(rest, p.quiet())));
    if left >= 5 {
        line.push((2, Span::styled(format!("  -> {}", middle(&backing, left)), p.quiet())));
    }
    fitted(width, line)
}

/// What has to be said before all else.
fn news<'a>(app: &App, s: &Status, width: u16) -> Vec<Line<'a>> {
    let p = app.paint;
    let mut lines = Vec::new();
    let mut tell = |text: String, style: Style| {
        lines.extend(wrapped(&text, width, NEWS_LINES).into_iter().map(|l| Line::styled(l, style)));
    };
    if let Some(why) = &app.gone {
        tell(format!("GATEWAY GONE, waiting for one (q ends): {}", plain(why)), p.alarm());
    }
    if let Some(reason) = &s.reason {
        tell(plain(reason), p.forecast());
    }
    if let Some(flush) = &app.flush {
        tell(plain(flush), Style::new());
    }
    lines
}

/// `20.1 to 57.2 MiB`: the unit once where it is the same.
fn range(low: u64, high: u64) -> String {
    let (low, high) = (bytes(low), bytes(high));
    match (low.split_once(' '), high.split_once(' ')) {
        (Some((n, unit)), Some((_, other))) if unit == other => format!("{n} to {high}"),
        _ => format!("{low} to {high}"),
    }
}

fn facts<'a>(app: &App, s: &Status, width: u16) -> Vec<Line<'a>> {
    let p = app.paint;
    let (l, w, f) = (&s.log, &s.writeback, &s.prediction);
    let named = |name: &'static str, pieces: Vec<Piece<'a>>| {
        let mut line = vec![(0, Span::styled(format!("{name:<9} "), p.head()))];
        line.extend(pieces);
        fitted(width, line)
    };
    let says = |rank: u8, text: String| (rank, Span::raw(text));
    let mut log = gauge(app, s, if width >= 110 { 30 } else { 8 });
    log.push(says(0, bytes(l.used_bytes)));
    log.push(says(3, format!(" of {}", bytes(l.capacity_bytes))));
    log.push(says(1, format!(", {} dirty", bytes(l.dirty_bytes))));
    log.push(says(2, format!(" in {} files", w.files)));
    if w.files > 0 {
        log.push(says(1, format!(", oldest {}", seconds(l.oldest_dirty_seconds))));
    }
    let asked: u64 = s.store_requests.values().sum();
    let asked = if asked > 0 { format!("{asked} requests") } else { format!("{} changes", w.requests) };
    let kind = if s.backing_kind == "bucket" { "PUTs" } else { "stores" };
    let eta = match w.eta_seconds {
        Some(e) if w.backlog_bytes > 0 => format!(", done in {}", seconds(e)),
        None => ", no rate yet".into(),
        Some(_) => String::new(),
    };
    let backing = vec![
        says(0, format!("{}/s", bytes(w.bytes_per_second))),
        says(1, eta),
        says(4, format!(", {asked}")),
        says(3, format!(", absorbed {}", bytes(w.absorbed_bytes))),
        says(5, format!(" and {} {kind}", w.uploads_saved)),
        says(2, format!(", {} errors", w.errors)),
    ];
    let (why, detail) = match &f.fallback {
        Some(why) => {
            let why = plain(why);
            let at = why.find(", ").unwrap_or(why.len());
            (format!(", static: {}", &why[..at]), why[at..].to_owned())
        }
        None => (format!(", {} {:.2}", plain(&f.model), f.confidence), String::new()),
    };
    let forecast = vec![
        says(0, range(f.expected_bytes as u64, f.q95_bytes as u64)),
        says(1, format!(" in {}", seconds(f.horizon_ms as f64 / 1e3))),
        says(0, why),
        says(2, detail),
        says(3, format!("; reserve {} hits {} misses", f.reserve_hits, f.reserve_misses)),
    ];
    let r = &s.requests;
    let times = vec![
        says(0, format!("write {}", micros(r.write.p99_us))),
        says(1, format!("  read {}", micros(r.read.p99_us))),
        says(0, format!("  fsync {}", micros(r.fsync.p99_us))),
        says(2, format!("; {} stalls", f.stalls)),
    ];
    let mut lines =
        vec![named("log", log), named("backing", backing), named("forecast", forecast), named("p99", times)];
    if let Some(e) = &w.last_error {
        lines.insert(2, named("error", vec![(0, Span::styled(plain(e), p.forecast()))]));
    }
    lines
}

/// How full the log is: what is dirty, and what else is used.
fn gauge<'a>(app: &App, s: &Status, width: usize) -> Vec<Piece<'a>> {
    let capacity = s.log.capacity_bytes.max(1) as f64;
    let cells = |n: u64| {
        if n == 0 { 0 } else { ((n as f64 / capacity * width as f64).round() as usize).clamp(1, width) }
    };
    let dirty = cells(s.log.dirty_bytes);
    let used = cells(s.log.used_bytes).max(dirty);
    vec![
        (4, Span::raw("[")),
        (4, Span::styled("█".repeat(dirty), app.paint.written())),
        (4, Span::styled("▒".repeat(used - dirty), app.paint.quiet())),
        (4, Span::raw(" ".repeat(width - used))),
        (4, Span::raw("] ")),
    ]
}

fn legend<'a>(app: &App, width: u16) -> Line<'a> {
    let p = app.paint;
    let now = app.points.back().map_or(0.0, |n| n.rate(n.written_bytes));
    let pieces = vec![
        (0, Span::styled(format!("writes    {}/s now", bytes(now as u64)), p.head())),
        (2, Span::styled("  █", p.written())),
        (2, Span::raw(" written")),
        (1, Span::styled("  ░", p.forecast())),
        (1, Span::raw(" forecast")),
        (4, Span::raw(", mean to .95")),
        (3, Span::styled("  ▂", p.reserve())),
        (3, Span::raw(" ready")),
    ];
    fitted(width, pieces)
}

/// `12345678` as `11.8M`: at most six characters.
fn short(n: u64) -> String {
    const UNITS: [&str; 6] = ["", "K", "M", "G", "T", "P"];
    let (mut x, mut unit) = (n as f64, 0);
    while x >= 999.5 && unit + 1 < UNITS.len() {
        x /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        n.to_string()
    } else if x < 99.95 {
        format!("{x:.1}{}", UNITS[unit])
    } else {
        format!("{x:.0}{}", UNITS[unit])
    }
}

/// Columns, with their widths, that fit.
fn columns(width: u16) -> Vec<(Column, u16)> {
    use Column::*;
    let amount = if width >= 110 { 10 } else { 6 };
    let rate = amount + 2;
    let name = 10;
    let all = [
        (Name, name),
        (Pid, 7),
        (Bytes, amount),
        (Rate, rate),
        (Dirty, amount),
        (Share, 5),
        (Reserved, amount.max(8)),
        (Throttled, 9),
        (P99, 8),
    ];
    // The first to go, when there is no room for all.
    let mut gone: Vec<Column> = Vec::new();
    for c in [Pid, Reserved, Throttled, Share, P99, Bytes, Dirty, Rate] {
        let kept = all.iter().filter(|a| !gone.contains(&a.0));
        if kept.map(|a| a.1 + 1).sum::<u16>() <= width + 1 {
            break;
        }
        gone.push(c);
    }
    all.into_iter().filter(|a| !gone.contains(&a.0)).collect()
}

fn heading(column: Column, group: Group) -> &'static str {
    match column {
        Column::Name => group.name(),
        Column::Pid if group == Group::Process => "pid",
        Column::Pid => "procs",
        Column::Throttled => "throttled",
        other => other.name(),
    }
}

fn cell(row: &Row, column: Column, wide: bool) -> String {
    let amount = |n: u64| if wide { bytes(n) } else { short(n) };
    match column {
        Column::Name => row.name.clone(),
        Column::Pid => row.pid.to_string(),
        Column::Bytes => amount(row.bytes),
        Column::Rate => format!("{}/s", amount(row.rate as u64)),
        Column::Dirty => amount(row.dirty),
        Column::Share => format!("{:.0}%", row.share * 100.0),
        Column::Reserved => amount(row.reserved),
        Column::Throttled => {
            if row.throttled > 0.0 {
                seconds(row.throttled)
            } else {
                "-".into()
            }
        }
        Column::P99 => {
            if row.p99_us > 0 {
                micros(row.p99_us)
            } else {
                "-".into()
            }
        }
    }
}

fn table(app: &App, frame: &mut Frame<'_>, area: Rect) {
    if area.height == 0 {
        return;
    }
    let columns = columns(area.width);
    let wide = area.width >= 110;
    let head = columns.iter().map(|(c, width)| {
        let chosen = *c == app.sort.0;
        let text = heading(*c, app.group);
        let style = if chosen { app.paint.chosen() } else { app.paint.head() };
        let mark = match (chosen, app.sort.1) {
            (true, false) => "*",
            (true, true) => "^",
            _ => "",
        };
        Cell::from(aligned(format!("{mark}{text}"), *c, *width)).style(style)
    });
    let rows = app.rows.iter().skip(app.top).take(area.height as usize).map(|row| {
        let style = if row.ended { app.paint.quiet() } else { Style::new() };
        let cells = columns.iter().map(|(c, width)| Cell::from(aligned(cell(row, *c, wide), *c, *width)));
        TableRow::new(cells).style(style)
    });
    let widths = columns.iter().map(|(c, width)| match c {
        Column::Name => Constraint::Fill(1),
        _ => Constraint::Length(*width),
    });
    let table = Table::new(rows, widths).header(TableRow::new(head)).column_spacing(1);
    frame.render_widget(table, area);
    if app.rows.is_empty() && area.height > 1 {
        let below = Rect { y: area.y + 1, height: 1, ..area };
        frame.render_widget(Paragraph::new("nothing has written yet").style(app.paint.quiet()), below);
    }
}

/// Numbers to the right.
fn aligned<'a>(text: String, column: Column, width: u16) -> Line<'a> {
    match column {
        Column::Name => Line::raw(text),
        _ => Line::raw(format!("{text:>width$}", width = width as usize)),
    }
}

fn keys(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let shown = format!("{}/{}", app.rows.len().min(app.top + 1), app.rows.len());
    let order = if app.sort.1 { " up" } else { "" };
    let says = |rank: u8, text: String| (rank, Span::raw(text));
    let pieces = vec![
        says(0, "q quit".into()),
        says(1, format!("  s sort: {}{order}", app.sort.0.name())),
        says(6, "  r reverse".into()),
        says(2, format!("  g group: {}", app.group.name())),
        says(4, "  p pause".into()),
        says(3, "  f flush".into()),
        says(5, format!("  arrows {shown}")),
    ];
    let line = fitted(area.width, pieces);
    frame.render_widget(Paragraph::new(line).style(app.paint.keys()), area);
}

#[cfg(test)]
mod tests;
