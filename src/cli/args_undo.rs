//! The command lines of `versions` and `undo`.

use super::units;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

const VERSIONS_EXAMPLES: &str = "\
A mount keeps changes only with --keep-log DURATION.

Examples:
  forelog versions /data/report.txt           # when it changed, how, and by which program
  forelog versions /data/photos --limit 500   # all that is or was below a directory
  forelog versions /data/report.txt --json";

#[derive(Debug, Args)]
#[command(after_help = VERSIONS_EXAMPLES)]
pub struct VersionsArgs {
    /// A path in a mount; it need not exist any more
    pub path: PathBuf,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
    /// How many are shown, the newest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

const UNDO_EXAMPLES: &str = "\
TIME is a moment as 2026-05-01T14:03:00Z, a time of day as 14:03 or 14:03:20, or how long ago as 5m or 2h. All that
waits is first brought to the backing. What did not exist then stays, unless --delete is given. An undo is a change as
any other: it can be undone.

Examples:
  forelog undo /data/report.txt --to 10m
  forelog undo /data/photos --to 14:03 --dry-run       # only say what would be done
  forelog undo /data/photos --to 14:03 --delete        # exactly the tree of that moment
  forelog undo /data/photos --to 14:03 --output /tmp   # write it to /tmp/photos, touch nothing else";

#[derive(Debug, Args)]
#[command(after_help = UNDO_EXAMPLES)]
pub struct UndoArgs {
    /// A path in a mount; it need not exist any more
    pub path: PathBuf,
    /// The moment to go back to
    #[arg(long, value_name = "TIME")]
    pub to: String,
    /// Write what was there into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "delete")]
    pub output: Option<PathBuf>,
    /// Remove what did not exist then
    #[arg(long)]
    pub delete: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Give up waiting for the backing after this
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = units::duration)]
    pub timeout: Duration,
    /// Say only how it ended
    #[arg(short, long)]
    pub quiet: bool,
}
