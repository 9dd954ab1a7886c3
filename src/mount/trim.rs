//! Asking the kernel to give back inodes it caches, so that memory stays bounded: it otherwise keeps
//! every name it ever saw until the whole machine runs short.

use crate::volume::{INODES_MAX, NAMES_MAX, Surplus, Volume};
use fuser::{INodeNo, Notifier};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// `FUSE_NOTIFY_PRUNE` of the kernel's interface 7.45 (Linux 6.18): drop these inodes if nothing uses them.
const PRUNE: i32 = 9;

/// Inodes named in one notification.
const AT_ONCE: usize = 512;

/// Keeps the inodes and names in memory under their caps.
pub struct Trimmer {
    volume: Arc<Volume>,
    device: OwnedFd,
    notifier: Notifier,
    /// The kernel knows `PRUNE`, as far as known.
    prunes: bool,
}

impl Trimmer {
    pub(super) fn new(volume: Arc<Volume>, device: OwnedFd, notifier: Notifier) -> Trimmer {
        Trimmer { volume, device, notifier, prunes: true }
    }

    /// Asks for what is too much now. The kernel gives it back by FORGET, soon after. Never on a thread
    /// that serves requests: the kernel waits for locks that a request may hold.
    pub fn step(&mut self) {
        self.volume.trim_names(NAMES_MAX);
        let surplus = self.volume.surplus(INODES_MAX);
        if surplus.is_empty() {
            return;
        }
        log::debug!("{} inodes in memory, asking {} back", self.volume.inodes(), surplus.len());
        for part in surplus.chunks(AT_ONCE) {
            if let Err(e) = self.ask(part) {
                log::debug!("asking the kernel for inodes failed: {e}");
                return;
            }
        }
    }

    fn ask(&mut self, part: &[Surplus]) -> io::Result<()> {
        if self.prunes {
            match rustix::io::write(self.device.as_fd(), &prune(part)) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INVAL) => {
                    log::info!("the kernel cannot prune inodes; names are invalidated instead");
                    self.prunes = false;
                }
                Err(e) => return Err(e.into()),
            }
        }
        // Without a look whether it is in use: harmless to a file, but a directory someone works in
        // would lose its name.
        for s in part.iter().filter(|s| !s.is_dir) {
            self.notifier.inval_entry(INodeNo(s.parent.0), OsStr::from_bytes(&s.name))?;
        }
        Ok(())
    }
}

/// The notification as the kernel reads it: `fuse_out_header`, `fuse_notify_prune_out`, the numbers.
fn prune(part: &[Surplus]) -> Vec<u8> {
    let len = 16 + 16 + 8 * part.len();
    let mut m = Vec::with_capacity(len);
    m.extend_from_slice(&(len as u32).to_ne_bytes());
    m.extend_from_slice(&PRUNE.to_ne_bytes());
    m.extend_from_slice(&0u64.to_ne_bytes());
    m.extend_from_slice(&(part.len() as u32).to_ne_bytes());
    m.extend_from_slice(&[0; 12]);
    part.iter().for_each(|s| m.extend_from_slice(&s.ino.0.to_ne_bytes()));
    m
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::InodeId;

    #[test]
    fn a_prune_is_laid_out_as_the_kernel_reads_it() {
        let s =
            |n: u64| Surplus { ino: InodeId(n), is_dir: false, parent: InodeId(1), name: b"a"[..].into() };
        let m = prune(&[s(7), s(1 << 62)]);
        assert_eq!(m.len(), 48);
        assert_eq!(m[..8], [48, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(m[16..20], [2, 0, 0, 0]);
        assert_eq!(m[32..40], 7u64.to_ne_bytes());
        assert_eq!(m[40..48], (1u64 << 62).to_ne_bytes());
    }
}
