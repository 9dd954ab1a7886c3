//! The program's log lines: to stderr, which in the background is the log file.

/// A log file larger than this is set aside when a mount starts.
pub const ROTATE_BYTES: u64 = 16 << 20;

pub use crate::sys::logging::init;
