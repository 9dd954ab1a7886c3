//! F1: the door to the OS. All `unsafe` of the crate is here.

pub mod beneath;
pub mod clock;
pub mod disk;
pub mod files;
pub mod fusemount;
pub mod limits;
pub mod lock;
pub mod mountinfo;
pub mod patience;
pub mod proc;
pub mod published;
pub mod signal;
pub mod utab;
pub mod worker;
pub mod xattr;

#[cfg(test)]
pub mod testing;
