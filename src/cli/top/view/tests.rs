use super::*;
use crate::cli::top::app::{Key, Wish};
use crate::cli::top::fetch::News;
use crate::cli::top::paint::Paint;
use crate::control::series::{Point, SeriesPart};
use crate::control::status::Client;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::collections::HashMap;
use std::sync::Arc;

/// A gateway that writes in waves, with so many clients.
fn status(clients: usize, uptime: f64) -> Status {
    let mut s = Status {
        pid: 7,
        mountpoint: "/mnt/data".into(),
        backing: "/mnt/nas".into(),
        uptime_seconds: uptime,
        ..Status::default()
    };
    s.backing_kind = "directory".into();
    s.log.capacity_bytes = 8 << 30;
    s.log.used_bytes = 3 << 30;
    s.log.dirty_bytes = 1 << 30;
    s.log.oldest_dirty_seconds = 12.4;
    s.writeback.backlog_bytes = 1 << 30;
    s.writeback.files = 42;
    s.writeback.bytes_per_second = 30 << 20;
    s.writeback.eta_seconds = Some(34.0);
    s.writeback.absorbed_bytes = 5 << 30;
    s.writeback.uploads_saved = 1234;
    s.prediction.model = "leader".into();
    s.prediction.horizon_ms = 1000;
    s.prediction.confidence = 0.83;
    s.prediction.expected_bytes = 20e6;
    s.prediction.q95_bytes = 60e6;
    s.requests.write.p99_us = 123;
    s.requests.fsync.p99_us = 12_345;
    s.clients = (0..clients)
        .map(|n| Client {
            client: format!("{n}:1"),
            pid: 1000 + n as u32,
            program: format!("prog{n}"),
            bytes: ((n as u64 + 1) << 20) * uptime as u64,
            dirty_bytes: (n as u64) << 16,
            share: 1.0 / clients as f64,
            p99_us: 100 + n as u64,
            ended: n % 7 == 6,
            ..Client::default()
        })
        .collect();
    s
}

fn points(count: u64) -> SeriesPart {
    let point = |n: u64| Point {
        number: n,
        span_ms: 1000,
        horizon_ms: 1000,
        written_bytes: if n % 20 < 8 { (40 + n % 5) << 20 } else { (n % 3) << 18 },
        expected_bytes: if (n + 1) % 20 < 8 { 30 << 20 } else { 1 << 20 },
        q95_bytes: if (n + 1) % 20 < 8 { 50 << 20 } else { 8 << 20 },
        reserve_bytes: (8 + n % 20) << 20,
        ..Point::default()
    };
    SeriesPart { names: vec![], points: (1..=count).map(point).collect() }
}

fn seen(s: Status, part: SeriesPart) -> News {
    News::Seen(Box::new(s), part, Arc::new(HashMap::new()))
}

fn app(clients: usize) -> App {
    let mut app = App::new(Paint::with(false));
    app.take(seen(status(clients, 100.0), points(300)));
    app.take(seen(status(clients, 101.0), SeriesPart::default()));
    app
}

fn drawn(app: &App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(app, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>()).collect()
}

