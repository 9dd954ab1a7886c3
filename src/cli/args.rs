//! The command line, raw: `resolve` gives it meaning.

use super::args_control::{QueueArgs, SetArgs};
use super::args_undo::{UndoArgs, VersionsArgs};
use super::bench_floor::BenchFloorArgs;
use super::examples;
use super::options::{KEYS, Settings};
use super::report::ReportArgs;
use super::top::TopArgs;
use super::units;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// A local, crash-safe, predictive write-ahead log in front of a slow directory or a bucket
#[derive(Debug, Parser)]
#[command(name = "forelog", version, long_version = super::version::long(), after_help = examples::PROGRAM)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Mount a backing directory or bucket
    Mount(Box<MountArgs>),
    /// Drain the log into the backing and unmount
    Umount(UmountArgs),
    /// Wait until all written before is in the backing
    Flush(FlushArgs),
    /// Show what a gateway is doing
    Status(StatusArgs),
    /// Show a gateway live: forecast and writes, clients, backlog
    Top(TopArgs),
    /// Plot a mount's last hours, a kept history or a trace in a page for a browser
    Report(ReportArgs),
    /// Show or change settings of a mount while it serves
    Set(SetArgs),
    /// Show what waits for the backing, or send something first
    Queue(QueueArgs),
    /// Show when a file changed, how and by whom
    Versions(VersionsArgs),
    /// Bring a file or tree back to what it was at a moment
    Undo(UndoArgs),
    /// Check a log offline; never changes it
    Fsck(FsckArgs),
    /// Print a log's records as JSON lines
    Dump(DumpArgs),
    /// Record, replay or learn from a trace of writes
    Trace(TraceArgs),
    /// Print a shell's completion script
    Completions(CompletionsArgs),
    /// Print the manual page of the program or a verb
    Man(ManArgs),
    /// Mount a filesystem that does nothing, to measure against
    #[command(hide = true)]
    BenchFloor(BenchFloorArgs),
}

