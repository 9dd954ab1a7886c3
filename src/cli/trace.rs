//! `forelog trace`.

use super::args::{ReplayArgs, TraceArgs, TraceVerb, TrainArgs};
use super::options::suggestion;
use super::output;
use crate::control::{Engine, Replay, Train, Verdict};

/// Runs the verb.
pub fn run(args: &TraceArgs, engine: &dyn Engine) -> Verdict {
    match &args.what {
        TraceVerb::Record { mountpoint, .. } => Verdict::refused(format!(
            "{}: this build cannot record a trace; `trace replay` takes a CSV of t_us,pid,comm,bytes from any source",
            mountpoint.display()
        )),
        TraceVerb::Replay(args) => replay(args, engine),
        TraceVerb::Train(args) => train(args, engine),
    }
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
    };
    match engine.replay(&replay) {
        Ok(report) => output::print(&output::line(report)),
        Err(e) => Verdict::refused(e),
    }
}
