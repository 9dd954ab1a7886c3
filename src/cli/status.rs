//! `forelog status`.

use super::args::StatusArgs;
use super::{gateway, output};
use crate::control::Verdict;
use crate::control::render::render;

/// Runs the verb.
pub fn run(args: &StatusArgs) -> Verdict {
    match gateway::status(&args.mountpoint) {
        Ok(status) if args.json => output::print(&(status.to_json() + "\n")),
        Ok(status) => output::print(&render(&status)),
        Err(verdict) => verdict,
    }
}