#[derive(Debug, Default, Args)]
#[command(after_help = examples::MOUNT)]
pub struct MountArgs {
    /// Where the files end up: a slow directory, or s3://BUCKET/PREFIX
    pub backing: Option<String>,
    /// Where programs see them: an empty directory
    pub mountpoint: Option<String>,
    /// Stay in front and log to stderr
    #[arg(short, long)]
    pub foreground: bool,
    /// Mount options, as in /etc/fstab
    #[arg(short, value_name = "OPT,OPT=V", allow_hyphen_values = true)]
    pub options: Vec<String>,
    /// Where the log is [default: /var/lib/forelog/ID as root, else ~/.local/state/forelog/ID]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<String>,
    /// Capacity of the log [default: a quarter of the free space there, at most 64GiB]
    #[arg(long, value_name = "SIZE")]
    pub log_size: Option<String>,
    /// Size of a segment when nothing is predicted [default: 4MiB]
    #[arg(long, value_name = "SIZE")]
    pub segment_size: Option<String>,
    /// Smallest segment [default: 256KiB]
    #[arg(long, value_name = "SIZE")]
    pub segment_min: Option<String>,
    /// Largest segment [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub segment_max: Option<String>,
    /// Cap on all reserved, unused segments together [default: a quarter of the log]
    #[arg(long, value_name = "SIZE")]
    pub reserve_max: Option<String>,
    /// How long changes are kept after they are in the backing, for `forelog undo`; in the space that the log leaves free [default: 0s, not at all]
    #[arg(long, value_name = "DURATION")]
    pub keep_log: Option<String>,
    /// Age at which an open segment is sealed [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub seal_after: Option<String>,
    /// What a power cut can take without fsync [default: 1s]
    #[arg(long, value_name = "DURATION")]
    pub commit_interval: Option<String>,
    /// A written byte is in the backing after at most this, if it keeps up [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub writeback_age: Option<String>,
    /// Most bytes a second sent to the backing [default: no limit]
    #[arg(long, value_name = "RATE")]
    pub upload_limit: Option<String>,
    /// Most that is kept of what was read of a bucket, in the log directory; 0: nothing [default: a tenth of the free space there, at most 8GiB]
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<String>,
    /// Local hours at which what is written goes to the backing, as 22:00-06:00; more with + [default: none, at any time]
    #[arg(long, value_name = "HOURS")]
    pub upload_hours: Option<String>,
    /// Outside of them: stop, or a RATE; a log 80 % full, flush and umount go on [default: stop]
    #[arg(long, value_name = "RATE")]
    pub upload_outside: Option<String>,
    /// Forecast of writes: auto, off, or a model's name [default: auto]
    #[arg(long, value_name = "MODEL")]
    pub predict: Option<String>,
    /// Time between forecasts [default: 50ms]
    #[arg(long, value_name = "DURATION")]
    pub interval: Option<String>,
    /// What fsync waits for: log; `backing` is refused in this version [default: log]
    #[arg(long, value_name = "WHAT")]
    pub durability: Option<String>,
    /// Hold a plain umount(2) until drained, and let sync(2) wait for the log: auto (where it can: root, rings, a loop device), yes or no [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub wait_umount: Option<String>,
    /// Longest it is held [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub umount_timeout: Option<String>,
    /// Threads that serve requests [default: one a CPU, 2 to 4]
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,
    /// How requests come from the kernel: auto, uring or device [default: auto]
    #[arg(long, value_name = "HOW")]
    pub transport: Option<String>,
    /// Idle CPUs while programs ask a lot: poll (root; none must be woken), halt, or auto (poll with at most 4) [default: auto]
    #[arg(long, value_name = "HOW")]
    pub idle: Option<String>,
    /// Serve metrics for Prometheus there; a PORT alone is of 127.0.0.1
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub metrics: Option<String>,
    /// Read settings from a TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Where a gateway in the background logs [default: forelog.log in the log directory]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<String>,
    /// Lines that are logged: error, warn, info, debug, or auto: what RUST_LOG says, else info [default: auto]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Refuse all changes
    #[arg(long)]
    pub read_only: bool,
    /// Take the backing over from a gateway that is dead or cut off, once its lease lapsed (90 s)
    #[arg(long)]
    pub takeover: bool,
    /// Vouch that nobody else writes to the bucket, whose store ignores conditions
    #[arg(long)]
    pub sole_writer: bool,
    /// Print every setting as a config file, with where each comes from; mount nothing
    #[arg(long)]
    pub print_config: bool,
    /// The child that a mount in the background starts
    #[arg(long, hide = true)]
    pub background_child: bool,
    /// Let unknown -o options pass
    #[arg(long, hide = true)]
    pub sloppy: bool,
    /// Check everything, mount nothing
    #[arg(long, hide = true)]
    pub fake: bool,
}

impl MountArgs {
    /// What the flags say.
    pub fn settings(&self) -> Settings {
        let texts = [
            ("backing", &self.backing),
            ("mountpoint", &self.mountpoint),
            ("log-dir", &self.log_dir),
            ("log-size", &self.log_size),
            ("segment-size", &self.segment_size),
            ("segment-min", &self.segment_min),
            ("segment-max", &self.segment_max),
            ("reserve-max", &self.reserve_max),
            ("keep-log", &self.keep_log),
            ("seal-after", &self.seal_after),
            ("commit-interval", &self.commit_interval),
            ("writeback-age", &self.writeback_age),
            ("upload-limit", &self.upload_limit),
            ("cache-size", &self.cache_size),
            ("upload-hours", &self.upload_hours),
            ("upload-outside", &self.upload_outside),
            ("predict", &self.predict),
            ("interval", &self.interval),
            ("durability", &self.durability),
            ("wait-umount", &self.wait_umount),
            ("umount-timeout", &self.umount_timeout),
            ("threads", &self.threads),
            ("transport", &self.transport),
            ("idle", &self.idle),
            ("metrics", &self.metrics),
            ("config", &self.config),
            ("log-file", &self.log_file),
            ("log-level", &self.log_level),
        ];
        let switches = [
            ("foreground", self.foreground),
            ("read-only", self.read_only),
            ("takeover", self.takeover),
            ("sole-writer", self.sole_writer),
        ];
        // `options` is a list of its own.
        debug_assert_eq!(texts.len() + switches.len() + 1, KEYS.len());
        let mut settings = Settings::default();
        for (key, value) in texts {
            if let Some(value) = value {
                settings.set(key, value, format!("--{key}"));
            }
        }
        for (key, _) in switches.into_iter().filter(|(_, on)| *on) {
            settings.set(key, "yes", format!("--{key}"));
        }
        settings
    }
}

