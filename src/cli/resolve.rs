//! From raw flags to one checked `Config`: every refusal of a mount that can be known beforehand is here or
//! in `checks`, one line each.

use super::args::MountArgs;
use super::checks;
use super::options::{Settings, from_env, from_o, from_toml, suggestion, usage};
use super::units;
use crate::backing::bucket::CACHE_MIN;
use crate::config::{
    Config, Durability, Hours, Idle, Live, LogLevel, MountFlags, Place, Predict, Transport, WaitUmount,
};
use crate::control::{Abilities, Verdict};
use crate::sys::{paths, peercred};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest config file.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Threads that serve requests unless the user says how many.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4)
}

/// A checked mount, and what the user should know of it.
#[derive(Debug)]
pub struct Resolved {
    pub config: Config,
    pub foreground: bool,
    pub notes: Vec<String>,
}

/// Merges the places settings come from: flag, `-o`, environment, config file.
pub fn merge(
    args: &MountArgs,
    env: impl Fn(&str) -> Option<String>,
) -> Result<(Settings, MountFlags), Verdict> {
    let o_list = args.options.join(",");
    // Kernel flags count in the other order, the last word wins, so they are read at the end.
    let values = |list: &str| from_o(list, &mut MountFlags::default(), args.sloppy);
    let list_of = |s: &Settings| s.get("options").map(|o| o.value.clone()).unwrap_or_default();
    let mut settings = args.settings();
    settings.fill_from(values(&o_list)?);
    let env = from_env(env);
    let env_list = list_of(&env);
    settings.fill_from(env);
    settings.fill_from(values(&env_list)?);
    let file = match settings.get("config") {
        Some(file) => read_config(&file.value)?,
        None => Settings::default(),
    };
    let file_list = list_of(&file);
    settings.fill_from(file);
    settings.fill_from(values(&file_list)?);
    let mut flags = MountFlags::default();
    for list in [&file_list, &env_list, &o_list] {
        from_o(list, &mut flags, args.sloppy)?;
    }
    Ok((settings, flags))
}

fn read_config(file: &str) -> Result<Settings, Verdict> {
    let bytes = paths::read_small(Path::new(file), CONFIG_BYTES_MAX)
        .map_err(|e| Verdict::refused(format!("config {file}: {e}")))?;
    let text =
        String::from_utf8(bytes).map_err(|_| Verdict::refused(format!("config {file}: not UTF-8 text")))?;
    from_toml(&text, file)
}

