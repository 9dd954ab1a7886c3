//! An exclusive lock on a file, held by a process and released by the kernel when it dies. The
//! file names the holder, so that a second one can say who is in the way.

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// A line longer than this is not ours.
const LINE_BYTES_MAX: usize = 512;

/// How often 10 ms are waited for a holder that is dying.
const DYING_WAITS: u32 = 50;

/// Why the lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Someone holds it. The text names them: `held by pid N on host H since T`.
    Held(String),
    /// The file cannot be used.
    Io(io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held(by) => f.write_str(by),
            LockError::Io(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for LockError {}

impl From<Errno> for LockError {
    fn from(e: Errno) -> Self {
        LockError::Io(e.into())
    }
}

/// A held lock; dropping it, or any death of the process, lets go. The file stays.
#[derive(Debug)]
pub struct LockFile {
    file: File,
}

impl LockFile {
    /// Takes the lock at once or says who holds it. `wall_ns` is the time to write as "since",
    /// nanoseconds since 1970.
    pub fn acquire(path: &Path, wall_ns: i64) -> Result<LockFile, LockError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?.into();
        let take = || flock(&file, FlockOperation::NonBlockingLockExclusive);
        let mut waits = 0;
        loop {
            match rustix::io::retry_on_intr(take) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {
                    let by = holder(&file);
                    // A gateway that was killed lets go at the end of its exit, when its pid may be gone.
                    if waits == DYING_WAITS || is_alive(&by) {
                        return Err(LockError::Held(by));
                    }
                    waits += 1;
                    crate::sys::worker::sleep(Duration::from_millis(10));
                }
                Err(e) => return Err(e.into()),
            }
        }
        let lock = LockFile { file };
        lock.write_holder(wall_ns).map_err(LockError::Io)?;
        Ok(lock)
    }

    /// Writes this process as the holder: again after a fork into the background, since the child
    /// has the lock but another pid.
    pub fn write_holder(&self, wall_ns: i64) -> io::Result<()> {
        let line = format!("{}\n", holder_line(wall_ns));
        self.file.write_all_at(line.as_bytes(), 0)?;
        self.file.set_len(line.len() as u64)
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Nothing to name once it is free; the lock itself goes with the last descriptor, so let
        // go by hand in case a child still has one.
        let _ = self.file.set_len(0);
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// This process as the holder of something.
pub fn holder_line(wall_ns: i64) -> String {
    format!("pid {} on host {} since {}", std::process::id(), host(), utc(wall_ns))
}

/// Name of this machine.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether the process that a holder's line names runs; true where that cannot be told.
pub fn is_alive(by: &str) -> bool {
    let host = host();
    let mut words = by.split(' ').skip_while(|w| *w != "pid").skip(1);
    let (pid, of) = (words.next(), words.nth(2));
    let Some(pid) = pid.and_then(|p| p.parse::<u32>().ok()).filter(|_| of == Some(&host)) else {
        return true;
    };
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !matches!(stat.rsplit(") ").next().and_then(|s| s.chars().next()), Some('Z' | 'X')),
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    }
}

/// The line of the holder. It may be taking the lock this instant, so give it a moment to write.
fn holder(file: &File) -> String {
    for _ in 0..10 {
        let mut buf = [0u8; LINE_BYTES_MAX];
        let n = file.read_at(&mut buf, 0).unwrap_or(0);
        if let Some(end) = buf[..n].iter().position(|b| *b == b'\n') {
            let line = String::from_utf8_lossy(&buf[..end]);
            let clean: String = line.chars().filter(|c| !c.is_control()).collect();
            return format!("held by {clean}");
        }
        crate::sys::worker::sleep(Duration::from_millis(10));
    }
    "held by another process that has not said its name".into()
}

/// Time as `2026-11-22T13:14:15Z`. Days to a date by Howard Hinnant's `civil_from_days`.
pub fn utc(wall_ns: i64) -> String {
    let secs = wall_ns.div_euclid(1_000_000_000);
    let (days, of_day) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(-1), "1969-12-31T23:59:59Z");
        assert_eq!(utc(1_709_164_800_000_000_000), "2024-02-29T00:00:00Z");
        assert_eq!(utc(1_795_353_255_000_000_000), "2026-11-22T13:14:15Z");
    }

    #[test]
    fn the_second_is_told_of_the_first() {
        let t = tempfile::tempdir().unwrap();
        let p = t.path().join("lock");
        let first = LockFile::acquire(&p, 0).unwrap();
        let e = LockFile::acquire(&p, 1).unwrap_err().to_string();
        assert!(e.starts_with(&format!("held by pid {} on host ", std::process::id())), "{e}");
        assert!(e.ends_with("since 1970-01-01T00:00:00Z"), "{e}");
        drop(first);
        let again = LockFile::acquire(&p, 2).unwrap();
        again.write_holder(3_000_000_000).unwrap();
        assert!(LockFile::acquire(&p, 1).unwrap_err().to_string().ends_with(":03Z"));
    }

    #[test]
    fn a_killed_holder_is_no_obstacle() {
        let t = tempfile::tempdir().unwrap();
        let p = t.path().join("lock");
        let file = File::create(&p).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        let child = std::process::Command::new("sleep").arg("60").stdin(file).spawn();
        let mut child = child.unwrap();
        assert!(matches!(LockFile::acquire(&p, 1), Err(LockError::Held(_))));
        child.kill().unwrap();
        child.wait().unwrap();
        LockFile::acquire(&p, 1).unwrap();
    }
}
