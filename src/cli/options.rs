//! The settings of a mount and where each may come from. One list of keys serves the flags, `-o`, the
//! environment and the config file; the first of these that names a key wins, in that order.

use crate::config::MountFlags;
use crate::control::Verdict;
use std::collections::BTreeMap;

/// Every setting, as its long flag is called. In `-o`, the environment and the config file `_` does for `-`.
pub const KEYS: &[&str] = &[
    "backing",
    "mountpoint",
    "foreground",
    "log-dir",
    "log-size",
    "segment-size",
    "segment-min",
    "segment-max",
    "reserve-max",
    "keep-log",
    "seal-after",
    "commit-interval",
    "writeback-age",
    "upload-limit",
    "cache-size",
    "upload-hours",
    "upload-outside",
    "predict",
    "interval",
    "durability",
    "wait-umount",
    "umount-timeout",
    "threads",
    "transport",
    "idle",
    "metrics",
    "config",
    "log-file",
    "log-level",
    "read-only",
    "takeover",
    "sole-writer",
    "options",
];

/// Keys that may stand alone, meaning yes.
pub const SWITCHES: &[&str] = &["foreground", "read-only", "takeover", "sole-writer"];

/// Words of fstab and mount(8) that say nothing to us.
const NOISE: &[&str] = &[
    "_netdev",
    "nofail",
    "noauto",
    "auto",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "defaults",
    "async",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "nodiratime",
    "diratime",
    "mand",
    "nomand",
    "iversion",
    "noiversion",
    "silent",
    "loud",
    "default_permissions",
    "big_writes",
];

/// Words with a value that say nothing to us.
const NOISE_WITH_VALUE: &[&str] =
    &["user", "comment", "helper", "uhelper", "fsname", "subtype", "max_read", "blksize", "x-", "X-"];

/// Kernel options other programs' mounts take, for suggestions only.
const FLAGS: &[&str] =
    &["ro", "rw", "nosuid", "nodev", "noexec", "noatime", "sync", "dirsync", "allow_other"];

/// A value and the place it came from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub value: String,
    pub from: String,
}

/// Settings of one place, or of all merged.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, Setting>,
}

impl Settings {
    /// Sets a key, over what it had.
    pub fn set(&mut self, key: &'static str, value: impl Into<String>, from: impl Into<String>) {
        self.values.insert(key, Setting { value: value.into(), from: from.into() });
    }

    /// What a key was set to.
    pub fn get(&self, key: &str) -> Option<&Setting> {
        debug_assert!(KEYS.contains(&key), "{key}");
        self.values.get(key)
    }

    /// Takes from `lower` what is not set here.
    pub fn fill_from(&mut self, lower: Settings) {
        for (key, setting) in lower.values {
            self.values.entry(key).or_insert(setting);
        }
    }
}

/// The key that `name` means.
fn key_of(name: &str) -> Option<&'static str> {
    let name = name.replace('_', "-");
    KEYS.iter().find(|k| **k == name).copied()
}

/// Reads one `-o` list. Known kernel options go to `flags`; `sloppy` lets unknown words pass, as mount(8)
/// `-s` asks.
pub fn from_o(list: &str, flags: &mut MountFlags, sloppy: bool) -> Result<Settings, Verdict> {
    let mut settings = Settings::default();
    for word in split_list(list) {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word.as_str(), None),
        };
        if set_flag(name, value, flags, &mut settings) || is_noise(name, value) {
            continue;
        }
        match (key_of(name), value) {
            (Some("options" | "config"), None) | (Some("options"), _) => {
                return Err(usage(format!("-o {name}: not here")));
            }
            (Some(key), Some(value)) => settings.set(key, value, format!("-o {name}")),
            (Some(key), None) if SWITCHES.contains(&key) => settings.set(key, "yes", format!("-o {name}")),
            (Some(_), None) => return Err(usage(format!("-o {name} needs a value: -o {name}=..."))),
            (None, _) if name == "remount" => {
                return Err(Verdict::refused(
                    "-o remount: not possible; `forelog set MOUNTPOINT KEY=VALUE` changes what can change while mounted, else `forelog umount` it and mount it anew",
                ));
            }
            (None, _) if sloppy => {}
            (None, _) => {
                let known = KEYS.iter().chain(NOISE).chain(FLAGS);
                let meant = match suggestion(name, known) {
                    none if none.is_empty() => "; see `forelog mount --help`".into(),
                    meant => meant,
                };
                return Err(usage(format!("-o {name}: no such option{meant}")));
            }
        }
    }
    Ok(settings)
}

