//! Why an operation was refused. `fs/error.rs` turns it into an errno.

use std::io;

/// A refusal. Nothing has changed.
#[derive(Debug)]
pub enum Error {
    NotFound,
    Exists,
    NotDirectory,
    IsDirectory,
    NotEmpty,
    NotPermitted,
    AccessDenied,
    Invalid,
    NameTooLong,
    TooManyLinks,
    FileTooLarge,
    NoAttribute,
    TooBig,
    RangeTooSmall,
    CrossDevice,
    NotSupported,
    ReadOnly,
    BadHandle,
    NoData,
    Stale,
    /// A limit of the store that waiting does not lift.
    NoRoom,
    /// The log has no room now; waiting may help.
    Full,
    /// It would have to wait, and this thread may not.
    WouldBlock,
    /// The log device failed.
    Log(io::Error),
    /// A sync of the log failed, with this errno.
    SyncFailed(i32),
    /// The backing failed.
    Backing(io::Error),
    /// A record that holds these bytes is damaged.
    Damaged,
}

/// Outcome of an operation.
pub type Result<T> = std::result::Result<T, Error>;