/// Checks everything that can be checked before a mount.
pub fn resolve(
    args: &MountArgs,
    env: impl Fn(&str) -> Option<String>,
    abilities: &Abilities,
) -> Result<Resolved, Verdict> {
    let (settings, flags) = merge(args, env)?;
    let mut reader = Reader { settings: &settings, notes: Vec::new() };
    // What is wrong with the line itself comes before what is wrong with the machine.
    let places = reader.places()?;
    let times = reader.times()?;
    let choices = reader.choices(abilities)?;
    let (log_size, sizes, reserve_max) =
        (reader.size("log-size")?, reader.segment_sizes()?, reader.size("reserve-max")?);
    let switches = (reader.switch("foreground")?, reader.switch("read-only")?, reader.switch("sole-writer")?);
    let takeover = reader.switch("takeover")?;
    let threads = reader.threads()?;

    let (backing, mountpoint) = checks::places(&places.backing, &places.mountpoint, abilities)?;
    let log_dir = match places.log_dir {
        Some(dir) => dir,
        None => default_log_dir(&backing)?,
    };
    let log_dir = checks::log_dir(&log_dir, &backing, &mountpoint)?;
    let log_size_bytes = checks::log_space(&log_dir, log_size, sizes.static_bytes, &mut reader.notes)?;
    checks::fuse_available()?;
    let segment_bytes_max = reader.fit_max(&sizes, log_size_bytes);
    let reserve_bytes_max = reader.fit_reserve(reserve_max, log_size_bytes, sizes.min_bytes)?;
    let log_file = match places.log_file {
        Some(file) => paths::canonical_prefix(&file)
            .map_err(|e| Verdict::refused(format!("log file {}: {e}", file.display())))?,
        None => log_dir.join("forelog.log"),
    };
    let root = peercred::own_uid() == 0;
    let config = Config {
        backing,
        mountpoint,
        log_dir,
        log_size_bytes,
        log_size_given: log_size.is_some(),
        segment_bytes: sizes.static_bytes,
        segment_bytes_min: sizes.min_bytes,
        segment_bytes_max,
        reserve_bytes_max,
        keep_log: times.keep_log,
        seal_after: times.seal_after,
        commit_interval: times.commit_interval,
        writeback_age: times.writeback_age,
        upload_limit: choices.upload_limit,
        upload_hours: choices.upload_hours,
        upload_outside: choices.upload_outside,
        predict: choices.predict,
        predict_interval: times.interval,
        durability: choices.durability,
        wait_umount: choices.wait_umount,
        umount_timeout: times.umount_timeout,
        threads,
        transport: choices.transport,
        idle: choices.idle,
        metrics: choices.metrics,
        log_file,
        cache_bytes: choices.cache_bytes,
        log_level: choices.log_level,
        read_only: switches.1,
        takeover,
        sole_writer: switches.2,
        flags: MountFlags { allow_other: flags.allow_other || root, ..flags },
    };
    Ok(Resolved { config, foreground: switches.0, notes: reader.notes })
}

/// The settings that may change while mounted, by the rules of a mount; and notes, as for a mount.
pub fn live(
    settings: &Settings,
    abilities: &Abilities,
    log_bytes: u64,
) -> Result<(Live, Vec<String>), Verdict> {
    let mut reader = Reader { settings, notes: Vec::new() };
    let (times, choices) = (reader.times()?, reader.choices(abilities)?);
    let (sizes, reserve_max) = (reader.segment_sizes()?, reader.size("reserve-max")?);
    let live = Live {
        upload_limit: choices.upload_limit,
        upload_hours: choices.upload_hours,
        upload_outside: choices.upload_outside,
        writeback_age: times.writeback_age,
        seal_after: times.seal_after,
        commit_interval: times.commit_interval,
        umount_timeout: times.umount_timeout,
        predict: choices.predict,
        reserve_bytes_max: reader.fit_reserve(reserve_max, log_bytes, sizes.min_bytes)?,
        segment_bytes: sizes.static_bytes,
        segment_bytes_min: sizes.min_bytes,
        segment_bytes_max: reader.fit_max(&sizes, log_bytes),
        idle: choices.idle,
        log_level: choices.log_level,
    };
    Ok((live, reader.notes))
}

/// Values, as TOML, of the keys that were not given and have a figure of their own, whatever the machine. All that was given
/// is checked on the way.
pub fn defaults(
    settings: &Settings,
    abilities: &Abilities,
) -> Result<BTreeMap<&'static str, String>, Verdict> {
    let reader = Reader { settings, notes: Vec::new() };
    let log_bytes = reader.size("log-size")?.unwrap_or(u64::MAX);
    let texts = live(settings, abilities, log_bytes)?.0.texts();
    let quoted = super::print_config::quoted;
    let mut out = BTreeMap::new();
    for key in super::options::SWITCHES {
        reader.switch(key)?;
        out.insert(*key, "false".into());
    }
    for key in crate::config::LIVE_KEYS {
        if let Some(text) = texts.get(*key) {
            out.insert(*key, quoted(text));
        }
    }
    if settings.get("log-size").is_none() {
        out.remove("reserve-max");
    }
    let interval = crate::config::duration_text(reader.times()?.interval);
    for (key, value) in [
        ("interval", interval.as_str()),
        ("keep-log", "0s"),
        ("durability", "log"),
        ("wait-umount", "auto"),
        ("threads", &reader.threads()?.to_string()),
        ("transport", "auto"),
    ] {
        out.insert(key, quoted(value));
    }
    Ok(out)
}

