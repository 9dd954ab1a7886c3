//! F7: the command line. `args` (raw) -> `resolve` (all checks, one Config) -> one file a verb.

mod args;
mod args_control;
mod args_undo;
mod bench_floor;
mod checks;
mod completions;
mod dump;
mod examples;
mod flush;
mod fsck;
mod gateway;
mod logging;
mod man;
mod mount;
mod options;
mod output;
mod print_config;
mod progress;
mod queue;
mod report;
mod resolve;
mod set;
mod status;
mod top;
mod trace;
mod umount;
mod undo;
mod units;
mod version;

use crate::control::{Engine, Verdict};
use args::{Cli, Verb};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use std::ffi::OsString;
use std::process::ExitCode;

/// Exit code of a failed mount when called as mount(8)'s helper.
const HELPER_MOUNT_FAILED: u8 = 32;

/// The program: parses the command line, runs the verb, says how it ended.
pub fn main(engine: &dyn Engine) -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let helper = args::from_helper(&argv);
    let as_mount_helper = helper.as_ref().is_some_and(|h| h[1] == "mount");
    let argv = helper.unwrap_or(argv);
    let code = match Cli::try_parse_from(&argv) {
        Ok(cli) => finish(run(cli.verb, &argv, engine)),
        Err(e) => explain(&e),
    };
    match code {
        0 => ExitCode::SUCCESS,
        _ if as_mount_helper => ExitCode::from(HELPER_MOUNT_FAILED),
        code => ExitCode::from(code),
    }
}

fn run(verb: Verb, argv: &[OsString], engine: &dyn Engine) -> Verdict {
    match verb {
        Verb::Mount(args) => mount::run(&args, argv, engine),
        Verb::Umount(args) => umount::run(&args),
        Verb::Flush(args) => flush::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Top(args) => top::run(&args),
        Verb::Report(args) => report::run(&args),
        Verb::Set(args) => set::run(&args, engine),
        Verb::Queue(args) => queue::run(&args),
        Verb::Versions(args) => undo::run_versions(&args),
        Verb::Undo(args) => undo::run(&args),
        Verb::Fsck(args) => fsck::run(&args, engine),
        Verb::Dump(args) => dump::run(&args, engine),
        Verb::Trace(args) => trace::run(&args, engine),
        Verb::Completions(args) => completions::run(&args),
        Verb::Man(args) => man::run(&args),
        Verb::BenchFloor(args) => bench_floor::run(&args),
    }
}

/// Success is quiet; anything else says one line.
fn finish(verdict: Verdict) -> u8 {
    if verdict.code != 0 && !verdict.message.is_empty() {
        eprintln!("forelog: {}", verdict.message);
    }
    verdict.code
}

/// What clap has to say. Help goes to stdout with code 0; an unknown verb is one line, code 1.
fn explain(e: &clap::Error) -> u8 {
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => finish(output::print(&e.render().to_string())),
        ErrorKind::InvalidSubcommand => {
            let verb = match e.get(ContextKind::InvalidSubcommand) {
                Some(ContextValue::String(verb)) => verb.as_str(),
                _ => "",
            };
            let verbs: Vec<String> =
                Cli::command().get_subcommands().map(|c| c.get_name().to_string()).collect();
            let names: Vec<&str> = verbs.iter().map(String::as_str).collect();
            let near = options::suggestion(verb, &names);
            let hint = if near.is_empty() { "; see `forelog --help`" } else { near.as_str() };
            eprintln!("forelog: unknown verb '{verb}'{hint}");
            1
        }
        _ => {
            eprint!("{}", e.render());
            1
        }
    }
}
