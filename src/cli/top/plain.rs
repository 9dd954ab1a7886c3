//! `forelog top` where there is no terminal: text, or a line of JSON, each interval.

use super::TopArgs;
use crate::cli::{gateway, output};
use crate::control::Verdict;
use crate::control::render::{bytes, render};
use crate::control::status::Status;
use crate::sys::worker;
use std::io::{Write, stdout};

/// Writes until the reader or the gateway goes away; with `--once` a single time.
pub fn run(args: &TopArgs) -> Verdict {
    let mut last: Option<Status> = None;
    loop {
        let status = match gateway::status(&args.mountpoint) {
            Ok(status) => status,
            Err(verdict) => return verdict,
        };
        let text = if args.json { status.to_json() } else { view(&status, last.as_ref()) };
        let mut out = stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) if !args.once => {}
            ended => return output::ended(ended),
        }
        drop(out);
        last = Some(status);
        worker::sleep(args.interval);
    }
}

fn view(now: &Status, last: Option<&Status>) -> String {
    let mut text = render(now);
    if let Some(last) = last {
        let span = (now.uptime_seconds - last.uptime_seconds).max(0.001);
        let rate = |n: u64, l: u64| n.saturating_sub(l) as f64 / span;
        let (write, read, fsync) = (&now.requests.write, &now.requests.read, &now.requests.fsync);
        let (write_l, read_l, fsync_l) = (&last.requests.write, &last.requests.read, &last.requests.fsync);
        text.push_str(&format!(
            "  now        {:.0} writes/s, {}/s; {:.0} reads/s, {}/s; {:.0} fsyncs/s\n",
            rate(write.count, write_l.count),
            bytes(rate(write.bytes, write_l.bytes) as u64),
            rate(read.count, read_l.count),
            bytes(rate(read.bytes, read_l.bytes) as u64),
            rate(fsync.count, fsync_l.count)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_of_uptime() {
        let last = Status::default();
        let mut now = Status { uptime_seconds: 2.0, ..Status::default() };
        now.requests.write.count = 20;
        now.requests.write.bytes = 4096;
        assert!(view(&now, Some(&last)).contains("10 writes/s, 2.0 KiB/s;"));
        assert!(!view(&now, None).contains("writes/s"));
    }
}
