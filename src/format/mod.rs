//! F1: bytes <-> structs, no I/O. The layouts are described in `docs/FORMAT.md` and held by golden
//! bytes in the tests beside each file.

pub mod checkpoint;
pub mod checksum;
pub mod codec;
pub mod frame;
pub mod kept;
pub mod mutation;
pub mod segment;

#[cfg(test)]
mod tests;