fn set_flag(name: &str, value: Option<&str>, flags: &mut MountFlags, settings: &mut Settings) -> bool {
    let (flag, on) = match name {
        "nosuid" | "suid" => (&mut flags.nosuid, name == "nosuid"),
        "nodev" | "dev" => (&mut flags.nodev, name == "nodev"),
        "noexec" | "exec" => (&mut flags.noexec, name == "noexec"),
        "noatime" | "atime" => (&mut flags.noatime, name == "noatime"),
        "sync" => (&mut flags.sync, true),
        "dirsync" => (&mut flags.dirsync, true),
        "allow_other" => (&mut flags.allow_other, true),
        "ro" | "rw" if value.is_none() => {
            settings.set("read-only", if name == "ro" { "yes" } else { "no" }, format!("-o {name}"));
            return true;
        }
        _ => return false,
    };
    if value.is_none() {
        *flag = on;
    }
    value.is_none()
}

fn is_noise(name: &str, value: Option<&str>) -> bool {
    name.is_empty()
        || name.starts_with("x-")
        || name.starts_with("X-")
        || (value.is_none() && NOISE.contains(&name))
        || (value.is_some() && NOISE_WITH_VALUE.contains(&name))
}

/// Splits at commas; `\,` is a comma, `\\` a backslash.
fn split_list(list: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        let word = words.last_mut().expect("starts with one word and only grows");
        match c {
            '\\' if matches!(chars.peek(), Some(',' | '\\')) => word.extend(chars.next()),
            ',' => words.push(String::new()),
            c => word.push(c),
        }
    }
    words
}

/// Reads `FORELOG_*` through `lookup`.
pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Settings {
    let mut settings = Settings::default();
    for key in KEYS {
        let name = format!("FORELOG_{}", key.replace('-', "_").to_ascii_uppercase());
        if let Some(value) = lookup(&name) {
            settings.set(key, value, name);
        }
    }
    settings
}

/// Reads a TOML config file's text. Errors name the file and the line.
pub fn from_toml(text: &str, file: &str) -> Result<Settings, Verdict> {
    let line_at =
        |at: usize| 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count();
    let refuse = |e: toml::de::Error| {
        let line = e.span().map_or(1, |s| line_at(s.start));
        Verdict::refused(format!("config {file}:{line}: {}", e.message()))
    };
    let places = toml::de::DeTable::parse(text).map_err(refuse)?;
    let mut lines: Vec<(usize, String)> =
        places.get_ref().keys().map(|k| (line_at(k.span().start), k.get_ref().to_string())).collect();
    lines.sort();
    let table: toml::Table = text.parse().map_err(refuse)?;
    let mut settings = Settings::default();
    // Both spellings of one key would hide each other.
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (line, name) in &lines {
        let Some(key) = key_of(name).filter(|k| *k != "config") else {
            return Err(usage(format!(
                "config {file}:{line}: no such key '{name}'{}",
                suggestion(name, KEYS)
            )));
        };
        if let Some(before) = seen.insert(key, *line) {
            return Err(usage(format!("config {file}:{line}: '{name}' is given already in line {before}")));
        }
        let value = match table.get(name) {
            Some(toml::Value::String(s)) => s.clone(),
            Some(toml::Value::Integer(n)) => n.to_string(),
            Some(toml::Value::Float(x)) => x.to_string(),
            Some(toml::Value::Boolean(b)) => b.to_string(),
            _ => {
                let what = "takes a text, a number or true/false";
                return Err(usage(format!("config {file}:{line}: '{name}' {what}")));
            }
        };
        settings.set(key, value, format!("config {file}:{line}: {name}"));
    }
    Ok(settings)
}

/// A usage error.
pub fn usage(message: impl Into<String>) -> Verdict {
    Verdict { code: 1, message: message.into() }
}

