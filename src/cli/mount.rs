//! `forelog mount`: in front, or by a child that goes on in the background.

use super::args::MountArgs;
use super::logging;
use super::print_config;
use super::resolve::{Resolved, resolve};
use crate::config::Config;
use crate::control::{Engine, Verdict};
use crate::sys::daemon::{Background, Ready, Word, leave_directory};
use crate::sys::{fstype, mounts, paths};
use std::ffi::OsString;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

/// The mount said that it answers; a stat of it is given this long.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A mount that takes longer says why, to a person.
const SLOW_AFTER: Duration = Duration::from_secs(3);

/// Runs the verb. `argv` is what the child in the background is started with.
pub fn run(args: &MountArgs, argv: &[OsString], engine: &dyn Engine) -> Verdict {
    // Taken first: whatever fails from here on, the waiting parent hears of it.
    let child = match args.background_child.then(Ready::background).transpose() {
        Ok(child) => child,
        Err(e) => {
            return Verdict { code: 1, message: format!("--background-child is not for use by hand: {e}") };
        }
    };
    let env = |name: &str| std::env::var(name).ok();
    if args.print_config && child.is_none() {
        return print_config::run(args, env, &engine.abilities());
    }
    let resolved = resolve(args, env, &engine.abilities()).and_then(|r| prepare(&r.config).map(|()| r));
    let Resolved { config, foreground, notes } = match resolved {
        Ok(resolved) => resolved,
        Err(verdict) => {
            if let Some(ready) = child {
                ready.failed(verdict.code, &verdict.message);
            }
            return verdict;
        }
    };
    if args.fake {
        return Verdict::done("");
    }
    match child {
        Some(ready) => {
            logging::init(config.log_level);
            if let Err(e) = leave_directory() {
                log::warn!("cannot leave the starting directory: {e}");
            }
            serve(config, ready, &notes, engine)
        }
        None if foreground => {
            logging::init(config.log_level);
            serve(config, Ready::foreground(), &notes, engine)
        }
        None => {
            for note in &notes {
                eprintln!("forelog: note: {note}");
            }
            start(&config, argv).unwrap_or_else(|verdict| verdict)
        }
    }
}

/// Makes the log directory, for us alone.
fn prepare(config: &Config) -> Result<(), Verdict> {
    let dir = &config.log_dir;
    paths::make_dirs(dir, 0o700)
        .and_then(|()| paths::probe_writable(dir))
        .map_err(|e| Verdict::refused(format!("log directory {}: {e}", dir.display())))
}

/// Serves in this process until the mount has ended.
fn serve(config: Config, ready: Ready, notes: &[String], engine: &dyn Engine) -> Verdict {
    let shown = config.mountpoint.display().to_string();
    log::info!("forelog {}: {} on {shown}", env!("CARGO_PKG_VERSION"), config.backing);
    for note in notes {
        log::warn!("{note}");
    }
    let verdict = engine.run_mount(config, ready.clone());
    if !ready.has_spoken() {
        let (code, message) = match verdict.code {
            0 => (2, format!("{shown}: the mount ended before it answered")),
            code => (code, verdict.message),
        };
        ready.failed(code, &message);
        return Verdict { code, message };
    }
    log::info!(
        "{shown}: ended with code {}{}{}",
        verdict.code,
        if verdict.message.is_empty() { "" } else { ": " },
        verdict.message
    );
    verdict
}

/// Starts the child and waits until its mount answers.
fn start(config: &Config, argv: &[OsString]) -> Result<Verdict, Verdict> {
    let log = paths::open_log(&config.log_file, logging::ROTATE_BYTES)
        .map_err(|e| Verdict::refused(format!("log file {}: {e}", config.log_file.display())))?;
    let failed = |e: std::io::Error| Verdict::refused(format!("cannot start the gateway: {e}"));
    // The verb comes first in every form the command line is taken in.
    let mut args: Vec<OsString> = argv[1..2].to_vec();
    args.push("--background-child".into());
    args.extend_from_slice(&argv[2..]);
    let child = Background::start(&args, log).map_err(failed)?;
    let slow = || {
        if stderr().is_terminal() {
            eprintln!("forelog: the log is being replayed; see {}", config.log_file.display());
        }
    };
    match child.wait(SLOW_AFTER, slow).map_err(failed)? {
        Word::Mounted => verify(config),
        Word::Failed { code, message } => Err(Verdict { code, message }),
        Word::Died(how) => Err(Verdict::refused(format!(
            "the gateway died before the mount answered ({how}); see {}",
            config.log_file.display()
        ))),
    }
}

/// Asks the mount itself, as the next program would.
fn verify(config: &Config) -> Result<Verdict, Verdict> {
    let mountpoint = &config.mountpoint;
    let trouble = match fstype::probe(mountpoint, ANSWER_LIMIT) {
        fstype::Probe::Answers => match mounts::at(mountpoint) {
            Ok(None) => "nothing is mounted there (another mount namespace?)".to_string(),
            _ => return Ok(Verdict::done("")),
        },
        fstype::Probe::Dead => "the gateway died at once".to_string(),
        fstype::Probe::Hangs => format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
        fstype::Probe::Fails(e) => e,
    };
    Err(Verdict::refused(format!("{}: {trouble}; see {}", mountpoint.display(), config.log_file.display())))
}
