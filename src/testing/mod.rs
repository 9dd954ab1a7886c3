//! Test doubles for the I/O seams: a disk that loses what was not synced, a backing in memory that can
//! die or fail at any call, a clock that only moves when told to, and seeded randomness. Whoever
//! drives them with one seed sees the same run again.

mod backing;
mod clock;
mod dice;
mod disk;
mod plug;

pub use backing::{MemBacking, Thing};
pub use clock::ManualClock;
pub use dice::Dice;
pub use disk::SimDisk;
pub use plug::{Plug, Trouble};
