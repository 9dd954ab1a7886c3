//! The ring transport: a thread for each CPU, which serves what programs on that CPU ask for.

use super::answer::*;
use super::ops::{OwnedNew, how};
use super::serve::Serve;
use super::wire::{Call, Encode, Malformed, Names, Out, decode};
use crate::fs::Located;
use crate::sys::cpus;
use crate::sys::limits::short_turns;
use crate::sys::uring::{Ended, Ring, Slot, Stopper};
use crate::sys::worker::spawn;
use crate::types::{InodeId, Kind};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// Requests of one CPU that may be under way at once. One that waits (a sync, a slow read) keeps its entry, and
/// without a free one that CPU's programs wait.
const DEPTH: usize = 128;

/// For CPUs that are not there, which the kernel wants served too.
const DEPTH_ABSENT: usize = 2;

/// Most bytes of all entries' buffers together, of which only what requests filled is ever taken.
const BYTES_MAX: usize = 512 << 20;

/// Ends the connection when a ring cannot go on: those who wait for it get an error.
pub type Abort = Arc<dyn Fn(&str) + Send + Sync>;

/// How often the kernel is told that there are no rings, if that fails too.
const TRIES: usize = 3;

/// What became of the rings.
pub enum Started {
    Rings,
    /// The kernel did not take them, and goes on over the device.
    Declined(io::Error),
}

/// Rings that wait for their connection.
pub struct Rings {
    rings: Vec<(Option<usize>, Ring)>,
}

impl Rings {
    /// Makes all rings, whose entries take `payload_bytes`. Errors: the kernel gives us none.
    pub fn new(payload_bytes: usize) -> io::Result<Rings> {
        let (possible, online) = cpus::possible_and_online()?;
        // The kernel's queues are as many as CPUs could be, numbered like these.
        let number = |q: usize| u16::try_from(q).map_err(io::Error::other);
        let (here, absent): (Vec<usize>, Vec<usize>) = (0..possible.len()).partition(|q| online.contains(q));
        let depth = (BYTES_MAX / payload_bytes / here.len().max(1)).clamp(1, DEPTH);
        let mut rings = Vec::new();
        for cpu in here {
            rings.push((Some(cpu), Ring::new(&[number(cpu)?], depth, payload_bytes)?));
        }
        if !absent.is_empty() {
            let queues = absent.into_iter().map(number).collect::<io::Result<Vec<u16>>>()?;
            rings.push((None, Ring::new(&queues, DEPTH_ABSENT, payload_bytes)?));
        }
        let bytes: usize = rings.iter().map(|(_, r)| r.bytes_max()).sum();
        log::debug!("{} rings of {depth} entries, at most {bytes} bytes", rings.len());
        Ok(Rings { rings })
    }

    /// Serves the connection of `device`, whose INIT is answered, once the kernel took all rings. Errors: it has
    /// neither rings nor the word that there are none, so it holds back all requests for ever.
    pub fn start<O: Serve>(self, ops: &Arc<O>, device: BorrowedFd<'_>, abort: &Abort) -> io::Result<Started> {
        let stoppers: Vec<Stopper> = self.rings.iter().map(|(_, r)| r.stopper()).collect();
        let Err(why) = self.start_all(ops, device, abort) else { return Ok(Started::Rings) };
        stoppers.iter().for_each(Stopper::stop);
        let mut declined = Ring::decline(device);
        for _ in 1..TRIES {
            declined = declined.or_else(|_| Ring::decline(device));
        }
        declined.map(|()| Started::Declined(why))
    }

    fn start_all<O: Serve>(self, ops: &Arc<O>, device: BorrowedFd<'_>, abort: &Abort) -> io::Result<()> {
        let (said, hear) = channel();
        let n = self.rings.len();
        for (cpu, ring) in self.rings {
            let (ops, abort, said) = (ops.clone(), abort.clone(), said.clone());
            let device = device.try_clone_to_owned()?;
            let name = cpu.map_or("ring".into(), |c| format!("ring-{c}"));
            spawn(&name, move || serve(cpu, ring, &*ops, device, &abort, &said))?;
        }
        drop(said);
        (0..n).try_for_each(|_| hear.recv().map_err(io::Error::other)?)
    }
}

/// A ring's thread.
fn serve(
    cpu: Option<usize>,
    mut ring: Ring,
    ops: &impl Serve,
    device: OwnedFd,
    abort: &Abort,
    said: &Sender<io::Result<()>>,
) {
    // One client's stream must not hold up another's fsync.
    short_turns(0);
    if let Some(cpu) = cpu
        && let Err(e) = cpus::pin(cpu)
    {
        log::debug!("a ring's thread cannot stay on CPU {cpu}: {e}");
    }
    let registered = {
        use std::os::fd::AsFd;
        ring.register(device.as_fd())
    };
    let fails = registered.is_err();
    // Nobody hears it when the mount has failed already.
    let _ = said.send(registered);
    if fails {
        return;
    }
    let why = match catch_unwind(AssertUnwindSafe(|| ring.run(|slot| dispatch(ops, slot)))) {
        Ok(Ok(Ended::Connection | Ended::Stopped)) => return,
        Ok(Err(e)) => e.to_string(),
        Err(_) => "it panicked".to_owned(),
    };
    abort(&format!("the thread of ring {} ended: {why}", cpu.map_or(-1, |c| c as i64)));
}

