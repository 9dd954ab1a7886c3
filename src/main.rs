//! The program: the command line over the engine.

use std::process::ExitCode;

fn main() -> ExitCode {
    forelog::cli::main(&forelog::gateway::ForelogEngine)
}
