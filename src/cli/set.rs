//! `forelog set`: settings of a mount while it serves. What is given is laid over what is, read by the rules of a mount, and
//! sent as a whole.

use super::args_control::SetArgs;
use super::gateway::{reach, status};
use super::options::{KEYS, Settings, suggestion, usage};
use super::{output, resolve};
use crate::config::{LIVE_KEYS, Live};
use crate::control::protocol::{Reply, Request};
use crate::control::{Abilities, CHANGED_MEANWHILE, Engine, Status, Verdict};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// The gateway's answer to a change is given this long.
const LIMIT: Duration = Duration::from_secs(10);

/// Tries when others change settings at the same time.
const TRIES: usize = 5;

/// Runs the verb.
pub fn run(args: &SetArgs, engine: &dyn Engine) -> Verdict {
    let attempt = || -> Result<Verdict, Verdict> {
        // A word that is wrong is told whether a gateway answers or not.
        let changes = changes(&args.changes)?;
        let can = engine.abilities();
        let status = match changes.is_empty() {
            true => status(&args.mountpoint)?,
            false => change(&args.mountpoint, &changes, &can)?,
        };
        match args.json {
            true => Ok(output::print(&(json(&status) + "\n"))),
            false if changes.is_empty() => Ok(output::print(&listing(&status))),
            false => Ok(Verdict::done("")),
        }
    };
    attempt().unwrap_or_else(|verdict| verdict)
}

fn json(status: &Status) -> String {
    serde_json::to_string(&status.settings).expect("a map of texts always serialises")
}

fn listing(status: &Status) -> String {
    status.settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}

/// `KEY=VALUE` words, each key once and one that may change.
fn changes(words: &[String]) -> Result<BTreeMap<&'static str, String>, Verdict> {
    let mut changes = BTreeMap::new();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let plain = name.replace('_', "-");
        let Some(key) = LIVE_KEYS.iter().find(|k| **k == plain).copied() else {
            return Err(usage(match KEYS.contains(&plain.as_str()) {
                true => format!("set {name}: cannot change while mounted; unmount, and mount with --{plain}"),
                false => match suggestion(name, LIVE_KEYS) {
                    near if near.is_empty() => {
                        format!("set {name}: no such key; there are: {}", LIVE_KEYS.join(", "))
                    }
                    near => format!("set {name}: no such key{near}"),
                },
            }));
        };
        if !word.contains('=') || value.is_empty() {
            return Err(usage(format!("set {name}: needs a value: {name}=...")));
        }
        if changes.insert(key, value.to_owned()).is_some() {
            return Err(usage(format!("set {name}: given twice")));
        }
    }
    Ok(changes)
}

/// The settings that are, and those that are to be; notes of what was rounded or cut.
fn planned(
    status: &Status,
    changes: &BTreeMap<&'static str, String>,
    can: &Abilities,
) -> Result<(Live, Live, Vec<String>), Verdict> {
    let mut now = Settings::default();
    for key in LIVE_KEYS {
        if let Some(value) = status.settings.get(*key) {
            now.set(key, value, format!("the gateway's {key}"));
        }
    }
    let log_bytes = status.log.capacity_bytes;
    let (expected, _) = resolve::live(&now, can, log_bytes)?;
    let mut wanted = Settings::default();
    for (key, value) in changes {
        wanted.set(key, value, format!("set {key}={value}"));
    }
    wanted.fill_from(now);
    let (wanted, mut notes) = resolve::live(&wanted, can, log_bytes)?;
    notes.retain(|n| changes.keys().any(|key| n.starts_with(&format!("--{key} "))));
    Ok((expected, wanted, notes))
}

