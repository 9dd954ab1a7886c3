//! Who is behind a thread id, and when that process ends. Reads only `status` and `stat`:
//! `cmdline` and `maps` may wait for a process that waits for us.

use parking_lot::Mutex;
use rustix::event::epoll;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Thread group id: what users call the pid.
    pub tgid: u32,
    /// Program name as in `/proc/PID/comm`.
    pub comm: String,
}

/// The process of thread `tid`. `NotFound` once it is gone or where `/proc` hides it; 0 is none.
/// The answer may be of a later thread with the same id, so it steers placement only.
///
/// Reads `status` alone. `stat` takes locks that a process in exec holds while it waits for us to
/// serve its pages (seen on Linux 6.18: the request and the read wait for each other for ever).
pub fn of_thread(tid: u32) -> io::Result<Process> {
    if tid == 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut buf = [0u8; 2048];
    let n = read(&format!("/proc/{tid}/status"), &mut buf)?;
    let field = |name: &[u8]| {
        let line = buf[..n].split(|b| *b == b'\n').find_map(|l| l.strip_prefix(name))?;
        Some(String::from_utf8_lossy(line).trim().to_owned())
    };
    let tgid = field(b"Tgid:").and_then(|t| t.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    if tgid == tid {
        return Ok(Process { tgid, comm: field(b"Name:").unwrap_or_default() });
    }
    // The name of the process is its first thread's.
    let n = read(&format!("/proc/{tgid}/comm"), &mut buf)?;
    Ok(Process { tgid, comm: String::from_utf8_lossy(&buf[..n]).trim_end().to_owned() })
}

/// How a process came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its start in clock ticks since boot; with the tgid it names a process for good.
    pub start_ticks: u64,
    /// The process that started it, or that took it over; 0: none that we can see.
    pub parent: u32,
}

/// Where a process comes from. May wait as long as the process waits for us (see `of_thread`): never ask it in a
/// request.
pub fn origin(tgid: u32) -> io::Result<Origin> {
    let mut buf = [0u8; 2048];
    let n = read(&format!("/proc/{tgid}/stat"), &mut buf)?;
    Ok(parse_stat(&buf[..n]).ok_or(io::ErrorKind::InvalidData)?)
}

/// The user (real uid) and the text of `/proc/PID/cgroup` of a process.
pub fn uid_and_cgroup(tgid: u32) -> io::Result<(u32, String)> {
    let mut buf = [0u8; 8192];
    let n = read(&format!("/proc/{tgid}/status"), &mut buf)?;
    let uid = buf[..n].split(|b| *b == b'\n').find_map(|l| l.strip_prefix(b"Uid:"));
    let uid = uid.and_then(|l| std::str::from_utf8(l).ok()?.split_ascii_whitespace().next()?.parse().ok());
    let uid = uid.ok_or(io::ErrorKind::InvalidData)?;
    let n = read(&format!("/proc/{tgid}/cgroup"), &mut buf)?;
    Ok((uid, String::from_utf8_lossy(&buf[..n]).into_owned()))
}

/// One read is enough: the kernel makes such a file up whole for it.
fn read(path: &str, buf: &mut [u8]) -> io::Result<usize> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *buf)) {
        // The process ended between open and read.
        Err(Errno::SRCH) => Err(io::ErrorKind::NotFound.into()),
        other => Ok(other?),
    }
}

/// Fields 4 and 22. The comm before it is in parentheses and may itself hold spaces and parentheses.
fn parse_stat(stat: &[u8]) -> Option<Origin> {
    let close = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(&stat[close + 1..]).ok()?;
    // What follows the comm is field 3.
    let field = |n: usize| rest.split_ascii_whitespace().nth(n - 3);
    Some(Origin { start_ticks: field(22)?.parse().ok()?, parent: field(4)?.parse().ok()? })
}

/// Tells of the end of processes. Any thread may add while one waits.
pub struct ExitWatch {
    epoll: OwnedFd,
    watched: Mutex<HashMap<u32, OwnedFd>>,
    max: usize,
}

impl ExitWatch {
    /// Watches at most `max` processes at once: each takes a descriptor.
    pub fn new(max: usize) -> io::Result<ExitWatch> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(ExitWatch { epoll, watched: Mutex::new(HashMap::new()), max })
    }

    /// Watches the process `pid` (a thread group id). `false` when there is no room: forget it
    /// by age instead. `NotFound` when it has ended already.
    pub fn add(&self, pid: u32) -> io::Result<bool> {
        let none = || io::Error::from(io::ErrorKind::NotFound);
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(none)?;
        let mut watched = self.watched.lock();
        if watched.contains_key(&pid) {
            return Ok(true);
        }
        if watched.len() >= self.max {
            return Ok(false);
        }
        let fd = match pidfd_open(id, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Err(none()),
            Err(e) => return Err(e.into()),
        };
        let data = epoll::EventData::new_u64(u64::from(pid));
        epoll::add(&self.epoll, &fd, data, epoll::EventFlags::IN)?;
        watched.insert(pid, fd);
        Ok(true)
    }

    /// Waits until some of them have ended, or for `timeout` (then the list is empty). Each is
    /// told of once and no longer watched.
    pub fn wait(&self, timeout: Duration) -> io::Result<Vec<u32>> {
        // The plain call counts milliseconds in an i32; a day is long enough.
        let ms = timeout.as_millis().min(86_400_000) as i64;
        let limit = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
        let mut room = [const { MaybeUninit::<epoll::Event>::uninit() }; 64];
        let events = match epoll::wait(&self.epoll, &mut room, Some(&limit)) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut watched = self.watched.lock();
        let mut ended = Vec::with_capacity(events.len());
        for event in events {
            let pid = event.data.u64() as u32;
            if watched.remove(&pid).is_some() {
                ended.push(pid);
            }
        }
        Ok(ended)
    }

    /// Processes watched now.
    pub fn len(&self) -> usize {
        self.watched.lock().len()
    }

    /// True when none is watched.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn odd_names_in_stat() {
        let mut line = b"42 (a) (b c) S".to_vec();
        for f in 4..30 {
            line.extend_from_slice(format!(" {}", f * 100).as_bytes());
        }
        assert_eq!(parse_stat(&line), Some(Origin { start_ticks: 2200, parent: 400 }));
        assert_eq!(parse_stat(b"42 (x"), None);
        assert_eq!(parse_stat(b")("), None);
    }

    #[test]
    fn a_thread_belongs_to_its_process() {
        let here = of_thread(std::process::id()).unwrap();
        let there = crate::sys::worker::spawn("other", || {
            of_thread(rustix::thread::gettid().as_raw_nonzero().get() as u32).unwrap()
        });
        assert_eq!(there.unwrap().join().unwrap(), here);
        assert_eq!(here.tgid, std::process::id());
        let origin = origin(here.tgid).unwrap();
        assert!(origin.start_ticks > 0 && origin.parent > 0);
        assert_eq!(of_thread(0).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(of_thread(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_exit_is_told_once() {
        let watch = ExitWatch::new(1).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(watch.add(child.id()).unwrap());
        assert!(watch.add(child.id()).unwrap());
        assert!(!watch.add(std::process::id()).unwrap());
        assert!(watch.wait(Duration::from_millis(20)).unwrap().is_empty());
        child.kill().unwrap();
        assert_eq!(watch.wait(Duration::from_secs(10)).unwrap(), [child.id()]);
        child.wait().unwrap();
        assert!(watch.is_empty());
        assert_eq!(watch.add(child.id()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
