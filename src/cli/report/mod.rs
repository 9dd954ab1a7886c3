//! `forelog report`: plots of a running gateway, a kept history or a trace, in one page that needs nothing else.

mod kept;
mod live;

use super::{gateway, output};
use crate::control::Verdict;
use crate::sys::{files, paths};
use clap::Args;
use std::path::{Path, PathBuf};

/// The kept history, in a log directory.
const HISTORY: &str = "history";

#[derive(Debug, Args)]
#[command(after_help = crate::cli::examples::REPORT)]
pub struct ReportArgs {
    /// Where it is mounted; or a log directory with its kept history, or a trace
    #[arg(value_name = "MOUNTPOINT|HISTORY")]
    pub source: PathBuf,
    /// Where the page goes
    #[arg(short, long, value_name = "FILE.html")]
    pub output: PathBuf,
}

/// Runs the verb.
pub fn run(args: &ReportArgs) -> Verdict {
    match page(&args.source).and_then(|page| write(&args.output, &page)) {
        Ok(()) => output::print(&format!("{}\n", args.output.display())),
        Err(verdict) => verdict,
    }
}

fn page(source: &Path) -> Result<String, Verdict> {
    let shown = source.display();
    let failed = |e: String| Verdict::refused(format!("{shown}: {e}"));
    let located = gateway::find(source)?;
    // A mount is never touched but through its gateway: it may hang.
    if located.mount.is_some() || located.place.as_ref().is_some_and(|p| paths::exists(&p.socket)) {
        let status = gateway::status(source)?;
        let seconds = gateway::reach(source)?.series(false, 0).map_err(failed)?;
        let minutes = gateway::reach(source)?.series(true, 0).map_err(failed)?;
        return live::page(&status, &seconds, &minutes).map_err(failed);
    }
    let file = if paths::exists(&source.join(HISTORY)) { source.join(HISTORY) } else { source.to_owned() };
    let bytes = match files::read(&file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::IsADirectory => {
            return Err(failed(
                "no forelog is mounted there, and it is no log directory with a history".into(),
            ));
        }
        Err(e) => return Err(failed(e.to_string())),
    };
    let title = name_of(&file);
    match kept::is_history(&bytes) {
        true => kept::history(&title, &bytes),
        false => kept::trace(&title, &bytes),
    }
    .map_err(failed)
}

fn name_of(file: &Path) -> String {
    let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match name(file).as_str() {
        HISTORY => format!("{} of {}", HISTORY, file.parent().map(name).unwrap_or_default()),
        other => other.to_owned(),
    }
}

/// Replaces a file, and nothing but a file: a device or pipe of that name stays what it is.
fn write(path: &Path, page: &str) -> Result<(), Verdict> {
    let failed = |e: &dyn std::fmt::Display| Verdict::refused(format!("{}: {e}", path.display()));
    if paths::exists(path) && !files::is_regular(path) {
        return Err(failed(&"it is no regular file; name another"));
    }
    files::write_atomic(path, page.as_bytes(), 0o644).map_err(|e| failed(&e))
}
