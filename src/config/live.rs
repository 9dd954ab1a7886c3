//! What of a mount's settings may be changed while it serves, and each as a text that reads back as itself.

use super::{Config, Hours, Idle, Predict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Log lines that are written: this grave and graver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLevel {
    /// What `RUST_LOG` says, `Info` without it.
    #[default]
    Auto,
    Error,
    Warn,
    Info,
    Debug,
}

impl LogLevel {
    /// All, by name.
    pub const NAMES: &'static [(&'static str, LogLevel)] = &[
        ("auto", LogLevel::Auto),
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
    ];
}

impl Idle {
    /// All, by name.
    pub const NAMES: &'static [(&'static str, Idle)] =
        &[("auto", Idle::Auto), ("poll", Idle::Poll), ("halt", Idle::Halt)];
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], of: &T) -> String {
    names.iter().find(|n| n.1 == *of).map_or("", |n| n.0).into()
}

impl fmt::Display for Predict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Predict::Auto => "auto",
            Predict::Off => "off",
            Predict::Model(name) => name,
        })
    }
}

/// The settings that may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    pub upload_limit: Option<u64>,
    pub upload_hours: Option<Hours>,
    /// Bytes a second outside of `upload_hours`; 0: nothing.
    pub upload_outside: u64,
    pub writeback_age: Duration,
    pub seal_after: Duration,
    pub commit_interval: Duration,
    pub umount_timeout: Duration,
    pub predict: Predict,
    pub reserve_bytes_max: u64,
    pub segment_bytes: u64,
    pub segment_bytes_min: u64,
    pub segment_bytes_max: u64,
    pub idle: Idle,
    pub log_level: LogLevel,
}

/// The keys of `Live`, as the flags are called.
pub const LIVE_KEYS: &[&str] = &[
    "upload-limit",
    "upload-hours",
    "upload-outside",
    "writeback-age",
    "seal-after",
    "commit-interval",
    "umount-timeout",
    "predict",
    "reserve-max",
    "segment-size",
    "segment-min",
    "segment-max",
    "idle",
    "log-level",
];

impl Live {
    /// As a mount begins.
    pub fn of(c: &Config) -> Live {
        Live {
            upload_limit: c.upload_limit,
            upload_hours: c.upload_hours.clone(),
            upload_outside: c.upload_outside,
            writeback_age: c.writeback_age,
            seal_after: c.seal_after,
            commit_interval: c.commit_interval,
            umount_timeout: c.umount_timeout,
            predict: c.predict.clone(),
            reserve_bytes_max: c.reserve_bytes_max,
            segment_bytes: c.segment_bytes,
            segment_bytes_min: c.segment_bytes_min,
            segment_bytes_max: c.segment_bytes_max,
            idle: c.idle,
            log_level: c.log_level,
        }
    }

    /// Every key with its value.
    pub fn texts(&self) -> BTreeMap<String, String> {
        let text = |key: &str| match key {
            "upload-limit" => self.upload_limit.map_or("none".into(), size_text),
            "upload-hours" => self.upload_hours.as_ref().map_or("none".into(), Hours::to_string),
            "upload-outside" => outside_text(self.upload_outside),
            "writeback-age" => duration_text(self.writeback_age),
            "seal-after" => duration_text(self.seal_after),
            "commit-interval" => duration_text(self.commit_interval),
            "umount-timeout" => duration_text(self.umount_timeout),
            "predict" => self.predict.to_string(),
            "reserve-max" => size_text(self.reserve_bytes_max),
            "segment-size" => size_text(self.segment_bytes),
            "segment-min" => size_text(self.segment_bytes_min),
            "segment-max" => size_text(self.segment_bytes_max),
            "idle" => name_of(Idle::NAMES, &self.idle),
            _ => name_of(LogLevel::NAMES, &self.log_level),
        };
        LIVE_KEYS.iter().map(|k| (k.to_string(), text(k))).collect()
    }

    /// What differs: key, value here, value there.
    pub fn changes(&self, to: &Live) -> Vec<(String, String, String)> {
        let there = to.texts();
        self.texts()
            .into_iter()
            .filter_map(|(key, was)| {
                let is = there.get(&key)?.clone();
                (is != was).then_some((key, was, is))
            })
            .collect()
    }
}

fn outside_text(rate: u64) -> String {
    if rate == 0 { "stop".into() } else { size_text(rate) }
}

/// A size that reads back as itself.
pub fn size_text(n: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| n > 0 && n.is_multiple_of(1 << shift)) {
        Some((shift, unit)) => format!("{}{unit}", n >> shift),
        None => n.to_string(),
    }
}

/// A duration that reads back as itself.
pub fn duration_text(d: Duration) -> String {
    let ns = d.as_nanos();
    let units = [
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ];
    match units.iter().find(|(unit, _)| ns > 0 && ns.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ns / unit),
        None if ns == 0 => "0s".into(),
        None => format!("{ns}ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_as_texts() {
        for (ns, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500_000_000, "1500ms"),
            (5_000_000_000, "5s"),
            (300_000_000_000, "5m"),
            (7_200_000_000_000, "2h"),
        ] {
            assert_eq!(duration_text(Duration::from_nanos(ns)), text);
        }
        assert_eq!([size_text(0), size_text(4 << 20), size_text(1000)], ["0", "4MiB", "1000"]);
        assert_eq!([outside_text(0), outside_text(1 << 20)], ["stop", "1MiB"]);
    }
}
