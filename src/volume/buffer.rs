//! Memory that reads are answered from. The large ones are kept and used again: new memory of that size is zeroed, page by page,
//! each time, which costs as much as copying into it.

use parking_lot::Mutex;
use std::ops::{Deref, DerefMut};

/// What is less is left to the allocator.
const KEPT_FROM: usize = 128 << 10;
/// The kernel asks for no more at once.
const KEPT_TO: usize = 1 << 20;
/// Buffers kept at most: 8 MiB.
const KEPT: usize = 8;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Bytes that were read.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// Room for so many bytes. What is in it is anything, earlier reads too: every byte must be written.
    pub(super) fn of(len: usize) -> Buffer {
        if !(KEPT_FROM..=KEPT_TO).contains(&len) {
            return vec![0; len].into();
        }
        let spare = SPARE.lock().pop();
        Buffer { bytes: spare.unwrap_or_else(|| vec![0; KEPT_TO]), len }
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        Buffer { len: bytes.len(), bytes }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() == KEPT_TO {
            let mut spare = SPARE.lock();
            if spare.len() < KEPT {
                spare.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_ones_are_used_again_and_small_ones_are_not_kept() {
        for len in [0, 1, KEPT_FROM - 1, KEPT_FROM, KEPT_TO, KEPT_TO + 1] {
            let mut b = Buffer::of(len);
            assert_eq!(b.len(), len);
            b.fill(7);
        }
        let many: Vec<Buffer> = (0..3 * KEPT).map(|_| Buffer::of(KEPT_FROM)).collect();
        drop(many);
        assert!(SPARE.lock().iter().all(|b| b.len() == KEPT_TO) && SPARE.lock().len() <= KEPT);
        assert_eq!(&*Buffer::from(vec![1, 2]), [1, 2]);
    }
}
