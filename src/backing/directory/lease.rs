//! The lease of a directory, a file that is locked, and the notes of logs, a file each.

use super::{DirectoryBacking, OURS};
use crate::backing::{HeldLease, Note};
use crate::sys::files;
use crate::sys::lock::{LockError, LockFile};
use std::io;
use std::path::PathBuf;

struct Held {
    file: PathBuf,
    _lock: LockFile,
}

impl HeldLease for Held {
    fn release(&mut self) -> io::Result<()> {
        match files::remove(&self.file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Takes a lock, or says in one line who has it.
fn take(path: PathBuf, what: &str, wall_ns: i64) -> Result<LockFile, String> {
    LockFile::acquire(&path, wall_ns).map_err(|e| match e {
        LockError::Held(by) => {
            format!("the {what} is in use: {} {by}; unmount that first", path.display())
        }
        LockError::Io(e) => format!("locking {} failed: {e}", path.display()),
    })
}

impl DirectoryBacking {
    fn ours(&self, name: &str) -> PathBuf {
        self.path.join(OURS).join(name)
    }

    pub(super) fn has_house_now(&self) -> bool {
        files::is_dir(&self.path.join(OURS))
    }

    /// One gateway a backing. Taking the lease must not move the root directory's times.
    pub(super) fn lease_now(&self, wall_ns: i64) -> Result<Box<dyn HeldLease>, String> {
        let times =
            super::attrs::times_of(self.root()).map_err(|e| format!("backing {}: {e}", self.shown))?;
        let file = self.ours("lease");
        let lock = take(file.clone(), "backing", wall_ns)?;
        self.restore_root_times(times);
        Ok(Box::new(Held { file, _lock: lock }))
    }

    pub(super) fn notes_now(&self) -> io::Result<Vec<Note>> {
        let dir = self.ours("logs");
        let mut out = Vec::new();
        let names = match files::list(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(out),
            other => other?,
        };
        for name in names.into_iter().filter(|n| !n.contains('.')) {
            let file = dir.join(&name);
            let text = String::from_utf8_lossy(&files::read(&file)?).trim().to_owned();
            out.push(Note { name, text, place: file.display().to_string() });
        }
        Ok(out)
    }

    pub(super) fn put_note_now(&self, name: &str, text: &str) -> io::Result<()> {
        let dir = self.ours("logs");
        files::create_dir_private(&dir)?;
        files::write_atomic(&dir.join(name), format!("{text}\n").as_bytes(), 0o600)
    }

    pub(super) fn drop_note_now(&self, name: &str) -> io::Result<()> {
        let dir = self.ours("logs");
        match files::remove(&dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        match files::remove_dir(&dir) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Ok(())
            }
            other => other,
        }
    }
}