/// `; did you mean X?` when some known word is near.
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a &'a str>) -> String {
    let plain = |s: &str| s.to_ascii_lowercase().replace('_', "-");
    let word = plain(word);
    let near = known.into_iter().map(|k| (distance(&word, &plain(k)), *k)).min_by_key(|(d, _)| *d);
    match near {
        Some((d, k)) if d <= 1 + k.len() / 4 => format!("; did you mean '{k}'?"),
        _ => String::new(),
    }
}

/// Levenshtein's edit distance, over bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let cost = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn o(list: &str) -> (Settings, MountFlags) {
        let mut flags = MountFlags::default();
        (from_o(list, &mut flags, false).unwrap(), flags)
    }

    #[test]
    fn fstab_words_pass() {
        let (s, flags) = o("rw,_netdev,nofail,noauto,auto,user,users,user=joe,defaults,x-systemd.automount,\
            x-systemd.requires=a.service,X-mount.mkdir,comment=a b,suid,dev,exec,default_permissions,relatime,,");
        assert_eq!(flags, MountFlags::default());
        assert_eq!(s.get("read-only").unwrap().value, "no");
        let (s, flags) = o("ro,nosuid,nodev,noexec,noatime,allow_other,dev,sync");
        assert!(
            flags.nosuid && !flags.nodev && flags.noexec && flags.noatime && flags.allow_other && flags.sync
        );
        assert_eq!(s.get("read-only").unwrap().value, "yes");
    }

    #[test]
    fn every_key_passes_in_both_spellings() {
        for key in KEYS.iter().filter(|k| **k != "options") {
            let (s, _) = o(&format!("{key}=v"));
            assert_eq!(s.get(key).unwrap().value, "v");
            let (s, _) = o(&format!("{}=a\\,b\\\\", key.replace('-', "_")));
            assert_eq!(s.get(key).unwrap().value, "a,b\\");
        }
        assert_eq!(o("log-dir=/a,log_dir=/b").0.get("log-dir").unwrap().value, "/b");
        assert_eq!(o("sole_writer").0.get("sole-writer").unwrap().value, "yes");
    }

    #[test]
    fn unknown_words_are_refused_with_a_suggestion() {
        let e = |list: &str| from_o(list, &mut MountFlags::default(), false).unwrap_err();
        assert_eq!(e("log_dri=/x").message, "-o log_dri: no such option; did you mean 'log-dir'?");
        assert_eq!(e("zzzzzz").message, "-o zzzzzz: no such option; see `forelog mount --help`");
        assert_eq!(e("log_dir").message, "-o log_dir needs a value: -o log_dir=...");
        assert_eq!((e("remount").code, e("nosuid=1").code, e("defaults=1").code), (2, 1, 1));
        assert!(from_o("zzzzzz,log_dir=/x", &mut MountFlags::default(), true).is_ok());
    }

    #[test]
    fn config_and_environment() {
        let s = from_toml("log_size = 1048576\nsegment-min = '1M'\nread-only = true\n", "f").unwrap();
        assert_eq!(s.get("log-size").unwrap().value, "1048576");
        assert_eq!(s.get("read-only").unwrap().from, "config f:3: read-only");
        let e = |text: &str| from_toml(text, "f").unwrap_err();
        assert_eq!(e("log_sise = 1").message, "config f:1: no such key 'log_sise'; did you mean 'log-size'?");
        assert_eq!((e("log-size = [1]").code, e("a = 1").code, e("config = 'x'").code), (1, 1, 1));
        assert!(e("\n\nlog-size = = 1").message.starts_with("config f:3: "));
        assert_eq!(
            e("# ä\n\nthread = 1\n").message,
            "config f:3: no such key 'thread'; did you mean 'threads'?"
        );
        assert_eq!(
            e("log-size = 1\nlog_size = 2").message,
            "config f:2: 'log_size' is given already in line 1"
        );
        let s = from_env(|name| (name == "FORELOG_COMMIT_INTERVAL").then(|| "2s".into()));
        assert_eq!(s.get("commit-interval").unwrap().from, "FORELOG_COMMIT_INTERVAL");
    }

    #[test]
    fn the_higher_place_wins() {
        let mut high = Settings::default();
        high.set("log-dir", "a", "--log-dir");
        let mut low = Settings::default();
        low.set("log-dir", "b", "env");
        low.set("threads", "3", "env");
        high.fill_from(low);
        assert_eq!((&*high.get("log-dir").unwrap().value, &*high.get("threads").unwrap().value), ("a", "3"));
    }
}
