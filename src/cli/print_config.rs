//! `forelog mount --print-config`: every setting as a config file, with where each comes from.

use super::args::MountArgs;
use super::options::{KEYS, SWITCHES};
use super::output;
use super::resolve;
use crate::config::{LIVE_KEYS, MountFlags};
use crate::control::{Abilities, Verdict};

/// Runs it. Checks the values, not the machine: nothing is made or mounted.
pub fn run(args: &MountArgs, env: impl Fn(&str) -> Option<String>, can: &Abilities) -> Verdict {
    text(args, env, can).map_or_else(|verdict| verdict, |text| output::print(&text))
}

/// Defaults that are no figure before the log is looked at, or that are no value at all.
fn what_without(key: &str) -> &'static str {
    match key {
        "backing" | "mountpoint" => "not set: it must be",
        "log-dir" => "not set: by the backing's name, below /var/lib/forelog or ~/.local/state/forelog",
        "log-size" => "not set: a quarter of the free space there, at most 64GiB",
        "reserve-max" => "not set: a quarter of the log",
        "log-file" => "not set: forelog.log in the log directory",
        _ => "not set",
    }
}

fn text(args: &MountArgs, env: impl Fn(&str) -> Option<String>, can: &Abilities) -> Result<String, Verdict> {
    let (settings, flags) = resolve::merge(args, env)?;
    let defaults = resolve::defaults(&settings, can)?;
    let mut out =
        String::from("# Every setting of forelog mount. For --config; a flag or FORELOG_* wins over it.\n");
    for key in KEYS.iter().filter(|k| !["config", "options"].contains(k)) {
        let line = match (settings.get(key), defaults.get(*key)) {
            (Some(s), _) => match SWITCHES.contains(key) {
                // Read already, so it is one of the two.
                true => format!("{key} = {}  # {}", super::units::boolean(&s.value).unwrap_or(false), s.from),
                // These two have no flag, they stand by themselves.
                false if s.from == format!("--{key}") && ["backing", "mountpoint"].contains(key) => {
                    format!("{key} = {}  # {key}", quoted(&s.value))
                }
                false => format!("{key} = {}  # {}", quoted(&s.value), s.from),
            },
            (None, Some(value)) => format!("{key} = {value}  # default"),
            (None, None) => format!("# {key} = \"\"  # {}", what_without(key)),
        };
        out += &(line + "\n");
    }
    let words = flag_words(&flags);
    if !words.is_empty() {
        out += &format!("options = {}  # -o, options\n", quoted(&words.join(",")));
    }
    debug_assert!(LIVE_KEYS.iter().all(|k| KEYS.contains(k)));
    Ok(out)
}

fn flag_words(f: &MountFlags) -> Vec<&'static str> {
    let all = [
        (f.allow_other, "allow_other"),
        (f.nosuid, "nosuid"),
        (f.nodev, "nodev"),
        (f.noexec, "noexec"),
        (f.noatime, "noatime"),
        (f.sync, "sync"),
        (f.dirsync, "dirsync"),
    ];
    all.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect()
}

/// A text as TOML has it.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Verb};
    use crate::cli::options::from_toml;
    use clap::Parser;

    fn printed(words: &[&str], env: &[(&str, &str)]) -> Result<String, Verdict> {
        let line = ["forelog", "mount"].into_iter().chain(words.iter().copied());
        let Verb::Mount(args) = Cli::try_parse_from(line).unwrap().verb else { panic!() };
        text(&args, |name| env.iter().find(|e| e.0 == name).map(|e| e.1.into()), &Abilities::SOME)
    }

    #[test]
    fn says_where_each_comes_from_and_reads_back() {
        let words = ["/b \"x\"", "/m", "--upload-limit", "5M", "--read-only", "-o", "nosuid,seal-after=7s"];
        let out = printed(&words, &[("FORELOG_THREADS", "3")]).unwrap();
        for line in [
            "backing = '/b \"x\"'  # backing",
            "upload-limit = \"5M\"  # --upload-limit",
            "read-only = true  # --read-only",
            "seal-after = \"7s\"  # -o seal-after",
            "threads = \"3\"  # FORELOG_THREADS",
            "writeback-age = \"30s\"  # default",
            "foreground = false  # default",
            "# metrics = \"\"  # not set",
            "options = \"nosuid\"  # -o, options",
        ] {
            assert!(out.lines().any(|l| l == line), "{line}\n{out}");
        }
        for key in KEYS.iter().filter(|k| !["config", "options"].contains(k)) {
            assert!(
                out.lines().any(|l| l.trim_start_matches("# ").starts_with(&format!("{key} = "))),
                "{key}"
            );
        }
        // As the config file it means the same.
        let again = from_toml(&out, "f").unwrap();
        assert_eq!(again.get("upload-limit").unwrap().value, "5M");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        crate::sys::paths::write_private(&file, out.as_bytes()).unwrap();
        let second = printed(&["--config", file.to_str().unwrap()], &[]).unwrap();
        let plain = |t: &str| -> Vec<String> {
            t.lines()
                .filter(|l| !l.starts_with('#'))
                .map(|l| l.split("  # ").next().unwrap().into())
                .collect()
        };
        assert_eq!(plain(&out), plain(&second));
    }

    #[test]
    fn a_wrong_value_is_refused() {
        assert!(printed(&["--seal-after", "5"], &[]).unwrap_err().message.starts_with("--seal-after: "));
        assert!(printed(&[], &[]).unwrap().contains("# backing = \"\"  # not set: it must be"));
    }
}
