//! Going to the background: the parent starts its own program again as a session leader without a
//! terminal and waits for one word over a pipe, which is the child's stdout until it detaches.

use super::notify::notify;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Longest message a child sends its parent.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;

/// What the child said before it went its own way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The mount answers.
    Mounted,
    /// It gave up: exit code and cause.
    Failed { code: u8, message: String },
    /// It ended without a word.
    Died(String),
}

/// The parent's end.
pub struct Background {
    child: Child,
    pipe: ChildStdout,
}

impl Background {
    /// Starts this program again with `args`; its stderr goes to `log`.
    pub fn start(args: &[OsString], log: File) -> io::Result<Background> {
        let mut child = Command::new(own_program())
            .arg0("forelog")
            .args(args)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let pipe = child.stdout.take().ok_or_else(|| io::Error::other("the child has no pipe"))?;
        Ok(Background { child, pipe })
    }

    /// Waits for the child's word; calls `slow` once if it takes longer than `patience`.
    pub fn wait(mut self, patience: Duration, slow: impl FnOnce()) -> io::Result<Word> {
        let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        if poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&timeout)) == Ok(0) {
            slow();
        }
        let mut text = Vec::new();
        (&mut self.pipe).take(MESSAGE_BYTES_MAX).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        match parse_word(&text) {
            Some(word) => Ok(word),
            None => Ok(Word::Died(self.child.wait()?.to_string())),
        }
    }
}

/// Leaves the starting directory, so that its filesystem can be unmounted. Relative paths end here.
pub fn leave_directory() -> io::Result<()> {
    std::env::set_current_dir("/")
}

/// The program's file, or the kernel's link to it when it was replaced since.
fn own_program() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) if super::paths::exists(&path) => path,
        _ => PathBuf::from("/proc/self/exe"),
    }
}

fn parse_word(text: &str) -> Option<Word> {
    if text == "mounted\n" {
        return Some(Word::Mounted);
    }
    let (code, message) = text.strip_prefix("failed ")?.split_once('\n')?;
    Some(Word::Failed { code: code.parse().ok()?, message: message.trim_end().to_string() })
}

/// Where a gateway says that its mount answers: to the waiting parent when in the background, to the
/// service manager when in front. Clones share one state; only the first word counts.
#[derive(Clone)]
pub struct Ready {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    pipe: Option<File>,
    said: bool,
    background: bool,
}

impl Ready {
    /// For a gateway in front.
    pub fn foreground() -> Ready {
        Ready { inner: Arc::new(Mutex::new(Inner { pipe: None, said: false, background: false })) }
    }

    /// For the child of `Background::start`: leaves the session and takes the pipe off stdout.
    ///
    /// # Errors
    /// When stdout is no pipe, so that nobody waits at its other end.
    pub fn background() -> io::Result<Ready> {
        use rustix::fs::{FileType, fstat};
        let stdout = io::stdout();
        if FileType::from_raw_mode(fstat(stdout.as_fd())?.st_mode) != FileType::Fifo {
            return Err(io::Error::other("stdout is not the pipe of a waiting forelog"));
        }
        let pipe = File::from(stdout.as_fd().try_clone_to_owned()?);
        let null = File::options().write(true).open("/dev/null")?;
        // SAFETY: both fds are open; dup2 replaces fd 1 atomically and nothing holds fd 1 as owned.
        if unsafe { libc::dup2(null.as_raw_fd(), 1) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // Fails only when already a leader, and then there is nothing to leave.
        rustix::process::setsid().ok();
        let inner = Inner { pipe: Some(pipe), said: false, background: true };
        Ok(Ready { inner: Arc::new(Mutex::new(inner)) })
    }

    /// In front: the service manager, if there is one, is ours to tell.
    pub fn is_foreground(&self) -> bool {
        !self.inner.lock().background
    }

    /// The mount answers requests.
    pub fn mounted(&self) {
        self.say("mounted\n", "READY=1\nSTATUS=serving");
    }

    /// The gateway has begun to end.
    pub fn stopping(&self) {
        if self.is_foreground()
            && let Err(e) = notify("STOPPING=1\nSTATUS=draining")
        {
            log::warn!("cannot tell the service manager: {e}");
        }
    }

    /// The mount will not come; the parent prints `message` and exits with `code`.
    pub fn failed(&self, code: u8, message: &str) {
        self.say(&format!("failed {code}\n{message}\n"), "STOPPING=1");
    }

    /// True once one of `mounted` and `failed` was called.
    pub fn has_spoken(&self) -> bool {
        self.inner.lock().said
    }

    fn say(&self, to_parent: &str, to_manager: &str) {
        let mut inner = self.inner.lock();
        if std::mem::replace(&mut inner.said, true) {
            return;
        }
        let told = match inner.pipe.take() {
            Some(mut pipe) => pipe.write_all(to_parent.as_bytes()),
            None => notify(to_manager),
        };
        // The parent may have been killed while it waited: the mount is good all the same.
        if let Err(e) = told {
            log::warn!("nobody hears that the mount is ready: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(parse_word("mounted\n"), Some(Word::Mounted));
        let failed = Word::Failed { code: 2, message: "no\nspace".into() };
        assert_eq!(parse_word("failed 2\nno\nspace\n"), Some(failed));
        for bad in ["", "mount", "failed", "failed x\n", "failed 700\nm"] {
            assert_eq!(parse_word(bad), None);
        }
    }

    #[test]
    fn only_the_first_word_counts() {
        let ready = Ready::foreground();
        assert!(!ready.has_spoken());
        ready.clone().mounted();
        assert!(ready.has_spoken());
        ready.failed(2, "late");
    }
}
