//! Tells the program what it was built from: FORELOG_COMMIT (empty when unknown), FORELOG_TARGET, FORELOG_PROFILE.

// The rule is for the program: its files come in through `sys`, a build has no such place.
#![allow(clippy::disallowed_methods)]

use std::path::Path;
use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(out.stdout).ok()?.trim().to_owned())
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    // Sources unpacked inside somebody else's repository are not of its commit.
    let ours = git(&["rev-parse", "--show-toplevel"]).is_some_and(|top| Path::new(&top) == Path::new(&here));
    let commit = if ours { git(&["rev-parse", "--short=12", "HEAD"]) } else { None };
    if ours {
        for part in ["HEAD", "logs/HEAD"] {
            if let Some(file) = git(&["rev-parse", "--git-path", part]).filter(|f| Path::new(f).exists()) {
                println!("cargo:rerun-if-changed={file}");
            }
        }
    }
    println!("cargo:rustc-env=FORELOG_COMMIT={}", commit.unwrap_or_default());
    for (name, of) in [("FORELOG_TARGET", "TARGET"), ("FORELOG_PROFILE", "PROFILE")] {
        println!("cargo:rustc-env={name}={}", std::env::var(of).unwrap_or_default());
    }
}