#[derive(Debug, Args)]
#[command(after_help = examples::UMOUNT)]
pub struct UmountArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
    /// Give up draining after this, with exit code 3
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = units::duration, env = "FORELOG_TIMEOUT")]
    pub timeout: Duration,
    /// Unmount without draining; the next mount resumes
    #[arg(long)]
    pub no_wait: bool,
    /// Take the mount off the tree even while files are open
    #[arg(long, hide = true)]
    pub lazy: bool,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::FLUSH)]
pub struct FlushArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
    /// Only these files and directories in the mount
    pub paths: Vec<PathBuf>,
    /// Give up after this, with exit code 3 [default: wait as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = units::duration, env = "FORELOG_TIMEOUT")]
    pub timeout: Option<Duration>,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::STATUS)]
pub struct StatusArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
    /// One line of JSON, version 1
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::FSCK)]
pub struct FsckArgs {
    /// The log's directory, no gateway on it
    pub log_dir: PathBuf,
    /// The report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::DUMP)]
pub struct DumpArgs {
    /// The log's directory
    pub log_dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = examples::TRACE)]
pub struct TraceArgs {
    #[command(subcommand)]
    pub what: TraceVerb,
}

#[derive(Debug, Subcommand)]
pub enum TraceVerb {
    /// Record a mount's writes into a file: times, sizes, which client and program, no data and no names
    Record(RecordArgs),
    /// Run policies over a trace (recorded, or CSV: t_us,pid,comm,bytes) and compare them
    Replay(ReplayArgs),
    /// Train the LSTM on a trace and keep its weights
    Train(TrainArgs),
}

#[derive(Debug, Args)]
#[command(after_help = examples::RECORD)]
pub struct RecordArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
    /// A new file; packed if its name ends in .gz
    pub file: PathBuf,
    /// How long to record [default: until it is interrupted or the mount ends]
    #[arg(long = "for", value_name = "DURATION", value_parser = units::duration)]
    pub for_: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = examples::TRAIN)]
pub struct TrainArgs {
    /// The trace
    pub file: PathBuf,
    /// Passes over its first two thirds; the last third only judges
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub epochs: u32,
    /// Where the weights go
    #[arg(short, long, value_name = "WEIGHTS")]
    pub output: PathBuf,
    /// How far ahead it forecasts
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = units::duration)]
    pub horizon: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = examples::REPLAY)]
pub struct ReplayArgs {
    /// The trace
    pub file: PathBuf,
    /// Only these policies [default: all]
    #[arg(long, value_name = "P", num_args = 1.., value_delimiter = ',')]
    pub policy: Vec<String>,
    /// Leave these models out of the leader's pool
    #[arg(long, value_name = "MODEL", num_args = 1.., value_delimiter = ',')]
    pub without: Vec<String>,
    /// Start the LSTM from weights that `trace train` kept
    #[arg(long, value_name = "WEIGHTS")]
    pub weights: Option<PathBuf>,
    /// The report as JSON, version 1
    #[arg(long)]
    pub json: bool,
    /// Also write a page with pictures, for a browser: forecast against what came, reserve against need
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// How far ahead forecasts are scored
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = units::duration)]
    pub horizon: Duration,
    /// Assumed cost of an allocation, in ms
    #[arg(long, value_name = "MS", default_value_t = 8.0, value_parser = milliseconds)]
    pub alloc_ms: f64,
    /// Assumed further cost of each MiB, in ms
    #[arg(long, value_name = "MS", default_value_t = 1.0, value_parser = milliseconds)]
    pub alloc_ms_per_mib: f64,
}

fn milliseconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ms) if (0.0..=1e6).contains(&ms) => Ok(ms),
        _ => Err(format!("'{text}' is no number of milliseconds from 0 to 1000000")),
    }
}

#[derive(Debug, Args)]
#[command(after_help = examples::COMPLETIONS)]
pub struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
#[command(after_help = examples::MAN)]
pub struct ManArgs {
    /// The page of one verb
    pub verb: Option<String>,
}

