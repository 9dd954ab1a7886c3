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

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Error::NotFound => "no such file or directory",
            Error::Exists => "it exists already",
            Error::NotDirectory => "not a directory",
            Error::IsDirectory => "it is a directory",
            Error::NotEmpty => "the directory is not empty",
            Error::NotPermitted => "not permitted",
            Error::AccessDenied => "access denied",
            Error::Invalid => "invalid argument",
            Error::NameTooLong => "the name is too long",
            Error::TooManyLinks => "too many links",
            Error::FileTooLarge => "the file would be too large",
            Error::NoAttribute => "no such attribute",
            Error::TooBig => "the value is too big",
            Error::RangeTooSmall => "the buffer is too small",
            Error::CrossDevice => "it is on another filesystem",
            Error::NotSupported => "not supported",
            Error::ReadOnly => "read-only",
            Error::BadHandle => "bad file handle",
            Error::NoData => "no data there",
            Error::Stale => "the inode is gone",
            Error::NoRoom => "the store has no room for it",
            Error::Full => "the log is full",
            Error::WouldBlock => "it would have to wait",
            Error::Damaged => "a record that holds it is damaged",
            Error::Log(e) => return write!(f, "the log's disk: {e}"),
            Error::Backing(e) => return write!(f, "the backing: {e}"),
            Error::SyncFailed(n) => {
                return write!(f, "a sync of the log failed: {}", io::Error::from_raw_os_error(*n));
            }
        })
    }
}

impl std::error::Error for Error {}

/// Outcome of an operation.
pub type Result<T> = std::result::Result<T, Error>;
