//! `.forelog/logs/` of a backing: a file for each log that may hold changes for it. It stays when a gateway dies, so that
//! another log's clean unmount does not take away the sign by which the backing is known.

use crate::config::Config;
use crate::sys::{files, lock};
use std::io;
use std::path::{Path, PathBuf};

const LOGS: &str = ".forelog/logs";

fn path(backing: &Path, tag: u64) -> PathBuf {
    backing.join(LOGS).join(format!("{tag:016x}"))
}

/// Says in the backing that this log may hold changes for it. Returns those of other logs: host and directory, as
/// they said, and the file that says it. Errors: the backing's.
pub fn put(config: &Config, tag: u64) -> io::Result<Vec<(String, PathBuf)>> {
    let dir = config.backing.join(LOGS);
    files::create_dir_private(&dir)?;
    let own = path(&config.backing, tag);
    let mut others = Vec::new();
    for name in files::list(&dir)? {
        let other = dir.join(&name);
        if other != own && !name.contains('.') {
            let said = String::from_utf8_lossy(&files::read(&other)?).trim().to_owned();
            others.push((said, other));
        }
    }
    let text = format!("{}:{}\n", lock::host(), config.log_dir.display());
    files::write_atomic(&own, text.as_bytes(), 0o600)?;
    Ok(others)
}

/// The log has nothing more for the backing.
pub fn remove(backing: &Path, tag: u64) -> io::Result<()> {
    match files::remove(&path(backing, tag)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    match files::remove_dir(&backing.join(LOGS)) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
        other => other,
    }
}
