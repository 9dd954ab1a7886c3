//! The progress of a drain: a bar on a terminal, else a line each 5 s.

use crate::control::Progress;
use crate::control::render::{bytes, seconds};
use crate::sys::clock::{Clock, RealClock};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};

/// Time between plain lines.
const LINE_EVERY_NS: u64 = 5_000_000_000;

/// Shows progress on stderr.
pub enum Shown {
    Quiet,
    /// Made at the first progress, so that a quick verb draws nothing.
    Bar {
        bar: Option<ProgressBar>,
        most_bytes: u64,
    },
    Lines {
        last_ns: u64,
    },
}

impl Shown {
    /// Chooses how.
    pub fn new(quiet: bool) -> Shown {
        match quiet {
            true => Shown::Quiet,
            false if stderr().is_terminal() => Shown::Bar { bar: None, most_bytes: 0 },
            false => Shown::Lines { last_ns: RealClock.monotonic_ns() },
        }
    }

    /// Takes one step.
    pub fn update(&mut self, p: Progress) {
        match self {
            Shown::Quiet => {}
            Shown::Bar { bar, most_bytes } => {
                // What is left can grow while programs still write.
                *most_bytes = p.bytes_left.max(*most_bytes);
                let bar = bar.get_or_insert_with(|| new_bar(*most_bytes, describe(&p)));
                bar.set_length(*most_bytes);
                bar.set_message(describe(&p));
                bar.set_position(*most_bytes - p.bytes_left);
            }
            Shown::Lines { last_ns } => {
                let now_ns = RealClock.monotonic_ns();
                if now_ns.saturating_sub(*last_ns) >= LINE_EVERY_NS {
                    *last_ns = now_ns;
                    eprintln!("forelog: {}", describe(&p));
                }
            }
        }
    }

    /// Clears the bar, so that the last word stands alone.
    pub fn finish(self) {
        if let Shown::Bar { bar: Some(bar), .. } = self {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(length: u64, message: String) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {msg}").expect("the template is well-formed");
    ProgressBar::new(length).with_style(style).with_message(message)
}

fn describe(p: &Progress) -> String {
    let eta = p.eta_seconds.filter(|e| e.is_finite()).map(|e| format!(", ETA {}", seconds(e)));
    let rate = match p.bytes_per_second {
        0 => String::new(),
        n => format!(", {}/s", bytes(n)),
    };
    let plural = if p.files_left == 1 { "" } else { "s" };
    format!("{} in {} file{plural} left{rate}{}", bytes(p.bytes_left), p.files_left, eta.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_left() {
        let p = Progress {
            bytes_left: 3 << 20,
            files_left: 2,
            bytes_per_second: 1 << 20,
            eta_seconds: Some(3.0),
        };
        assert_eq!(describe(&p), "3.0 MiB in 2 files left, 1.0 MiB/s, ETA 3.0 s");
        let p = Progress { files_left: 1, eta_seconds: Some(f64::INFINITY), ..Progress::default() };
        assert_eq!(describe(&p), "0 B in 1 file left");
        for mut shown in
            [Shown::new(true), Shown::Bar { bar: None, most_bytes: 0 }, Shown::Lines { last_ns: 0 }]
        {
            shown.update(p);
            shown.update(Progress { bytes_left: 5, ..p });
            shown.finish();
        }
    }
}