/// The stored picture; `FORELOG_BLESS=1` writes it anew.
fn matches(name: &str, lines: &[String]) {
    let trimmed: Vec<&str> = lines.iter().map(|l| l.trim_end()).collect();
    let text = trimmed.join("\n") + "\n";
    let file = format!("{}/src/cli/top/view/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let file = std::path::Path::new(&file);
    if std::env::var_os("FORELOG_BLESS").is_some() {
        crate::sys::files::write_atomic(file, text.as_bytes(), 0o644).unwrap();
    }
    let kept = crate::sys::files::read(file).map(|b| String::from_utf8(b).unwrap()).unwrap_or_default();
    assert_eq!(text, kept, "{name}: look at it, then FORELOG_BLESS=1 keeps it:\n{text}");
}

#[test]
fn a_small_terminal() {
    matches("80x24", &drawn(&app(6), 80, 24));
}

#[test]
fn a_large_terminal() {
    matches("200x50", &drawn(&app(300), 200, 50));
}

#[test]
fn nobody_has_written() {
    let mut app = App::new(Paint::with(false));
    app.take(seen(status(0, 1.0), SeriesPart::default()));
    let lines = drawn(&app, 80, 24);
    assert!(lines.iter().any(|l| l.starts_with("nothing has written yet")), "{lines:#?}");
    assert!(lines[23].starts_with("q quit"), "{lines:#?}");
}

#[test]
fn any_size_is_drawn() {
    let app = app(300);
    for (width, height) in
        [(1, 1), (5, 2), (19, 3), (20, 5), (40, 10), (79, 15), (80, 16), (120, 30), (500, 120)]
    {
        let lines = drawn(&app, width, height);
        assert!(width < 18 || lines[0].starts_with("/mnt/data  serving"), "{lines:#?}");
    }
    // What matters most survives.
    let lines = drawn(&app, 60, 8).join("\n");
    assert!(lines.contains("1.0 GiB dirty") && lines.contains("q quit"), "{lines}");
}

#[test]
fn odd_names_stay_in_their_column() {
    let mut s = status(4, 100.0);
    let names = [
        "x".repeat(300),
        "\u{fffd}\u{1b}[31m\n\u{fffd}".into(),
        "日本語プログラム名前長い".into(),
        "e\u{301}\u{301}\u{200b}z".into(),
    ];
    for (c, name) in s.clients.iter_mut().zip(names) {
        c.program = name;
    }
    let mut app = App::new(Paint::with(true));
    app.take(seen(s, points(10)));
    for width in [30, 80, 200] {
        let lines = drawn(&app, width, 24);
        assert!(lines.iter().all(|l| !l.contains('\u{1b}')), "{lines:#?}");
        let long = lines.iter().find(|l| l.contains("xxxx")).unwrap();
        assert!(width < 80 || long.trim_end().ends_with("us"), "{long}");
    }
}

#[test]
fn trouble_is_said_first() {
    let mut app = app(3);
    let mut s = status(3, 102.0);
    s.state = State::Degraded;
    s.reason = Some("the backing fails, retrying: EIO".into());
    s.writeback.last_error = Some("EIO".into());
    app.take(seen(s, SeriesPart::default()));
    let lines = drawn(&app, 80, 24);
    assert!(
        lines[0].contains(" DEGRADED ") && lines[1].starts_with("the backing fails, retrying: EIO"),
        "{lines:#?}"
    );
    assert!(lines.iter().any(|l| l.starts_with("error     EIO")), "{lines:#?}");
    app.take(News::Gone("/mnt/data: its gateway (pid 7) is gone".into()));
    let lines = drawn(&app, 80, 24);
    assert!(lines[1].contains("GATEWAY GONE") && lines[1].contains("pid 7"), "{lines:#?}");
    let mut next = status(1, 0.5);
    next.pid = 8;
    app.take(seen(next, points(2)));
    assert_eq!((app.gone.is_some(), app.points.len(), app.rows.len()), (false, 2, 1));
}

/// All that makes lines long, at once.
fn crowded() -> App {
    let mut s = status(500, 8e6);
    s.mountpoint = format!("/srv/{}/projects/render-farm", "deep/".repeat(40));
    s.backing = format!("/net/filer-17.example.org/{}/exports/render", "vol/".repeat(40));
    s.state = State::Degraded;
    s.reason = Some(format!("the backing does not answer, retrying in 30 s: {}: EIO", "path/".repeat(60)));
    s.open_handles = 123_456;
    s.pid = 4_194_304;
    s.log.capacity_bytes = u64::MAX;
    s.log.used_bytes = u64::MAX / 3;
    s.log.dirty_bytes = u64::MAX / 5;
    s.log.oldest_dirty_seconds = 8e6;
    s.writeback.files = 9_999_999;
    s.writeback.backlog_bytes = u64::MAX / 5;
    s.writeback.eta_seconds = Some(9e8);
    s.writeback.requests = u64::MAX;
    s.writeback.errors = 9_999_999;
    s.writeback.absorbed_bytes = u64::MAX;
    s.writeback.uploads_saved = u64::MAX / 2;
    s.writeback.last_error = Some(format!("/{}f: Connection timed out (os error 110)", "path/".repeat(60)));
    s.prediction.fallback = Some("too many misses: 10 of the last 60 horizons, at most 4".into());
    (s.prediction.expected_bytes, s.prediction.q95_bytes) = (1e18, 1.5e18);
    s.prediction.reserve_hits = u64::MAX;
    s.requests.write.p99_us = 30_000_000;
    for c in &mut s.clients {
        (c.bytes, c.dirty_bytes, c.reserved_bytes) = (u64::MAX, u64::MAX / 5, u64::MAX / 7);
        (c.throttled_seconds, c.p99_us, c.pid) = (8e6, 29_000_000, 4_194_304);
    }
    let mut app = App::new(Paint::with(false));
    app.take(seen(s, points(300)));
    app.take(News::Gone("the gateway of it (pid 4194304) does not answer within 10 s".into()));
    app.take(News::Flush("flushing: 3.2 EiB in 9999999 files left, done in 10416d 16h".into()));
    app.press(Key::Char('p'));
    app
}

#[test]
fn what_is_long_is_cut_where_it_matters_least() {
    let mut app = crowded();
    matches("crowded-80x24", &drawn(&app, 80, 24));
    for (width, height) in [(40, 12), (80, 24), (120, 40)] {
        let lines = drawn(&app, width, height);
        let text = lines.join("\n");
        for said in [" DEGRADED ", " PAUSED ", "GATEWAY GONE", "the backing does not answer", "q quit"] {
            assert!(text.contains(said), "{width}x{height}: no {said} in\n{text}");
        }
        assert!(lines[0].starts_with("/srv/de") && lines[0].contains('…'), "{}", lines[0]);
        assert!(lines[height as usize - 1].starts_with("q quit"), "{text}");
    }
    let lines = drawn(&app, 80, 24);
    assert!(lines[0].contains("render-farm") && lines[0].contains("/render"), "{}", lines[0]);
    // Any width and height: nothing stands over another thing, and nothing breaks.
    for width in 1..140 {
        for height in [1, 2, 3, 7, 12, 24, 40] {
            drawn(&app, width, height);
        }
    }
    app.status = None;
    assert!(drawn(&app, 20, 6).join(" ").contains("4194304"), "why it is gone is wrapped");
}

#[test]
fn lines_end_with_a_whole_word() {
    let mut app = app(6);
    let mut s = status(6, 102.0);
    s.prediction.fallback = Some("short history: 11 s of 60 s, 10 seconds with writes of 12".into());
    app.take(seen(s, SeriesPart::default()));
    let lines = drawn(&app, 80, 24);
    let line = |name: &str| lines.iter().find(|l| l.starts_with(name)).unwrap().trim_end();
    assert!(line("log ").ends_with("oldest 12 s"), "{lines:#?}");
    assert!(line("backing ").ends_with(" errors"), "{lines:#?}");
    assert!(line("forecast ").ends_with("short history: 11 s of 60 s"), "{lines:#?}");
    assert!(line("p99 ").ends_with(" stalls"), "{lines:#?}");
    assert!(line("writes ").ends_with("▂ ready"), "{lines:#?}");
    assert!(line("q quit").ends_with("arrows 1/6"), "{lines:#?}");
}

#[test]
fn keys_sort_group_scroll_pause_and_quit() {
    let mut app = app(300);
    assert_eq!(app.rows[0].name, "prog299");
    assert_eq!(app.press(Key::Char('s')), None);
    assert_eq!(app.sort, (Column::Dirty, false));
    app.press(Key::Char('r'));
    assert_eq!(app.rows[0].name, "prog0");
    app.press(Key::Rows(isize::MAX));
    assert_eq!(app.top, 299);
    app.press(Key::Char('g'));
    app.press(Key::Char('g'));
    assert_eq!((app.group, app.rows.len(), app.top), (Group::User, 2, 1));
    app.press(Key::Rows(isize::MIN));
    app.press(Key::Char('p'));
    app.take(seen(status(5, 200.0), points(3)));
    assert_eq!((app.top, app.status.as_ref().unwrap().clients.len()), (0, 300), "paused");
    assert!(drawn(&app, 80, 24)[0].contains("PAUSED"));
    app.press(Key::Char(' '));
    app.take(seen(status(5, 201.0), points(3)));
    assert_eq!(app.status.as_ref().unwrap().clients.len(), 5);
    assert_eq!(app.press(Key::Char('f')), Some(Wish::Flush));
    assert_eq!(app.press(Key::Char('x')), None);
    assert_eq!(app.press(Key::Char('q')), Some(Wish::Quit));
}

#[test]
fn colours_are_off_on_demand() {
    let mut app = app(3);
    let coloured = |app: &App| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(app, frame)).unwrap();
        let cells = terminal.backend().buffer().content.iter();
        cells.filter(|c| c.fg != ratatui::style::Color::Reset || c.bg != ratatui::style::Color::Reset).count()
    };
    assert_eq!(coloured(&app), 0);
    app.paint = Paint::with(true);
    assert!(coloured(&app) > 20);
}

#[test]
fn amounts_stay_short() {
    for (n, want) in [
        (0, "0"),
        (999, "999"),
        (1000, "1.0K"),
        (12_345_678, "11.8M"),
        (1 << 40, "1.0T"),
        (u64::MAX, "16384P"),
    ] {
        assert_eq!(short(n), want);
    }
    assert!((0..64).all(|b| short(1 << b).len() <= 6));
}
