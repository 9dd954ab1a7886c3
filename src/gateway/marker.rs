//! `.forelog/logs/` of a backing: a note for each log that may hold changes for it. It stays when a gateway dies, so that
//! another log's clean unmount does not take away the sign by which the backing is known.

use crate::backing::{Backing, Note};
use crate::config::Config;
use crate::sys::lock;
use std::io;

fn name(tag: u64) -> String {
    format!("{tag:016x}")
}

/// Says in the backing that this log may hold changes for it. Returns what other logs said. Errors: the backing's.
pub fn put(backing: &dyn Backing, config: &Config, tag: u64) -> io::Result<Vec<Note>> {
    let mut others = backing.notes()?;
    others.retain(|n| n.name != name(tag));
    backing.put_note(&name(tag), &format!("{}:{}", lock::host(), config.log_dir.display()))?;
    Ok(others)
}

/// The log has nothing more for the backing.
pub fn remove(backing: &dyn Backing, tag: u64) -> io::Result<()> {
    backing.drop_note(&name(tag))
}
