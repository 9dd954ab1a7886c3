//! The messages: one request a connection, then any number of `Progress`, `Samples` or `Series` and exactly one other reply.

use super::queue::QueueView;
use super::series::SeriesPart;
use super::status::Status;
use crate::config::Live;
use crate::history::Sample;
use crate::types::{ClientId, How, InodeId, ProgramId};
use serde::{Deserialize, Serialize};

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Ping,
    Status,
    /// All that was written before is to be in the backing. Paths are relative to the mount's root, with
    /// no leading slash; none means everything.
    Flush {
        paths: Vec<Vec<u8>>,
        timeout_ms: Option<u64>,
    },
    /// Drain, unmount, end. With `no_wait` nothing is drained first.
    Umount {
        timeout_ms: Option<u64>,
        no_wait: bool,
    },
    /// Samples of the history as they come, until the client leaves or the gateway ends.
    Record,
    /// What was noted of each second, or minute, after that number; 0: all that is kept.
    Series {
        minutes: bool,
        after: u64,
    },
    /// Settings that were as expected are to be as wanted.
    Set {
        expected: Box<Live>,
        wanted: Box<Live>,
    },
    /// What waits for the backing: the oldest so many.
    Queue {
        limit: u32,
    },
    /// What waits at or below this path, relative to the mount's root, goes first.
    Bump {
        path: Vec<u8>,
    },
}

/// Why `Set` was refused: somebody else was faster. Ask for the settings anew.
pub const CHANGED_MEANWHILE: &str = "the settings were changed by someone else at the same time; try again";

/// Samples on their way to a recorder: time in ns, client, program, bytes, inode, how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleBatch {
    rows: Vec<(u64, u32, u32, u32, u64, u8)>,
    /// Samples that came too fast, before these.
    pub lost: u64,
}

impl SampleBatch {
    /// A message of these samples.
    pub fn of(samples: &[Sample], lost: u64) -> SampleBatch {
        let row = |s: &Sample| (s.at_ns, s.client.0, s.program.0, s.bytes, s.inode.0, s.how as u8);
        SampleBatch { rows: samples.iter().map(row).collect(), lost }
    }
    /// The samples; events that this program does not know are left out.
    pub fn samples(&self) -> impl Iterator<Item = Sample> + '_ {
        self.rows.iter().filter_map(|&(at_ns, client, program, bytes, inode, how)| {
            let how = How::from_number(how as u32)?;
            let (client, program, inode) = (ClientId(client), ProgramId(program), InodeId(inode));
            Some(Sample { at_ns, client, program, bytes, inode, how })
        })
    }
}

/// How far a flush or umount has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub bytes_left: u64,
    pub files_left: u64,
    pub bytes_per_second: u64,
    pub eta_seconds: Option<f64>,
}

/// What the gateway answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Progress(Progress),
    Status(Box<Status>),
    /// `leaving`: the process ends right after; its end is the moment the log is free.
    Done {
        message: String,
        leaving: bool,
    },
    /// `code` is the command's exit code.
    Refused {
        code: u8,
        message: String,
        leaving: bool,
    },
    Samples(SampleBatch),
    Series(SeriesPart),
    Queue(Box<QueueView>),
}

/// How a verb ended: its exit code (0 done, 1 usage, 2 refused or failed, 3 bytes remain in the log) and
/// one line to say; empty says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub code: u8,
    pub message: String,
}

impl Verdict {
    /// Exit code 0.
    pub fn done(message: impl Into<String>) -> Verdict {
        Verdict { code: 0, message: message.into() }
    }
    /// Exit code 2.
    pub fn refused(message: impl Into<String>) -> Verdict {
        Verdict { code: 2, message: message.into() }
    }
    /// Exit code 3.
    pub fn remains(message: impl Into<String>) -> Verdict {
        Verdict { code: 3, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::codec::{CodecError, receive, send};
    use proptest::prelude::*;

    fn framed<T: serde::Serialize>(message: &T) -> Vec<u8> {
        let mut out = Vec::new();
        send(&mut out, message).unwrap();
        out
    }

    #[test]
    fn replies_round_trip() {
        let progress = Progress { bytes_left: 1, files_left: 2, bytes_per_second: 3, eta_seconds: None };
        for reply in [
            Reply::Progress(progress),
            Reply::Progress(Progress { eta_seconds: Some(0.5), ..progress }),
            Reply::Status(Box::default()),
            Reply::Series(SeriesPart::default()),
            Reply::Samples(SampleBatch { rows: vec![(1, 2, 3, 4, 5, 6)], lost: 7 }),
            Reply::Done { message: "ok".into(), leaving: true },
            Reply::Refused { code: 3, message: String::new(), leaving: false },
        ] {
            assert_eq!(receive::<Reply>(&mut framed(&reply).as_slice()).unwrap(), reply);
        }
    }

    #[test]
    fn a_frame_is_what_the_format_says() {
        let frame = framed(&Request::Ping);
        assert_eq!(frame[..4], 1u32.to_le_bytes());
        assert_eq!(frame[8..], [1, 0, 0, 0, 0]);
    }

    #[test]
    fn refuses_long_damaged_foreign_and_cut_frames() {
        let good = framed(&Request::Status);
        let try_with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            receive::<Request>(&mut bad.as_slice()).unwrap_err()
        };
        assert!(matches!(try_with(3, 0x7f), CodecError::TooLong(_)));
        assert!(matches!(try_with(4, !good[4]), CodecError::Checksum));
        assert!(matches!(try_with(12, 0), CodecError::Checksum));
        assert!(matches!(receive::<Request>(&mut &[][..]).unwrap_err(), CodecError::Closed));
        for n in 1..good.len() {
            assert!(matches!(receive::<Request>(&mut &good[..n]).unwrap_err(), CodecError::Io(_)));
        }
        let mut newer = good.clone();
        newer[8] = 9;
        let crc = crc32c::crc32c(&newer[8..]);
        newer[4..8].copy_from_slice(&crc.to_le_bytes());
        let e = receive::<Request>(&mut newer.as_slice()).unwrap_err();
        assert!(matches!(e, CodecError::Version(9)), "{e}");
    }

    proptest! {
        #[test]
        fn requests_round_trip(paths in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
                               timeout_ms in any::<Option<u64>>(), no_wait in any::<bool>()) {
            for request in [Request::Flush { paths: paths.clone(), timeout_ms }, Request::Umount { timeout_ms, no_wait }] {
                prop_assert_eq!(receive::<Request>(&mut framed(&request).as_slice()).unwrap(), request);
            }
        }

        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), mend in any::<bool>()) {
            if mend && bytes.len() >= 12 {
                let body = (bytes.len() - 12) as u32;
                bytes[..4].copy_from_slice(&body.to_le_bytes());
                bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
                let crc = crc32c::crc32c(&bytes[8..]);
                bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            }
            drop(receive::<Request>(&mut bytes.as_slice()));
            drop(receive::<Reply>(&mut bytes.as_slice()));
        }
    }
}
