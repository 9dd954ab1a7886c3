//! forelog: a FUSE filesystem with a local, crash-safe, predictive write-ahead log in front of a slow
//! store. The modules stand in floors; a module imports only lower floors (`tests/tidy.rs`).

// Tests may make files and wait as they like.
#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod config;
pub mod types;

pub mod format;
pub mod sys;

pub mod backing;
pub mod extents;
pub mod history;
pub mod namespace;
pub mod wal;

pub mod kept;
pub mod predict;
pub mod volume;

pub mod fs;
pub mod segmenter;
pub mod undo;
pub mod writeback;

pub mod control;
pub mod mount;

pub mod gateway;
pub mod replay;

pub mod cli;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
