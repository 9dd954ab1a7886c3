//! The kernel's FUSE interface (`linux/fuse.h`, 7.31 and up) as bytes: requests in, answers out. For the ring alone:
//! over the device this is fuser's.

mod answer;
mod request;

pub use answer::{Encode, Names, Out};
pub use request::{Call, Header, Malformed, Request, decode};

/// `struct fuse_in_header`.
const IN_HEADER_BYTES: usize = 40;

/// Structures of answers.
const ATTR_BYTES: usize = 88;
const ENTRY_OUT_BYTES: usize = 8 * 4 + 4 * 2 + ATTR_BYTES;
const ATTR_OUT_BYTES: usize = 8 + 4 + 4 + ATTR_BYTES;
const OPEN_OUT_BYTES: usize = 8 + 4 + 4;
const KSTATFS_BYTES: usize = 8 * 5 + 4 * 4 + 4 * 6;
const DIRENT_BYTES: usize = 8 + 8 + 4 + 4;
const _: () = assert!(OPEN_OUT_BYTES == 16);
const _: () = assert!(ENTRY_OUT_BYTES == 128 && ATTR_OUT_BYTES == 104 && KSTATFS_BYTES == 80);
const _: () = assert!(DIRENT_BYTES.is_multiple_of(8) && ENTRY_OUT_BYTES.is_multiple_of(8));

#[cfg(test)]
mod tests;
