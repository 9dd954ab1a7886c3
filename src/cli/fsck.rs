//! `forelog fsck`.

use super::args::FsckArgs;
use super::output;
use crate::control::{Engine, Verdict};

/// Runs the verb: code 2 when the log is damaged or cannot be read.
pub fn run(args: &FsckArgs, engine: &dyn Engine) -> Verdict {
    match engine.fsck(&args.log_dir, args.json) {
        Ok((report, clean)) => {
            let printed = output::print(&output::line(report));
            match clean {
                true => printed,
                false => Verdict::refused(format!(
                    "{}: the log is damaged; the report names what is lost",
                    args.log_dir.display()
                )),
            }
        }
        Err(e) => Verdict::refused(e),
    }
}
