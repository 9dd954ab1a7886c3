//! Refusals as errnos: one exhaustive match.

use crate::volume::Error;
use std::io;

/// The errno that a program sees.
pub fn errno(e: &Error) -> i32 {
    match e {
        Error::NotFound => libc::ENOENT,
        Error::Exists => libc::EEXIST,
        Error::NotDirectory => libc::ENOTDIR,
        Error::IsDirectory => libc::EISDIR,
        Error::NotEmpty => libc::ENOTEMPTY,
        Error::NotPermitted => libc::EPERM,
        Error::AccessDenied => libc::EACCES,
        Error::Invalid => libc::EINVAL,
        Error::NameTooLong => libc::ENAMETOOLONG,
        Error::TooManyLinks => libc::EMLINK,
        Error::FileTooLarge => libc::EFBIG,
        Error::NoAttribute => libc::ENODATA,
        Error::TooBig => libc::E2BIG,
        Error::RangeTooSmall => libc::ERANGE,
        Error::CrossDevice => libc::EXDEV,
        Error::NotSupported => libc::EOPNOTSUPP,
        Error::ReadOnly => libc::EROFS,
        Error::BadHandle => libc::EBADF,
        Error::NoData => libc::ENXIO,
        Error::Stale => libc::ESTALE,
        Error::Full | Error::NoRoom => libc::ENOSPC,
        Error::WouldBlock => libc::EAGAIN,
        Error::Log(e) if e.kind() == io::ErrorKind::StorageFull => libc::ENOSPC,
        Error::Log(_) | Error::SyncFailed(_) | Error::Damaged => libc::EIO,
        Error::Backing(e) => match e.kind() {
            io::ErrorKind::NotFound => libc::ENOENT,
            io::ErrorKind::PermissionDenied => libc::EACCES,
            _ => libc::EIO,
        },
    }
}

/// True for failures that an operator should see in the log.
pub fn is_grave(e: &Error) -> bool {
    match e {
        Error::Log(_) | Error::SyncFailed(_) | Error::Damaged => true,
        Error::Backing(e) => e.kind() != io::ErrorKind::NotFound,
        Error::NotFound
        | Error::Exists
        | Error::NotDirectory
        | Error::IsDirectory
        | Error::NotEmpty
        | Error::NotPermitted
        | Error::AccessDenied
        | Error::Invalid
        | Error::NameTooLong
        | Error::TooManyLinks
        | Error::FileTooLarge
        | Error::NoAttribute
        | Error::TooBig
        | Error::RangeTooSmall
        | Error::CrossDevice
        | Error::NotSupported
        | Error::ReadOnly
        | Error::BadHandle
        | Error::NoData
        | Error::Stale
        | Error::Full
        | Error::NoRoom
        | Error::WouldBlock => false,
    }
}
