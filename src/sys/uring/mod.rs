//! FUSE over io_uring (Linux 6.14, Documentation/filesystems/fuse/fuse-io-uring.rst): the kernel puts a request into
//! the buffers of an entry that we registered; the answer goes into the same buffers, and one command commits it
//! and waits for the entry's next request. Only a ring's own thread submits; others hand it what they answered.

mod entry;

pub use entry::{HEADER_BYTES, OP_BYTES, Slot};

use entry::{CommitId, Memory, Shared};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// `fuse_uring_cmd` of the kernel's interface.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;

/// `struct fuse_uring_cmd_req`: flags, commit id, queue, padding.
const COMMIT_ID_AT: usize = 8;
const QUEUE_AT: usize = COMMIT_ID_AT + 8;
const COMMAND_BYTES: usize = QUEUE_AT + 2 + 6;
const _: () = assert!(COMMAND_BYTES == 24 && COMMAND_BYTES <= 80);

/// `len` of a submission entry; the crate's `UringCmd80` leaves it out.
const SQE_LEN_AT: usize = 24;
const _: () = assert!(size_of::<squeue::Entry128>() == 128);

/// Marks the completion of the wait for other threads.
const WAKE: u64 = u64::MAX;

/// Completions taken before their answers are submitted.
const AT_ONCE: usize = 8;

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

thread_local! {
    /// What the ring served by this thread shares; only compared.
    static SERVED: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

/// Whether the kernel offers FUSE over io_uring now. Errors: one line, what is missing and what to do.
pub fn offered() -> Result<(), String> {
    match std::fs::read_to_string(PARAMETER).as_deref().map(str::trim) {
        Ok("Y" | "1") => Ok(()),
        Ok(_) => Err(format!("FUSE over io_uring is switched off; as root: echo Y > {PARAMETER}")),
        Err(_) => Err("this kernel has no FUSE over io_uring (it needs Linux 6.14)".into()),
    }
}

/// Why a ring ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The connection is gone: unmounted or aborted.
    Connection,
    /// Told to stop.
    Stopped,
}

/// Stops a ring from another thread.
#[derive(Clone)]
pub struct Stopper(Arc<Shared>);

impl Stopper {
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::SeqCst);
        self.0.ring_bell();
    }
}

/// One ring, with entries for one or more of the kernel's queues.
pub struct Ring {
    uring: IoUring<squeue::Entry128, cqueue::Entry>,
    shared: Arc<Shared>,
    /// The queue of each entry.
    queues: Vec<u16>,
    device: Option<OwnedFd>,
    /// Entries whose first request came with the registration.
    early: Vec<u32>,
}

impl Ring {
    /// A ring with `depth` entries for each of `queues`, whose buffers take `payload_bytes`. Memory is taken as it
    /// is touched. Errors: the kernel has no io_uring, or not for us.
    pub fn new(queues: &[u16], depth: usize, payload_bytes: usize) -> io::Result<Ring> {
        let queues: Vec<u16> = queues.iter().flat_map(|q| std::iter::repeat_n(*q, depth)).collect();
        let memory = Memory::new(queues.len(), payload_bytes)?;
        // Each entry has at most one command under way, and there is the wait for the bell.
        let commands = (queues.len() + 1).next_power_of_two() as u32;
        // Requests are delivered when its one thread waits, not whenever that enters the kernel: 3 % less time each.
        let uring = IoUring::builder()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_r_disabled()
            .build(commands)?;
        let shared = Arc::new(Shared::new(memory)?);
        Ok(Ring { uring, shared, queues, device: None, early: Vec::new() })
    }

    pub fn stopper(&self) -> Stopper {
        Stopper(self.shared.clone())
    }

    /// Bytes of all buffers, if all were touched.
    pub fn bytes_max(&self) -> usize {
        self.shared.memory.bytes()
    }

    /// Gives the entries to the kernel, for the connection of `device` whose INIT is answered. On the thread that
    /// will serve them. Errors: a queue got no entry.
    pub fn register(&mut self, device: BorrowedFd<'_>) -> io::Result<()> {
        let device = device.try_clone_to_owned()?;
        let failed = self.offer(device.as_fd())?;
        let has_one = |q: &u16| self.queues.iter().zip(&failed).any(|(of, e)| of == q && *e == 0);
        if let Some(&why) = failed.iter().find(|e| **e != 0) {
            let why = io::Error::from_raw_os_error(why);
            if !self.queues.iter().all(has_one) {
                return Err(why);
            }
            log::warn!("some entries of a ring could not be registered: {why}");
        }
        self.device = Some(device);
        Ok(())
    }

    /// Tells the kernel that this connection gets no rings after all: it goes on over the device. Errors: it may
    /// not have heard.
    pub fn decline(device: BorrowedFd<'_>) -> io::Result<()> {
        // A registration that it refuses, for a CPU that cannot be, is how it is told.
        let mut ring = Ring::new(&[u16::MAX], 1, 4096)?;
        match ring.offer(device)?.first() {
            Some(0) | None => Err(io::Error::other("the kernel took a ring for a CPU that cannot be")),
            Some(_) => Ok(()),
        }
    }

    /// Makes the calling thread the ring's.
    fn own(&self) -> io::Result<()> {
        self.uring.submitter().register_enable_rings()
    }

