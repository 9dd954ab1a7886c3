//! F2: the Write Pattern History: what was written when, by which client and program, through which
//! port. `record` is the write path's side (no locks, bounded); `drain` and [`Pattern`] are the
//! 50 ms loop's side: series at four resolutions, births of clients, kept across restarts.

mod births;
mod pattern;
mod persist;
mod programs;
pub mod recording;
mod ring;
mod series;

pub use births::{BIRTH_WINDOW_NS, Birth, Births};
pub use pattern::{Pattern, Scope};
pub use programs::{PROGRAMS_MAX, Programs};
pub use ring::History;
pub use series::{Bucket, Resolution, Series};

use crate::types::{ClientId, How, InodeId, ProgramId};

/// One write or file event. Events (open, create, fsync, release) carry no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Monotonic time, nanoseconds.
    pub at_ns: u64,
    pub client: ClientId,
    pub program: ProgramId,
    pub bytes: u32,
    /// With `how`, the port.
    pub inode: InodeId,
    pub how: How,
}

impl Sample {
    /// True for what adds bytes to the log; false for events, punches and truncates without bytes.
    pub fn is_write(&self) -> bool {
        self.bytes > 0
    }
}