/// `/var/lib/forelog/ID` as root, else beneath `$XDG_STATE_HOME` or `~/.local/state`. The ID is the
/// backing's last name and a hash of its path.
fn default_log_dir(backing: &Place) -> Result<PathBuf, Verdict> {
    use std::os::unix::ffi::OsStrExt;
    let shown = backing.to_string();
    let (last, whole) = match backing {
        Place::Directory(d) => (d.file_name().unwrap_or_default(), d.as_os_str().as_bytes()),
        Place::Bucket(_) => (shown.rsplit('/').next().unwrap_or_default().as_ref(), shown.as_bytes()),
    };
    let id = format!("{}-{:016x}", paths::readable_name(last), paths::stable_hash(whole));
    let id = id.trim_start_matches('-');
    if peercred::own_uid() == 0 {
        return Ok(Path::new("/var/lib/forelog").join(id));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("forelog").join(id))
        .ok_or_else(|| {
            Verdict::refused("no place for the log: HOME and XDG_STATE_HOME are unset; give --log-dir")
        })
}

struct Places {
    backing: String,
    mountpoint: PathBuf,
    log_dir: Option<PathBuf>,
    log_file: Option<PathBuf>,
}

struct Times {
    keep_log: Duration,
    seal_after: Duration,
    commit_interval: Duration,
    writeback_age: Duration,
    interval: Duration,
    umount_timeout: Duration,
}

struct Choices {
    upload_limit: Option<u64>,
    cache_bytes: Option<u64>,
    upload_hours: Option<Hours>,
    upload_outside: u64,
    predict: Predict,
    durability: Durability,
    wait_umount: WaitUmount,
    transport: Transport,
    idle: Idle,
    metrics: Option<SocketAddr>,
    log_level: LogLevel,
}

/// Segment sizes, each a power of two, in order.
struct Sizes {
    static_bytes: u64,
    min_bytes: u64,
    max_bytes: u64,
    max_given: bool,
}

struct Reader<'a> {
    settings: &'a Settings,
    notes: Vec<String>,
}

