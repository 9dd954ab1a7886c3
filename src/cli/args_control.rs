//! The command lines of `set` and `queue`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

const SET_EXAMPLES: &str = "\
All keys are checked before any is changed. What is set here is for this mount; the next one begins
with its flags and config file again.

Examples:
  forelog set /data                                     # what can be set, and how it is now
  forelog set /data upload-limit=20MiB/s                # or none
  forelog set /data writeback-age=5m predict=off
  forelog set /data upload-hours=22:00-06:00 upload-outside=1MiB/s
  forelog set /data log-level=debug";

#[derive(Debug, Args)]
#[command(after_help = SET_EXAMPLES)]
pub struct SetArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
    /// What to change; none: show all
    #[arg(value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// Show them as one line of JSON
    #[arg(long)]
    pub json: bool,
}

const QUEUE_EXAMPLES: &str = "\
Examples:
  forelog queue /data                        # the oldest 50 that wait, and why
  forelog queue /data --limit 1000 --json
  forelog queue /data bump /data/report.pdf  # this file first
  forelog queue /data bump photos            # all that waits below a directory of the mount";

#[derive(Debug, Args)]
#[command(after_help = QUEUE_EXAMPLES)]
pub struct QueueArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
    /// How many are shown, the oldest first
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=2000))]
    pub limit: u32,
    #[command(subcommand)]
    pub what: Option<QueueVerb>,
}

#[derive(Debug, Subcommand)]
pub enum QueueVerb {
    /// Send a file, or all below a directory, before everything else, also outside of the upload hours
    Bump {
        /// A path in the mount
        path: PathBuf,
    },
}