    /// Submits all entries' registrations; returns the errno of each, 0 for those that stand.
    fn offer(&mut self, device: BorrowedFd<'_>) -> io::Result<Vec<i32>> {
        self.own()?;
        // The kernel reads these only while they are submitted.
        let buffers: Vec<[libc::iovec; 2]> =
            (0..self.queues.len()).map(|i| self.shared.memory.buffers(i as u32)).collect();
        for (i, both) in buffers.iter().enumerate() {
            let mut e = command(device, REGISTER, 0, self.queues[i], Some(both.as_ptr() as u64));
            // SAFETY: an entry is 128 plain bytes, as asserted above, and borrowed by us alone.
            let raw = unsafe { &mut *ptr::from_mut(&mut e).cast::<[u8; 128]>() };
            raw[SQE_LEN_AT..SQE_LEN_AT + 4].copy_from_slice(&2u32.to_ne_bytes());
            self.push(e.user_data(i as u64))?;
        }
        self.submit_all()?;
        drop(buffers);
        // One that stands completes with the entry's first request, one that fails at once.
        let mut failed = vec![0; self.queues.len()];
        for c in self.uring.completion() {
            match c.result() {
                0 => self.early.push(c.user_data() as u32),
                e => failed[c.user_data() as usize] = -e,
            }
        }
        Ok(failed)
    }

    /// Gives each request to `serve` until the connection has ended or a stop is asked for. Errors: the ring
    /// cannot go on, so someone must end the connection.
    pub fn run(&mut self, mut serve: impl FnMut(Slot)) -> io::Result<Ended> {
        SERVED.set(Arc::as_ptr(&self.shared));
        self.listen()?;
        for entry in std::mem::take(&mut self.early) {
            serve(Slot::new(self.shared.clone(), entry));
        }
        loop {
            self.push_answered()?;
            self.wait()?;
            for _ in 0..AT_ONCE {
                let Some(c) = self.uring.completion().next() else { break };
                match (c.user_data(), c.result()) {
                    (WAKE, r) if r > 0 || matches!(-r, libc::EINTR | libc::EAGAIN) => self.listen()?,
                    (entry, 0) => serve(Slot::new(self.shared.clone(), entry as u32)),
                    (_, e) if matches!(-e, libc::ENOTCONN | libc::ECONNABORTED | libc::ENODEV) => {
                        return Ok(Ended::Connection);
                    }
                    (_, e) => return Err(io::Error::from_raw_os_error(-e)),
                }
            }
            if self.shared.stop.load(Ordering::SeqCst) {
                return Ok(Ended::Stopped);
            }
        }
    }

    /// Submits, and waits for something to do.
    fn wait(&mut self) -> io::Result<()> {
        // Said first, looked after: whoever answers in between rings the bell.
        self.shared.asleep.store(true, Ordering::SeqCst);
        let wanted = if self.shared.is_quiet() { 1 } else { 0 };
        let r = self.uring.submit_and_wait(wanted);
        self.shared.asleep.store(false, Ordering::SeqCst);
        match r {
            Err(e) if !may_go_on(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Commits what was answered, here or elsewhere.
    fn push_answered(&mut self) -> io::Result<()> {
        let Some(device) = &self.device else { return Err(io::Error::other("no entry is registered")) };
        let mut answered = self.shared.take_answered();
        let mut full = Ok(());
        for &entry in &answered {
            let CommitId(id) = self.shared.memory.commit_id(entry);
            let queue = self.queues[entry as usize];
            let e = command(device.as_fd(), COMMIT_AND_FETCH, id, queue, None).user_data(entry as u64);
            // SAFETY: the command points to no memory; the entry's buffers live as long as `shared`, and nobody
            // else touches them until its next completion.
            full = full.and(unsafe { self.uring.submission().push(&e) });
        }
        answered.clear();
        self.shared.give_back(answered);
        full.map_err(io::Error::other)
    }

    /// Waits for the bell, once.
    fn listen(&mut self) -> io::Result<()> {
        let (bell, into) = (self.shared.bell.as_raw_fd(), self.shared.memory.scratch());
        self.push(opcode::Read::new(types::Fd(bell), into, 8).build().user_data(WAKE).into())
    }

    fn push(&mut self, e: squeue::Entry128) -> io::Result<()> {
        // SAFETY: what the command points to outlives it: iovecs until they are submitted, buffers as long as
        // `shared`, which lives as long as the ring.
        unsafe { self.uring.submission().push(&e) }.map_err(io::Error::other)
    }

    fn submit_all(&mut self) -> io::Result<()> {
        while !self.uring.submission().is_empty() {
            match self.uring.submit() {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Ring {
    /// What comes now is answered by nobody: the connection has ended, or is aborted.
    fn drop(&mut self) {
        SERVED.set(ptr::null());
    }
}

fn may_go_on(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

fn command(
    device: BorrowedFd<'_>,
    what: u32,
    commit_id: u64,
    queue: u16,
    iovecs: Option<u64>,
) -> squeue::Entry128 {
    let mut cmd = [0; 80];
    cmd[COMMIT_ID_AT..QUEUE_AT].copy_from_slice(&commit_id.to_ne_bytes());
    cmd[QUEUE_AT..QUEUE_AT + 2].copy_from_slice(&queue.to_ne_bytes());
    opcode::UringCmd80::new(types::Fd(device.as_raw_fd()), what).cmd(cmd).addr(iovecs).build()
}

#[cfg(test)]
mod tests;
