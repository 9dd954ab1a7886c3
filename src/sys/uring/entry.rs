//! The entries' buffers, and who may touch them: the kernel, or the one [`Slot`] of a request under way.

use super::SERVED;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// `struct fuse_uring_req_header`: header of the request or of the answer, the operation's own, and
/// `struct fuse_uring_ent_in_out`.
pub const HEADER_BYTES: usize = 128;
pub const OP_BYTES: usize = 128;
const RING_AT: usize = HEADER_BYTES + OP_BYTES;
const COMMIT_ID_AT: usize = RING_AT + 8;
const PAYLOAD_BYTES_AT: usize = COMMIT_ID_AT + 8;
const HEADERS_BYTES: usize = PAYLOAD_BYTES_AT + 4 + 4 + 8;
const _: () = assert!(HEADERS_BYTES == 288);

/// `struct fuse_out_header`; the request's number stands in the same place in `struct fuse_in_header`.
const OUT_ERROR_AT: usize = 4;
const UNIQUE_AT: usize = 8;
const OUT_BYTES: usize = UNIQUE_AT + 8;
const _: () = assert!(OUT_BYTES == 16);

/// Headers of one entry to those of the next.
const STRIDE: usize = 512;
const PAGE: usize = 4096;
const _: () = assert!(STRIDE >= HEADERS_BYTES && PAGE.is_multiple_of(STRIDE));

/// Says which request an answer is for.
pub struct CommitId(pub u64);

/// The buffers of a ring: the headers of all entries, then their payloads, then 8 bytes for the bell.
pub struct Memory {
    at: NonNull<u8>,
    entries: usize,
    payload_bytes: usize,
}

// SAFETY: it is memory of this process, freed by whoever drops it last; who may touch which part of it when
// is a matter of the entries' states, kept by `Slot` and the ring.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub fn new(entries: usize, payload_bytes: usize) -> io::Result<Memory> {
        let payload_bytes = payload_bytes.next_multiple_of(PAGE);
        let bytes = total(entries, payload_bytes);
        // SAFETY: a new private mapping at a place of the kernel's choice.
        let at = unsafe {
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            libc::mmap(ptr::null_mut(), bytes, prot, flags, -1, 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a hint on our own mapping: huge pages would take memory that no request touches.
        unsafe { libc::madvise(at, bytes, libc::MADV_NOHUGEPAGE) };
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Memory { at, entries, payload_bytes })
    }

    pub fn bytes(&self) -> usize {
        total(self.entries, self.payload_bytes)
    }

    fn headers(&self, entry: u32) -> *mut u8 {
        assert!((entry as usize) < self.entries);
        // SAFETY: within the mapping, by `total`.
        unsafe { self.at.as_ptr().add(entry as usize * STRIDE) }
    }

    fn payload(&self, entry: u32) -> *mut u8 {
        assert!((entry as usize) < self.entries);
        // SAFETY: within the mapping, by `total`.
        unsafe { self.at.as_ptr().add(headers_total(self.entries) + entry as usize * self.payload_bytes) }
    }

    /// Where the kernel puts the number of rings of the bell.
    pub fn scratch(&self) -> *mut u8 {
        // SAFETY: the last page of the mapping, by `total`.
        unsafe { self.at.as_ptr().add(self.bytes() - PAGE) }
    }

    /// An entry's two buffers, as the kernel is told of them.
    pub fn buffers(&self, entry: u32) -> [libc::iovec; 2] {
        [
            libc::iovec { iov_base: self.headers(entry).cast(), iov_len: HEADERS_BYTES },
            libc::iovec { iov_base: self.payload(entry).cast(), iov_len: self.payload_bytes },
        ]
    }

    /// Of an entry whose request was answered.
    pub fn commit_id(&self, entry: u32) -> CommitId {
        // SAFETY: within the headers; aligned, since STRIDE and the offset are multiples of 8; between the answer
        // and the commit only the ring's thread touches them.
        CommitId(unsafe { self.headers(entry).add(COMMIT_ID_AT).cast::<u64>().read() })
    }
}

fn headers_total(entries: usize) -> usize {
    (entries * STRIDE).next_multiple_of(PAGE)
}

fn total(entries: usize, payload_bytes: usize) -> usize {
    headers_total(entries) + entries * payload_bytes + PAGE
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nobody holds any more. The kernel writes into it only on the ring's thread,
        // within its calls, and that thread held a reference.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes()) };
    }
}

/// What a ring's thread shares with those who answer for it.
pub struct Shared {
    pub memory: Memory,
    answered: Mutex<Vec<u32>>,
    /// The ring's thread waits, or is about to.
    pub asleep: AtomicBool,
    pub stop: AtomicBool,
    pub bell: OwnedFd,
}