/// Rewrites a call as mount(8) and umount(8) make it, `mount.forelog SRC DIR [-sfnv] [-o OPTS]`, as ours.
/// None when the program was not called as a helper.
pub fn from_helper(argv: &[OsString]) -> Option<Vec<OsString>> {
    // A script cannot choose its name, so it says `--helper=NAME` first.
    let named = argv.get(1).and_then(|a| a.to_str()?.strip_prefix("--helper="));
    let name = match named {
        Some(name) => name,
        None => std::path::Path::new(argv.first()?).file_name()?.to_str()?,
    };
    let mount = match name {
        "mount.forelog" | "mount.fuse.forelog" | "mount.fuse" => true,
        "umount.forelog" | "umount.fuse.forelog" => false,
        _ => return None,
    };
    let mut flags: Vec<OsString> = Vec::new();
    let mut places: Vec<OsString> = Vec::new();
    let mut args = argv.iter().skip(if named.is_some() { 2 } else { 1 });
    while let Some(arg) = args.next() {
        match arg.to_str().and_then(|a| a.strip_prefix('-')).filter(|a| !a.is_empty()) {
            Some(letters) => helper_letters(letters, mount, &mut args, &mut flags),
            None => places.push(arg.clone()),
        }
    }
    // Called as mount.fuse the type may stand before the source: `forelog#/dir`.
    if let Some(source) = places.first().and_then(|s| s.to_str()?.strip_prefix("forelog#")) {
        places[0] = source.into();
    }
    let verb = if mount { "mount" } else { "umount" };
    let mut out: Vec<OsString> = vec!["forelog".into(), verb.into()];
    out.extend(flags);
    out.push("--".into());
    out.extend(places);
    Some(out)
}

/// Letters of mount(8)'s and umount(8)'s helpers; those that say nothing to us fall away.
fn helper_letters<'a>(
    letters: &str,
    mount: bool,
    args: &mut impl Iterator<Item = &'a OsString>,
    out: &mut Vec<OsString>,
) {
    for (i, letter) in letters.char_indices() {
        match letter {
            'o' | 't' | 'N' => {
                let rest = &letters[i + 1..];
                let value = if rest.is_empty() { args.next().cloned() } else { Some(rest.into()) };
                if let (true, 'o', Some(value)) = (mount, letter, value) {
                    out.extend(["-o".into(), value]);
                }
                return;
            }
            's' if mount => out.push("--sloppy".into()),
            'f' if mount => out.push("--fake".into()),
            'r' if mount => out.push("--read-only".into()),
            'l' if !mount => out.extend(["--no-wait".into(), "--lazy".into()]),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn helper(line: &str) -> String {
        let argv: Vec<OsString> = line.split(' ').map(Into::into).collect();
        let out = from_helper(&argv).unwrap();
        out.iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_command_line_is_sound_and_names_only_what_is_there() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for verb in
            "mount umount flush status top report set queue versions undo fsck dump trace completions man"
                .split(' ')
        {
            assert!(help.contains(&format!("  {verb} ")), "{verb}");
        }
        assert!(!help.contains("bench-floor"));
    }

    #[test]
    fn every_key_has_its_flag() {
        let mount = Cli::command().find_subcommand("mount").unwrap().clone();
        for key in KEYS.iter().filter(|k| !["backing", "mountpoint", "options"].contains(k)) {
            assert!(mount.get_arguments().any(|a| a.get_long() == Some(key)), "{key}");
        }
    }

    #[test]
    fn helper_calls() {
        assert_eq!(
            helper("/sbin/mount.fuse.forelog /back /mnt -sfnv -o rw,log_dir=/l -t fuse.forelog"),
            "forelog mount --sloppy --fake -o rw,log_dir=/l -- /back /mnt"
        );
        assert_eq!(helper("mount.fuse forelog#/back /mnt -oro"), "forelog mount -o ro -- /back /mnt");
        assert_eq!(
            helper("umount.fuse.forelog /mnt -n -l -f -v -r -t fuse.forelog"),
            "forelog umount --no-wait --lazy -- /mnt"
        );
        assert_eq!(helper("forelog --helper=mount.forelog /b /m -n"), "forelog mount -- /b /m");
        assert_eq!(from_helper(&["forelog".into(), "mount".into()]), None);
        assert_eq!(from_helper(&[]), None);
    }
}
