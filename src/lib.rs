//! forelog: a FUSE filesystem with a local, crash-safe, predictive write-ahead log in front of a slow
//! store. The modules stand in floors; a module imports only lower floors (`tests/tidy.rs`).

pub mod types;

pub mod format;
pub mod sys;

pub mod backing;
pub mod extents;
pub mod history;
pub mod namespace;
pub mod wal;

pub mod volume;

pub mod fs;

pub mod mount;
