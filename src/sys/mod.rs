//! F1: the door to the OS. All `unsafe` of the crate is here, and all direct use of files, time, threads.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod beneath;
pub mod blockdev;
pub mod clock;
pub mod cpus;
pub mod daemon;
pub mod disk;
pub mod files;
pub mod fstype;
pub mod fusemount;
pub mod limiter;
pub mod limits;
pub mod lock;
pub mod logging;
pub mod mountinfo;
pub mod mounts;
pub mod notify;
pub mod paths;
pub mod patience;
pub mod peercred;
pub mod pool;
pub mod proc;
pub mod published;
pub mod pulse;
pub mod restore;
pub mod signal;
pub mod uring;
pub mod utab;
pub mod worker;
pub mod xattr;

#[cfg(test)]
pub mod testing;
