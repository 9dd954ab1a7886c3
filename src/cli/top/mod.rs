//! `forelog top`: on a terminal a live view, else text or JSON.

mod app;
mod fetch;
mod fit;
mod paint;
mod plain;
mod plot;
mod rows;
mod view;

use super::options::usage;
use super::units;
use crate::control::Verdict;
use crate::sys::signal::{SignalThread, stop_self};
use crate::sys::worker;
use app::{App, Key, Wish};
use clap::Args;
use fetch::{Fetcher, News};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::{self, IsTerminal, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a key, a signal or a changed size may wait to be seen.
const LOOK: Duration = Duration::from_millis(100);

/// After so many of them a signal ends the process, whatever it is doing.
const GRACE_LOOKS: u32 = 10;

#[derive(Debug, Args)]
#[command(after_help = crate::cli::examples::TOP)]
pub struct TopArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
    /// One view as text, then exit
    #[arg(long)]
    pub once: bool,
    /// A line of JSON each interval, as `status --json` has it; with --once a single one
    #[arg(long)]
    pub json: bool,
    /// How often the gateway is asked
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = units::duration)]
    pub interval: Duration,
}

/// Runs the verb.
pub fn run(args: &TopArgs) -> Verdict {
    if args.interval < Duration::from_millis(50) || args.interval > Duration::from_secs(3600) {
        return usage("--interval: not between 50ms and 1h");
    }
    match stdout().is_terminal() && !args.once && !args.json {
        true => live(args).unwrap_or_else(|verdict| verdict),
        false => plain::run(args),
    }
}

fn live(args: &TopArgs) -> Result<Verdict, Verdict> {
    let failed = |e: io::Error| Verdict::refused(format!("the terminal cannot be used: {e}"));
    // Without a gateway now the terminal stays as it is.
    let mut fetcher = Fetcher::start(&args.mountpoint, args.interval)?;
    let (stop, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (stopped, ended) = (stop.clone(), over.clone());
    let _signals = SignalThread::start(move |_| {
        stopped.store(true, Ordering::Release);
        // Whoever waits for a terminal that is gone may never come back to look.
        for _ in 0..GRACE_LOOKS {
            if ended.load(Ordering::Acquire) {
                return;
            }
            worker::sleep(LOOK);
        }
        std::process::exit(1);
    })
    .map_err(failed)?;
    let mut app = App::new(paint::Paint::of_environment());
    // Also puts the terminal back when a panic comes.
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let outcome = follow(&mut terminal, &mut app, &mut fetcher, &stop);
    over.store(true, Ordering::Release);
    ratatui::try_restore().map_err(failed)?;
    outcome.map_err(failed)?;
    Ok(Verdict::done(""))
}

/// Draws until the user or a signal ends it.
fn follow(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    fetcher: &mut Fetcher,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut stale = true;
    while !stop.load(Ordering::Acquire) {
        loop {
            match fetcher.next() {
                Ok(Some(news)) => {
                    app.take(news);
                    stale = true;
                }
                Ok(None) => break,
                Err(()) => return Err(io::Error::other("the thread that asks the gateway ended")),
            }
        }
        if std::mem::take(&mut stale) {
            terminal.draw(|frame| view::draw(app, frame))?;
        }
        if !event::poll(LOOK)? {
            continue;
        }
        stale = true;
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let key = match key.code {
            KeyCode::Char('c') if control => Key::Char('q'),
            KeyCode::Char('z') if control => {
                ratatui::try_restore()?;
                stop_self()?;
                *terminal = ratatui::try_init()?;
                continue;
            }
            KeyCode::Char('l') if control => {
                terminal.clear()?;
                continue;
            }
            KeyCode::Char(c) => Key::Char(c),
            KeyCode::Esc => Key::Char('q'),
            KeyCode::Up => Key::Rows(-1),
            KeyCode::Down => Key::Rows(1),
            KeyCode::PageUp => Key::Rows(-10),
            KeyCode::PageDown => Key::Rows(10),
            KeyCode::Home => Key::Rows(isize::MIN),
            KeyCode::End => Key::Rows(isize::MAX),
            _ => continue,
        };
        match app.press(key) {
            Some(Wish::Quit) => return Ok(()),
            Some(Wish::Flush) => match fetcher.flush() {
                Ok(()) => app.take(News::Flush("flushing".into())),
                Err(e) => app.take(News::Flush(format!("cannot flush: {e}"))),
            },
            None => {}
        }
    }
    Ok(())
}