impl Reader<'_> {
    fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Verdict> {
        match self.settings.get(key) {
            None => Ok(None),
            Some(s) => parse(&s.value).map(Some).map_err(|e| usage(format!("{}: {e}", s.from))),
        }
    }

    fn size(&self, key: &str) -> Result<Option<u64>, Verdict> {
        self.parsed(key, units::size)
    }

    fn switch(&self, key: &str) -> Result<bool, Verdict> {
        Ok(self.parsed(key, units::boolean)?.unwrap_or(false))
    }

    fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<T, Verdict> {
        let pick = |value: &str| {
            words.iter().find(|(word, _)| *word == value).map(|(_, t)| *t).ok_or_else(|| {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                format!("'{value}' is none of {}", known.join(", "))
            })
        };
        Ok(self.parsed(key, pick)?.unwrap_or(words[0].1))
    }

    /// Between bounds, both included.
    fn time(&self, key: &str, default_ms: u64, min: &str, max: &str) -> Result<Duration, Verdict> {
        let bound = |text| units::duration(text).expect("the bounds are durations");
        let within = |text: &str| {
            let d = units::duration(text)?;
            if d < bound(min) || d > bound(max) {
                return Err(format!("{text} is not between {min} and {max}"));
            }
            Ok(d)
        };
        Ok(self.parsed(key, within)?.unwrap_or(Duration::from_millis(default_ms)))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(|s| s.value.as_str())
    }

    fn places(&self) -> Result<Places, Verdict> {
        let (Some(backing), Some(mountpoint)) = (self.text("backing"), self.text("mountpoint")) else {
            return Err(usage("mount needs BACKING and MOUNTPOINT; see `forelog mount --help`"));
        };
        for (key, what) in [("log-dir", "a directory"), ("log-file", "a file"), ("mountpoint", "a directory")]
        {
            if let Some(s) = self.settings.get(key).filter(|s| s.value.is_empty()) {
                return Err(usage(format!("{}: empty; name {what}", s.from)));
            }
        }
        Ok(Places {
            backing: backing.into(),
            mountpoint: mountpoint.into(),
            log_dir: self.text("log-dir").map(Into::into),
            log_file: self.text("log-file").map(Into::into),
        })
    }

    fn times(&self) -> Result<Times, Verdict> {
        Ok(Times {
            keep_log: self.time("keep-log", 0, "0s", "366d")?,
            seal_after: self.time("seal-after", 5_000, "10ms", "1h")?,
            commit_interval: self.time("commit-interval", 1_000, "10ms", "10m")?,
            writeback_age: self.time("writeback-age", 30_000, "0s", "24h")?,
            interval: self.time("interval", 50, "5ms", "10s")?,
            umount_timeout: self.time("umount-timeout", 300_000, "0s", "7d")?,
        })
    }

    fn threads(&self) -> Result<usize, Verdict> {
        let count = |text: &str| match text.parse::<usize>() {
            Ok(n @ 1..=64) => Ok(n),
            _ => Err(format!("'{text}' is no number of threads from 1 to 64")),
        };
        Ok(self.parsed("threads", count)?.unwrap_or_else(default_threads))
    }

    /// The closed choices; those this build cannot honour are refused.
    fn choices(&self, can: &Abilities) -> Result<Choices, Verdict> {
        let refuse = |what: &str| Err(Verdict::refused(what));
        if !can.metrics && self.settings.get("metrics").is_some() {
            return refuse("--metrics: this build serves no metrics; use `forelog status --json`");
        }
        if self.switch("takeover")? && !can.takeover {
            return refuse(
                "--takeover: this build keeps no lease; end the other gateway with `forelog umount` first",
            );
        }
        let transport = self.choice(
            "transport",
            &[("auto", Transport::Auto), ("uring", Transport::Uring), ("device", Transport::Device)],
        )?;
        if transport == Transport::Uring && !can.uring {
            return refuse("--transport uring: this build has no ring transport; use auto or device");
        }
        let wait_umount = self.choice(
            "wait-umount",
            &[("auto", WaitUmount::Auto), ("yes", WaitUmount::Yes), ("no", WaitUmount::No)],
        )?;
        if wait_umount == WaitUmount::Yes && !can.wait_umount {
            return refuse("--wait-umount yes: this build cannot hold a plain umount; use `forelog umount`");
        }
        if wait_umount == WaitUmount::Yes && transport == Transport::Device {
            return refuse(
                "--wait-umount yes: it needs --transport uring or auto; or use --wait-umount auto",
            );
        }
        if wait_umount == WaitUmount::Yes && peercred::own_uid() != 0 {
            return refuse("--wait-umount yes: only a mount by root can; use --wait-umount auto");
        }
        let durability =
            self.choice("durability", &[("log", Durability::Log), ("backing", Durability::Backing)])?;
        if durability == Durability::Backing && !can.durability_backing {
            return refuse(
                "--durability backing: this build's fsync waits for the log only; use `forelog flush` for the backing",
            );
        }
        Ok(Choices {
            upload_limit: self.parsed("upload-limit", units::rate)?.flatten(),
            cache_bytes: self.parsed("cache-size", |text| match units::size(text)? {
                n @ 1..CACHE_MIN => Err(format!(
                    "{} is less than the smallest cache, {}; for none give 0",
                    units::show_size(n),
                    units::show_size(CACHE_MIN)
                )),
                n => Ok(n),
            })?,
            upload_hours: self.parsed("upload-hours", units::hours)?.flatten(),
            upload_outside: self.parsed("upload-outside", units::rate_or_stop)?.unwrap_or(0),
            predict: self.predict(can)?,
            durability,
            wait_umount,
            transport,
            metrics: self.parsed("metrics", units::listener)?,
            idle: self.choice("idle", Idle::NAMES)?,
            log_level: self.choice("log-level", LogLevel::NAMES)?,
        })
    }

    fn predict(&self, can: &Abilities) -> Result<Predict, Verdict> {
        match self.text("predict") {
            None | Some("auto") => Ok(Predict::Auto),
            Some("off") => Ok(Predict::Off),
            Some(name) if can.models.contains(&name) => Ok(Predict::Model(name.into())),
            Some(name) => {
                let near = suggestion(name, can.models.iter().chain(&["auto", "off"]));
                let known = [&["auto", "off"], can.models].concat().join(", ");
                Err(Verdict::refused(format!("--predict {name}: no such model{near} (known: {known})")))
            }
        }
    }

    /// A size as a power of two, rounded up with a note.
    fn power_of_two(&mut self, key: &str) -> Result<Option<u64>, Verdict> {
        let Some(given) = self.size(key)? else { return Ok(None) };
        if !(64 * KIB..=4 * GIB).contains(&given) {
            return Err(Verdict::refused(format!(
                "--{key} {}: a segment has from 64KiB to 4GiB",
                units::show_size(given)
            )));
        }
        let rounded = given.next_power_of_two();
        if rounded != given {
            let (from, to) = (units::show_size(given), units::show_size(rounded));
            self.notes.push(format!("--{key} {from} is rounded up to {to}, a power of two"));
        }
        Ok(Some(rounded))
    }

    fn segment_sizes(&mut self) -> Result<Sizes, Verdict> {
        let (static_given, min_given, max_given) = (
            self.power_of_two("segment-size")?,
            self.power_of_two("segment-min")?,
            self.power_of_two("segment-max")?,
        );
        // A default gives way to what was given; two given ones must agree.
        let static_bytes = static_given.unwrap_or(
            (4 * MIB)
                .clamp(min_given.unwrap_or(0), max_given.unwrap_or(u64::MAX).max(min_given.unwrap_or(0))),
        );
        let min_bytes = min_given.unwrap_or((256 * KIB).min(static_bytes));
        let max_bytes = max_given.unwrap_or((64 * MIB).max(static_bytes));
        if min_bytes > static_bytes || static_bytes > max_bytes {
            let [min, size, max] = [min_bytes, static_bytes, max_bytes].map(units::show_size);
            return Err(Verdict::refused(format!(
                "the segment sizes disagree: --segment-min {min}, --segment-size {size}, --segment-max {max}; each must be at most the next"
            )));
        }
        Ok(Sizes { static_bytes, min_bytes, max_bytes, max_given: max_given.is_some() })
    }

    /// The largest segment, at most a quarter of the log.
    fn fit_max(&mut self, sizes: &Sizes, log_bytes: u64) -> u64 {
        let quarter = 1u64 << (log_bytes / 4).max(1).ilog2();
        let fit = sizes.max_bytes.min(quarter.max(sizes.static_bytes));
        if fit < sizes.max_bytes && sizes.max_given {
            let (max, log) = (units::show_size(fit), units::show_size(log_bytes));
            self.notes.push(format!("--segment-max is cut to {max}, a quarter of the log of {log}"));
        }
        fit
    }

    fn fit_reserve(&mut self, given: Option<u64>, log_bytes: u64, min_bytes: u64) -> Result<u64, Verdict> {
        match given {
            None => Ok(log_bytes / 4),
            Some(n) if n < min_bytes => Err(Verdict::refused(format!(
                "--reserve-max {}: less than the smallest segment, {}; for no reserve use --predict off",
                units::show_size(n),
                units::show_size(min_bytes)
            ))),
            Some(n) if n > log_bytes => {
                self.notes.push(format!("--reserve-max is cut to the log's {}", units::show_size(log_bytes)));
                Ok(log_bytes)
            }
            Some(n) => Ok(n),
        }
    }
}

#[cfg(test)]
mod tests;
