//! The engine that the command line drives.

use super::{inspect, run};
use crate::config::Config;
use crate::control::{Abilities, Engine, Replay, Train, Verdict};
use crate::sys::daemon::Ready;
use std::io::Write;
use std::path::Path;

/// This build.
pub struct ForelogEngine;

impl Engine for ForelogEngine {
    fn abilities(&self) -> Abilities {
        Abilities {
            uring: true,
            wait_umount: true,
            metrics: true,
            takeover: true,
            bucket: true,
            durability_backing: false,
            models: super::replayed::models(),
            policies: super::replayed::policies(),
        }
    }

    fn run_mount(&self, config: Config, ready: Ready) -> Verdict {
        match run(config, &ready) {
            Ok(v) => v,
            Err(e) => Verdict::refused(e),
        }
    }

    fn fsck(&self, log_dir: &Path, json: bool) -> Result<(String, bool), String> {
        inspect::fsck(log_dir, json)
    }

    fn dump(&self, log_dir: &Path, out: &mut dyn Write) -> Result<(), String> {
        inspect::dump(log_dir, out)
    }

    fn replay(&self, r: &Replay) -> Result<String, String> {
        super::replayed::run(r)
    }

    fn train(&self, t: &Train, progress: &mut dyn FnMut(String)) -> Result<String, String> {
        super::replayed::train(t, progress)
    }
}
