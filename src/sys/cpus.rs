//! The machine's CPUs, and staying on one of them.

use rustix::fs::{Mode, OFlags};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io;
use std::os::fd::OwnedFd;

/// CPUs there could be, and those that are there now. Errors: sysfs cannot be read.
pub fn possible_and_online() -> io::Result<(Vec<usize>, Vec<usize>)> {
    let read = |what: &str| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/{what}"))?;
        parse(&text)
            .ok_or_else(|| io::Error::other(format!("the list of {what} CPUs cannot be read: {text}")))
    };
    Ok((read("possible")?, read("online")?))
}

/// `0-3,8` as the kernel lists them.
fn parse(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        if to >= CpuSet::MAX_CPU {
            return None;
        }
        cpus.extend(from..=to);
    }
    Some(cpus)
}

/// Idle CPUs of the whole machine do not halt while this lives: they wait for work in a loop (`/dev/cpu_dma_latency`,
/// Documentation/power/pm_qos_interface.rst). Waking one that halted takes 20 to 30 us in a virtual machine.
pub struct NoHalt {
    _device: OwnedFd,
}

impl NoHalt {
    /// Errors: not root, or no such device.
    pub fn begin() -> io::Result<NoHalt> {
        let device =
            rustix::fs::open("/dev/cpu_dma_latency", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        // Microseconds that waking may take.
        rustix::io::write(&device, &0i32.to_ne_bytes())?;
        Ok(NoHalt { _device: device })
    }
}

/// Keeps the calling thread on one CPU. Errors: it may not run there.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(parse("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse("0\n"), Some(vec![0]));
        assert_eq!(parse("\n"), Some(vec![]));
        assert_eq!(parse("0-x"), None);
        assert_eq!(parse("0-99999999999"), None);
        let (possible, online) = possible_and_online().unwrap();
        assert!(online.iter().all(|c| possible.contains(c)) && !online.is_empty());
    }
}
