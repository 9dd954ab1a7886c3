//! `trace replay` behind the command line.

use crate::control::{Replay, Train};
use crate::predict::models::lstm::{self, Lstm};
use crate::predict::models::{NAIVE, POOL};
use crate::replay::{self, ReplayOptions, Trace};
use crate::sys::{clock, files};
use std::path::Path;
use std::sync::OnceLock;

/// Names of all policies.
pub fn policies() -> &'static [&'static str] {
    static ALL: OnceLock<Vec<&'static str>> = OnceLock::new();
    ALL.get_or_init(replay::all_policies)
}

/// What `--predict` takes beside `auto` and `off`.
pub fn models() -> &'static [&'static str] {
    static ALL: OnceLock<Vec<&'static str>> = OnceLock::new();
    ALL.get_or_init(|| ["leader", "fixed-share"].iter().chain(&POOL).chain(&NAIVE).copied().collect())
}

const LSTM: &str = "lstm";

/// Trains the LSTM on a trace and keeps its weights. Errors: one line for people.
pub fn train(t: &Train, progress: &mut dyn FnMut(String)) -> Result<String, String> {
    let file = t.file.display();
    let trace = load(&t.file)?;
    let options = ReplayOptions { horizon_ns: t.horizon.as_nanos() as u64, ..ReplayOptions::default() };
    let series = replay::series(&trace, &options).map_err(|e| format!("{file}: {e}"))?;
    let each = |e: lstm::Epoch| {
        let [q50, q95, q99] = e.coverage.map(|c| 100.0 * c);
        progress(format!(
            "epoch {:>4}  loss {:.5}  held out {:.5}, covered {q50:.1} / {q95:.1} / {q99:.1} %",
            e.number, e.loss, e.held_out_loss
        ));
    };
    let model = lstm::train(&series, t.epochs, each)
        .ok_or_else(|| format!("{file}: {:.0} s are too short to train on", trace.seconds()))?;
    let weights = t.weights.display();
    files::write_atomic(&t.weights, &model.save(), 0o644).map_err(|e| format!("{weights}: {e}"))?;
    Ok(format!("{weights}: weights of {} ticks", series.len()))
}

fn load(path: &Path) -> Result<Trace, String> {
    let file = path.display();
    let bytes = files::read(path).map_err(|e| format!("{file}: {e}"))?;
    Trace::parse(&bytes).map_err(|e| format!("{file}: {e}"))
}

fn weights(path: &Path) -> Result<(String, Vec<u8>), String> {
    let bytes = files::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    match Lstm::load(&bytes) {
        Some(_) => Ok((LSTM.into(), bytes)),
        None => Err(format!("{}: no weights this program can use; `trace train` makes them", path.display())),
    }
}

/// Plays a trace; text or JSON. Errors: one line for people.
pub fn run(r: &Replay) -> Result<String, String> {
    let file = r.file.display();
    let trace = load(&r.file)?;
    if let Some(wrong) = r.without.iter().find(|w| !POOL[1..].contains(&w.as_str())) {
        return Err(format!("--without {wrong}: use any of {}", POOL[1..].join(", ")));
    }
    let options = ReplayOptions {
        horizon_ns: r.horizon.as_nanos() as u64,
        alloc_ms: r.alloc_ms,
        alloc_ms_per_mib: r.alloc_ms_per_mib,
        policies: r.policies.clone(),
        without: r.without.clone(),
        weights: r.weights.as_deref().map(weights).transpose()?.into_iter().collect(),
        ..ReplayOptions::default()
    };
    let report = replay::replay(&trace, &options, &*clock::real()).map_err(|e| format!("{file}: {e}"))?;
    if let Some(page) = &r.html {
        let title = r.file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let shown = page.display();
        let html = replay::page(&title, &report).map_err(|e| format!("{shown}: {e}"))?;
        files::write_atomic(page, html.as_bytes(), 0o644).map_err(|e| format!("{shown}: {e}"))?;
    }
    if r.json {
        serde_json::to_string(&report).map_err(|e| format!("{file}: writing JSON failed: {e}"))
    } else {
        Ok(report.to_string())
    }
}