/// Decodes a request and calls its operation.
fn dispatch(ops: &impl Serve, slot: Slot) {
    let (header, op, payload) = slot.request();
    let Ok(r) = decode(header, op, payload) else {
        let Malformed = Malformed;
        log::warn!("a request cannot be read: {:?}", header.get(..8));
        return slot.commit(libc::EIO, 0);
    };
    let (by, node) = (r.header.by, r.header.node);
    match r.call {
        Call::Lookup { name } => ops.lookup(node, name.to_vec(), slot),
        Call::Getattr => ops.getattr(node, slot),
        Call::Setattr(set) => ops.setattr(by, node, set, slot),
        Call::Readlink => ops.readlink(node, slot),
        Call::Symlink { name, target } => {
            ops.make(by, node, name.to_vec(), OwnedNew::symlink(target.to_vec()), slot)
        }
        Call::Mknod { name, mode, umask, rdev } => {
            ops.mknod(by, node, name.to_vec(), (mode, umask, rdev), slot)
        }
        Call::Mkdir { name, mode, umask } => {
            ops.make(by, node, name.to_vec(), OwnedNew::plain(Kind::Dir, mode, umask, 0), slot)
        }
        Call::Remove { name, dir } => ops.remove(by, node, name.to_vec(), dir, slot),
        Call::Rename { name, to, to_name, flags } => {
            ops.rename(by, (node, name.to_vec()), (to, to_name.to_vec()), flags, slot)
        }
        Call::Link { ino, name } => ops.link(by, ino, node, name.to_vec(), slot),
        Call::Open { flags } => ops.open(by, node, how(flags), slot),
        Call::Create { name, mode, umask, flags } => {
            ops.create(by, node, name.to_vec(), (mode, umask), how(flags), slot)
        }
        Call::Read { offset, size } => ops.read(node, offset, size, slot),
        Call::Write(at) => ops.write(by, at, slot),
        Call::Statfs => ops.statfs(slot),
        Call::Release { fh } => ops.release(fh, slot),
        Call::Fsync => ops.fsync(by, node, slot),
        Call::Syncfs => ops.syncfs(slot),
        Call::Destroy => ops.destroy(slot),
        Call::Setxattr { name, value, flags } => {
            ops.setxattr(by, node, name.to_vec(), value.to_vec(), flags, slot)
        }
        Call::Getxattr { name, size } => ops.getxattr(node, name.to_vec(), size, slot),
        Call::Listxattr { size } => ops.listxattr(node, size, slot),
        Call::Removexattr { name } => ops.removexattr(by, node, name.to_vec(), slot),
        Call::Flush => ops.flush(by, node, slot),
        Call::Opendir => ops.opendir(slot),
        Call::Readdir { offset, size } => ops.readdir(node, offset, Listed { slot, at: 0, size }),
        Call::Readdirplus { offset, size } => ops.readdirplus(node, offset, Listed { slot, at: 0, size }),
        Call::Releasedir => slot.commit(0, 0),
        Call::Ioctl { unrestricted: false } => slot.commit(libc::ENOTTY, 0),
        Call::Fallocate { offset, len, mode } => ops.fallocate(by, node, (offset, len), mode, slot),
        Call::Lseek { offset, whence } => ops.lseek(node, offset, whence, slot),
        Call::CopyRange(range) => ops.copy_range(by, range, slot),
        Call::Ioctl { unrestricted: true } | Call::Other => slot.commit(libc::ENOSYS, 0),
    }
}

impl<T: Encode> Reply<T> for Slot {
    fn ok(mut self, value: T) {
        let mut out = Out::new(self.answer_mut());
        value.encode(&mut out);
        match out.end() {
            Some(n) => self.commit(0, n),
            // Asked for at most the size of the buffer, so it is answered with no more.
            None => self.commit(libc::EIO, 0),
        }
    }
    fn refuse(self, errno: i32) {
        self.commit(errno, 0);
    }
}

/// The bytes stay where the kernel put them, however long the write waits.
impl Carries for Slot {
    type Kept = Slot;
    type Reply = Slot;
    fn bytes(&self) -> &[u8] {
        self.payload()
    }
    fn keep(self) -> Slot {
        self
    }
    fn into_reply(self) -> Slot {
        self
    }
}

/// A listing in an entry's buffer.
struct Listed {
    slot: Slot,
    /// Bytes so far.
    at: usize,
    size: u32,
}

impl Listed {
    /// True when full.
    fn add(&mut self, push: impl FnOnce(&mut Names<'_>) -> bool) -> bool {
        let mut names = Names::new(self.slot.answer_mut(), self.at, self.size);
        let fits = push(&mut names);
        self.at = names.at();
        !fits
    }
}

impl ReplyNames for Listed {
    fn name(&mut self, ino: InodeId, cookie: u64, kind: Kind, name: &[u8]) -> bool {
        self.add(|n| n.push(ino, cookie, kind, name))
    }
    fn plus(&mut self, cookie: u64, name: &[u8], l: &Located) -> bool {
        self.add(|n| n.push_plus(cookie, name, l))
    }
    fn end(self) {
        self.slot.commit(0, self.at);
    }
    fn refuse(self, errno: i32) {
        self.slot.commit(errno, 0);
    }
}