impl Shared {
    pub fn new(memory: Memory) -> io::Result<Shared> {
        let answered = Mutex::new(Vec::with_capacity(memory.entries));
        let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Shared { memory, answered, asleep: AtomicBool::new(false), stop: AtomicBool::new(false), bell })
    }

    /// Nothing waits for the ring's thread.
    pub fn is_quiet(&self) -> bool {
        self.answered.lock().is_empty() && !self.stop.load(Ordering::SeqCst)
    }

    pub fn take_answered(&self) -> Vec<u32> {
        std::mem::take(&mut *self.answered.lock())
    }

    /// The emptied vector, so that its memory is used again.
    pub fn give_back(&self, empty: Vec<u32>) {
        let mut now = self.answered.lock();
        if now.is_empty() {
            *now = empty;
        }
    }

    pub fn ring_bell(&self) {
        if let Err(e) = rustix::io::write(&self.bell, &1u64.to_ne_bytes()) {
            log::error!("waking the thread of a ring failed: {e}");
        }
    }

    fn answer(&self, entry: u32) {
        self.answered.lock().push(entry);
        let here = SERVED.with(|s| ptr::eq(s.get(), self));
        if !here && self.asleep.swap(false, Ordering::SeqCst) {
            self.ring_bell();
        }
    }
}

/// A request under way and the right to its entry's buffers, until it is answered. Dropped unanswered it says EIO.
pub struct Slot {
    shared: Arc<Shared>,
    entry: u32,
    answered: bool,
}

impl Slot {
    /// For an entry that just completed: the kernel left it to us.
    pub(super) fn new(shared: Arc<Shared>, entry: u32) -> Slot {
        Slot { shared, entry, answered: false }
    }

    fn headers(&self) -> &[u8] {
        // SAFETY: HEADERS_BYTES of the mapping, all of it initialised (zeros at first); no one writes to them while
        // this slot is borrowed: the kernel is done with the entry, and there is one slot for it.
        unsafe { std::slice::from_raw_parts(self.shared.memory.headers(self.entry), HEADERS_BYTES) }
    }

    fn headers_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `headers`; borrowed mutably, so by one alone.
        unsafe { std::slice::from_raw_parts_mut(self.shared.memory.headers(self.entry), HEADERS_BYTES) }
    }

    /// The request's header, the operation's own, and the rest of the request.
    pub fn request(&self) -> (&[u8], &[u8], &[u8]) {
        let h = self.headers();
        (&h[..HEADER_BYTES], &h[HEADER_BYTES..RING_AT], self.payload())
    }

    /// What of the request did not go into its headers.
    pub fn payload(&self) -> &[u8] {
        let len: [u8; 4] = std::array::from_fn(|i| self.headers()[PAYLOAD_BYTES_AT + i]);
        let len = (u32::from_ne_bytes(len) as usize).min(self.shared.memory.payload_bytes);
        // SAFETY: as in `headers`, for the entry's payload.
        unsafe { std::slice::from_raw_parts(self.shared.memory.payload(self.entry), len) }
    }

    /// Where the answer goes.
    pub fn answer_mut(&mut self) -> &mut [u8] {
        let len = self.shared.memory.payload_bytes;
        // SAFETY: as in `headers`, for the entry's payload; borrowed mutably, so by one alone.
        unsafe { std::slice::from_raw_parts_mut(self.shared.memory.payload(self.entry), len) }
    }

    /// Answers with the first `len` bytes of `answer_mut`, or with an errno.
    pub fn commit(mut self, errno: i32, len: usize) {
        self.finish(errno, len);
    }

    fn finish(&mut self, errno: i32, len: usize) {
        self.answered = true;
        let len = if errno == 0 { len as u32 } else { 0 };
        let h = self.headers_mut();
        h[..OUT_ERROR_AT].copy_from_slice(&(OUT_BYTES as u32 + len).to_ne_bytes());
        h[OUT_ERROR_AT..UNIQUE_AT].copy_from_slice(&(-errno).to_ne_bytes());
        h[PAYLOAD_BYTES_AT..PAYLOAD_BYTES_AT + 4].copy_from_slice(&len.to_ne_bytes());
        self.shared.answer(self.entry);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.answered {
            self.finish(libc::EIO, 0);
        }
    }
}

#[cfg(test)]
impl Slot {
    pub(super) fn shared_for_test(&self) -> Arc<Shared> {
        self.shared.clone()
    }
}

#[cfg(test)]
pub(super) fn slot_for_test(payload: &[u8]) -> Slot {
    let memory = Memory::new(2, payload.len()).expect("a test has memory");
    let shared = Arc::new(Shared::new(memory).expect("a test has descriptors"));
    let mut slot = Slot::new(shared, 1);
    slot.answer_mut()[..payload.len()].copy_from_slice(payload);
    let len = (payload.len() as u32).to_ne_bytes();
    slot.headers_mut()[PAYLOAD_BYTES_AT..PAYLOAD_BYTES_AT + 4].copy_from_slice(&len);
    slot
}