fn change(
    mountpoint: &Path,
    changes: &BTreeMap<&'static str, String>,
    can: &Abilities,
) -> Result<Status, Verdict> {
    let failed = |e: String| Verdict::refused(format!("{}: {e}", mountpoint.display()));
    let mut refused = Verdict::refused(CHANGED_MEANWHILE);
    for _ in 0..TRIES {
        let mut status = status(mountpoint)?;
        let (expected, wanted, notes) = planned(&status, changes, can)?;
        let texts = wanted.texts();
        let request = Request::Set { expected: Box::new(expected), wanted: Box::new(wanted) };
        match reach(mountpoint)?.call(&request, Some(LIMIT), &mut |_| ()).map_err(failed)? {
            Reply::Done { .. } => {
                notes.iter().for_each(|n| eprintln!("forelog: note: {}", n.replacen("--", "", 1)));
                status.settings = texts;
                return Ok(status);
            }
            Reply::Refused { code, message, .. } if message == CHANGED_MEANWHILE => {
                refused = Verdict { code, message };
            }
            Reply::Refused { code, message, .. } => return Err(Verdict { code, message }),
            _ => return Err(failed("the gateway gave no answer".into())),
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Hours, Idle, LogLevel, Predict};

    fn live() -> Live {
        Live {
            upload_limit: Some(1000),
            upload_hours: Some(Hours::parse("22:00-06:30").unwrap()),
            upload_outside: 5 << 20,
            writeback_age: Duration::from_millis(1500),
            seal_after: Duration::from_secs(5),
            commit_interval: Duration::from_secs(1),
            umount_timeout: Duration::from_secs(300),
            predict: Predict::Model("ewma2".into()),
            reserve_bytes_max: 12_345_678,
            segment_bytes: 4 << 20,
            segment_bytes_min: 256 << 10,
            segment_bytes_max: 16 << 20,
            idle: Idle::Halt,
            log_level: LogLevel::Debug,
        }
    }

    fn try_with(words: &[&str]) -> Result<(Live, Live, Vec<String>), Verdict> {
        let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
        let mut status = Status { settings: live().texts(), ..Status::default() };
        status.log.capacity_bytes = 1 << 30;
        planned(&status, &changes(&words)?, &Abilities::SOME)
    }

    #[test]
    fn what_the_gateway_says_reads_back_as_it_is() {
        let (expected, wanted, notes) = try_with(&[]).unwrap();
        assert_eq!((expected, wanted, notes.len()), (live(), live(), 0));
        assert_eq!(live().texts().len(), LIVE_KEYS.len());
    }

    #[test]
    fn all_keys_or_none() {
        let (_, wanted, _) =
            try_with(&["upload-limit=none", "upload_hours=none", "writeback-age=5m", "predict=auto"])
                .unwrap();
        let want = Live {
            upload_limit: None,
            upload_hours: None,
            writeback_age: Duration::from_secs(300),
            predict: Predict::Auto,
            ..live()
        };
        assert_eq!(wanted, want);
        let (_, wanted, notes) = try_with(&["segment-size=3M"]).unwrap();
        assert_eq!((wanted.segment_bytes, notes.len()), (4 << 20, 1));
    }

    #[test]
    fn refusals_name_the_key_and_what_is_allowed() {
        let refusal = |words: &[&str]| {
            let e = try_with(words).unwrap_err();
            assert!(e.code == 1 || e.code == 2);
            e.message
        };
        for (words, want) in [
            (&["uplod-limit=1M"][..], "set uplod-limit: no such key; did you mean 'upload-limit'?"),
            (&["log-dir=/x"], "set log-dir: cannot change while mounted; unmount, and mount with --log-dir"),
            (&["upload-limit"], "set upload-limit: needs a value: upload-limit=..."),
            (&["idle=halt", "idle=poll"], "set idle: given twice"),
            (&["upload-limit=fast"], "set upload-limit=fast: 'fast' is no rate; write one as 10MiB/s or 10M"),
            (&["idle=x"], "set idle=x: 'x' is none of auto, poll, halt"),
            (&["seal-after=2h"], "set seal-after=2h: 2h is not between 10ms and 1h"),
            (&["upload-limit=1M", "segment-min=8M"], "the segment sizes disagree: "),
        ] {
            let got = refusal(words);
            assert!(got.starts_with(want), "{got}");
        }
        assert!(refusal(&["zzzzzzzzzz=1"]).contains("there are: upload-limit, "));
        assert!(refusal(&["predict=ewma"]).contains("did you mean 'ewma2'?"));
    }
}
