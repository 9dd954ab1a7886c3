//! `forelog completions`.

use super::args::{Cli, CompletionsArgs};
use super::output;
use crate::control::Verdict;
use clap::CommandFactory;
use std::io::{Write, stdout};

/// Runs the verb.
pub fn run(args: &CompletionsArgs) -> Verdict {
    // The generator panics when its sink fails, so it gets one that cannot.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "forelog", &mut script);
    output::ended(stdout().write_all(&script))
}
