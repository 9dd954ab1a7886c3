//! `forelog dump`.

use super::args::DumpArgs;
use super::output::Pipe;
use crate::control::{Engine, Verdict};
use std::io::Write;

/// Runs the verb.
pub fn run(args: &DumpArgs, engine: &dyn Engine) -> Verdict {
    let mut out = Pipe::new();
    let dumped = engine
        .dump(&args.log_dir, &mut out)
        .and_then(|()| out.flush().map_err(|e| format!("cannot write to stdout: {e}")));
    match dumped {
        // The reader has seen enough.
        Err(_) if out.broken => Verdict::done(""),
        Err(e) => Verdict::refused(e),
        Ok(()) => Verdict::done(""),
    }
}
