//! `forelog queue`: what waits for the backing, and sending something first.

use super::args_control::{QueueArgs, QueueVerb};
use super::flush::inside;
use super::gateway::{find, reach};
use super::output;
use crate::control::Verdict;
use crate::control::protocol::{Reply, Request};
use crate::control::queue::{QueueEntry, QueueView};
use crate::control::render::{bytes, seconds};
use std::time::Duration;

/// The answer never waits for the backing.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs the verb.
pub fn run(args: &QueueArgs) -> Verdict {
    attempt(args).unwrap_or_else(|verdict| verdict)
}

fn attempt(args: &QueueArgs) -> Result<Verdict, Verdict> {
    let shown = args.mountpoint.display();
    let request = match &args.what {
        None => Request::Queue { limit: args.limit },
        Some(QueueVerb::Bump { path }) => {
            let path = inside(&find(&args.mountpoint)?.mountpoint, path).map_err(Verdict::refused)?;
            Request::Bump { path }
        }
    };
    let reply = reach(&args.mountpoint)?.call(&request, Some(LIMIT), &mut |_| ());
    match reply.map_err(|e| Verdict::refused(format!("{shown}: {e}")))? {
        Reply::Queue(view) if args.json => {
            let text = serde_json::to_string(&*view).expect("texts, numbers and options always serialise");
            Ok(output::print(&(text + "\n")))
        }
        Reply::Queue(view) => Ok(output::print(&text(&view))),
        Reply::Done { message, .. } => Ok(output::print(&output::line(message))),
        Reply::Refused { code, message, .. } => Err(Verdict { code, message }),
        _ => Err(Verdict::refused(format!("{shown}: the gateway gave no answer"))),
    }
}

fn text(v: &QueueView) -> String {
    if v.files == 0 {
        return "nothing waits: all is in the backing\n".into();
    }
    let mut out = format!(
        "{} files and directories wait, {}, the oldest for {}; {} on their way, {} failed\n",
        v.files,
        bytes(v.bytes),
        seconds(v.oldest_seconds),
        v.uploading,
        v.failed
    );
    if let Some(note) = &v.note {
        out += &format!("{note}\n");
    }
    if v.entries.is_empty() {
        return out;
    }
    out += &format!("{:>11} {:>8}  {:<11} path\n", "bytes", "age", "state");
    v.entries.iter().for_each(|e| out += &line(e));
    match v.files.saturating_sub(v.entries.len() as u64) {
        0 => out,
        more => out + &format!("and {more} more; --limit shows others\n"),
    }
}

fn line(e: &QueueEntry) -> String {
    let wait = e.wait_seconds.map(|w| format!("in {}", seconds(w)));
    let why: Vec<String> =
        e.first.then(|| "first".to_owned()).into_iter().chain(e.reason.clone()).chain(wait).collect();
    let why = if why.is_empty() { String::new() } else { format!("  ({})", why.join("; ")) };
    format!("{:>11} {:>8}  {:<11} {}{why}\n", bytes(e.bytes), seconds(e.age_seconds), e.state.name(), e.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::queue::Waits;

    #[test]
    fn one_line_each() {
        let failed = QueueEntry {
            path: "a\\nb".into(),
            bytes: 2048,
            age_seconds: 70.0,
            state: Waits::Failed,
            reason: Some("no space".into()),
            wait_seconds: Some(3.0),
            first: true,
        };
        let mut v = QueueView { files: 3, entries: vec![failed], ..QueueView::default() };
        let shown = text(&v);
        assert!(shown.ends_with(
            "\n    2.0 KiB   1m 10s  failed      a\\nb  (first; no space; in 3.0 s)\nand 2 more; --limit shows others\n"
        ), "{shown}");
        assert_eq!(shown.lines().count(), 4);
        v.files = 0;
        assert_eq!(text(&v), "nothing waits: all is in the backing\n");
    }
}
