//! The program's log lines: to stderr, which in the background is the log file. What is written can be changed while it runs.

use crate::config::LogLevel;
use log::{LevelFilter, Log, Metadata, Record};
use std::sync::atomic::{AtomicU8, Ordering};

/// Parts of the program; what others log is told only from `info` on, they tell too much.
const OURS: &str = "forelog";

/// What is chosen, as a number; see `number`.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

struct Lines {
    /// By `RUST_LOG`.
    by_env: env_logger::Logger,
    /// Writes whatever it is given.
    all: env_logger::Logger,
}

fn filter(level: LogLevel) -> Option<LevelFilter> {
    match level {
        LogLevel::Auto => None,
        LogLevel::Error => Some(LevelFilter::Error),
        LogLevel::Warn => Some(LevelFilter::Warn),
        LogLevel::Info => Some(LevelFilter::Info),
        LogLevel::Debug => Some(LevelFilter::Debug),
    }
}

fn number(level: LogLevel) -> u8 {
    LogLevel::NAMES.iter().position(|n| n.1 == level).unwrap_or(0) as u8
}

fn chosen() -> Option<LevelFilter> {
    let n = CHOSEN.load(Ordering::Relaxed);
    filter(LogLevel::NAMES.get(n as usize).map_or(LogLevel::Auto, |n| n.1))
}

/// Whether a line of this level and part is written.
fn passes(level: log::Level, part: &str, most: LevelFilter) -> bool {
    let ours = part == OURS || part.strip_prefix(OURS).is_some_and(|rest| rest.starts_with("::"));
    level <= if ours { most } else { most.min(LevelFilter::Info) }
}

impl Log for Lines {
    fn enabled(&self, m: &Metadata<'_>) -> bool {
        match chosen() {
            Some(most) => passes(m.level(), m.target(), most),
            None => self.by_env.enabled(m),
        }
    }
    fn log(&self, r: &Record<'_>) {
        match chosen() {
            Some(most) if passes(r.level(), r.target(), most) => self.all.log(r),
            Some(_) => {}
            None => self.by_env.log(r),
        }
    }
    fn flush(&self) {
        self.all.flush();
    }
}

fn from_env() -> env_logger::Builder {
    let mut b = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    b.format_timestamp_millis();
    b
}

/// Starts logging.
pub fn init(level: LogLevel) {
    let mut all = env_logger::Builder::new();
    let all = all.format_timestamp_millis().filter_level(LevelFilter::Trace).build();
    // A second start, as tests do, keeps the first.
    log::set_boxed_logger(Box::new(Lines { by_env: from_env().build(), all })).ok();
    set(level);
}

/// Changes what is written, at once.
pub fn set(level: LogLevel) {
    CHOSEN.store(number(level), Ordering::Relaxed);
    log::set_max_level(filter(level).unwrap_or_else(|| from_env().build().filter()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    #[test]
    fn ours_down_to_what_is_chosen_others_down_to_info() {
        for (part, level, most, want) in [
            ("forelog::writeback", Level::Debug, LevelFilter::Debug, true),
            ("forelog", Level::Debug, LevelFilter::Info, false),
            ("rustls::client", Level::Debug, LevelFilter::Debug, false),
            ("forelogger", Level::Debug, LevelFilter::Debug, false),
            ("rustls::client", Level::Info, LevelFilter::Debug, true),
            ("rustls::client", Level::Info, LevelFilter::Warn, false),
        ] {
            assert_eq!(passes(level, part, most), want, "{part} {level} {most}");
        }
        for (n, (_, level)) in LogLevel::NAMES.iter().enumerate() {
            assert_eq!(number(*level) as usize, n);
        }
    }
}
