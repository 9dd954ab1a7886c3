//! `forelog trace`.

use super::args::{RecordArgs, ReplayArgs, TraceArgs, TraceVerb, TrainArgs};
use super::options::suggestion;
use super::{gateway, output};
use crate::control::protocol::Reply;
use crate::control::render::bytes;
use crate::control::{Engine, Replay, Train, Verdict};
use crate::history::recording::Recorder;
use crate::sys::clock::{Clock, RealClock};
use crate::sys::files;
use crate::sys::signal::SignalThread;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs the verb.
pub fn run(args: &TraceArgs, engine: &dyn Engine) -> Verdict {
    match &args.what {
        TraceVerb::Record(args) => record(args).unwrap_or_else(|refused| refused),
        TraceVerb::Replay(args) => replay(args, engine),
        TraceVerb::Train(args) => train(args, engine),
    }
}

/// What a recording came to.
#[derive(Default)]
struct Tally {
    events: u64,
    writes: u64,
    bytes: u64,
    lost: u64,
}

fn record(args: &RecordArgs) -> Result<Verdict, Verdict> {
    let shown = args.file.display();
    let failed = |e: io::Error| Verdict::refused(format!("{shown}: {e}"));
    let mut gateway = gateway::reach(&args.mountpoint)?;
    let out = match files::create_new(&args.file, 0o600) {
        Ok(f) => BufWriter::new(f),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Verdict::refused(format!(
                "{shown}: it is there already; remove it, or name another file"
            )));
        }
        Err(e) => return Err(failed(e)),
    };
    let packed = is_packed(&args.file);
    let out = if packed { Out::Packed(GzEncoder::new(out, Compression::default())) } else { Out::Plain(out) };
    let key = files::random_u128().map_err(failed)?;
    let mut recorder = Recorder::new(out, key).map_err(failed)?;
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    let _signals = SignalThread::start(move |_| asked.store(true, Ordering::Release)).map_err(failed)?;
    let begin_ns = RealClock.monotonic_ns();
    let mut spent_ns = 0;
    let (mut tally, mut trouble) = (Tally::default(), None);
    let last = gateway.record(&mut |batch| {
        let mut write = || {
            for s in batch.samples() {
                tally.events += 1;
                tally.writes += s.is_write() as u64;
                tally.bytes += s.bytes as u64;
                recorder.add(&s)?;
            }
            tally.lost += batch.lost;
            recorder.add_lost(batch.lost)?;
            // What is there can be read, whatever becomes of us.
            if packed { Ok(()) } else { recorder.flush() }
        };
        trouble = write().err();
        spent_ns = RealClock.monotonic_ns() - begin_ns;
        let over = args.for_.is_some_and(|d| u128::from(spent_ns) >= d.as_nanos());
        trouble.is_none() && !over && !stop.load(Ordering::Acquire)
    });
    if let Some(e) = trouble {
        return Err(failed(e));
    }
    recorder.finish().and_then(Out::end).map_err(failed)?;
    let said = format!(
        "{shown}: {} events, {} writes, {} in {:.1} s",
        tally.events,
        tally.writes,
        bytes(tally.bytes),
        spent_ns as f64 / 1e9
    );
    let lost = match tally.lost {
        0 => String::new(),
        n => format!("; {n} more came too fast"),
    };
    match last {
        Ok(Some(Reply::Refused { code, message, .. })) => Err(Verdict { code, message }),
        Ok(_) => Ok(output::print(&output::line(said + &lost))),
        Err(e) => Err(Verdict::refused(format!("{}: {e}; {said}{lost}", args.mountpoint.display()))),
    }
}

/// The file, as it is or packed.
enum Out<W: Write> {
    Plain(W),
    Packed(GzEncoder<W>),
}

impl<W: Write> Out<W> {
    fn end(self) -> io::Result<()> {
        match self {
            Out::Plain(mut out) => out.flush(),
            Out::Packed(out) => out.finish()?.flush(),
        }
    }
}

impl<W: Write> Write for Out<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Out::Plain(out) => out.write(buf),
            Out::Packed(out) => out.write(buf),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Out::Plain(out) => out.flush(),
            Out::Packed(out) => out.flush(),
        }
    }
}

fn is_packed(file: &Path) -> bool {
    file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"))
}

fn train(args: &TrainArgs, engine: &dyn Engine) -> Verdict {
    let train = Train {
        file: args.file.clone(),
        weights: args.output.clone(),
        epochs: args.epochs,
        horizon: args.horizon,
    };
    // A pipe that closed early ends the lines, not the training.
    let said = engine.train(&train, &mut |line| drop(output::print(&output::line(line))));
    said.map_or_else(Verdict::refused, |report| output::print(&output::line(report)))
}

fn replay(args: &ReplayArgs, engine: &dyn Engine) -> Verdict {
    let known = engine.abilities().policies;
    if let Some(wrong) = args.policy.iter().find(|p| !known.is_empty() && !known.contains(&p.as_str())) {
        let near = suggestion(wrong, known);
        return Verdict { code: 1, message: format!("--policy {wrong}: no such policy{near}") };
    }
    let replay = Replay {
        file: args.file.clone(),
        policies: args.policy.clone(),
        horizon: args.horizon,
        alloc_ms: args.alloc_ms,
        alloc_ms_per_mib: args.alloc_ms_per_mib,
        without: args.without.clone(),
        weights: args.weights.clone(),
        json: args.json,
        html: args.html.clone(),
    };
    match engine.replay(&replay) {
        Ok(report) => output::print(&output::line(report)),
        Err(e) => Verdict::refused(e),
    }
}
