//! F0: what a mount was told to do, all checked: plain values, made once by `cli/resolve`, read by
//! whoever is given them.

use std::path::PathBuf;
use std::time::Duration;

/// What `--predict` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predict {
    /// The leader chooses among all models.
    Auto,
    /// Static segments only.
    Off,
    /// One model by name.
    Model(String),
}

/// What fsync waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The log's device.
    Log,
    /// The backing.
    Backing,
}

/// Whether a plain umount(2) is held until drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitUmount {
    /// Where the transport can.
    Auto,
    Yes,
    No,
}

/// How requests come from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Auto,
    /// FUSE over io_uring.
    Uring,
    /// Reads of /dev/fuse.
    Device,
}

impl Transport {
    /// As the flag and the status say it.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Auto => "auto",
            Transport::Uring => "uring",
            Transport::Device => "device",
        }
    }
}

/// The mount options the kernel keeps, from `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// Other users than the mounter may enter; the default for root.
    pub allow_other: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub noatime: bool,
    /// Every write waits as if opened O_SYNC.
    pub sync: bool,
    pub dirsync: bool,
}

/// One mount, every value checked and absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Canonical.
    pub backing: PathBuf,
    /// Canonical.
    pub mountpoint: PathBuf,
    /// Canonical; may not exist yet.
    pub log_dir: PathBuf,
    /// Capacity of the log.
    pub log_size_bytes: u64,
    /// False: `log_size_bytes` is the default taken from the free space, and an existing log may keep
    /// its own size.
    pub log_size_given: bool,
    /// Static size used in fallback; a power of two, as the next two.
    pub segment_bytes: u64,
    pub segment_bytes_min: u64,
    pub segment_bytes_max: u64,
    /// Cap on all reserved, unused segments together.
    pub reserve_bytes_max: u64,
    /// Age at which an open segment is sealed.
    pub seal_after: Duration,
    /// Bound on what a power cut can take without fsync.
    pub commit_interval: Duration,
    /// A dirty byte is in the backing after at most this.
    pub writeback_age: Duration,
    /// Bytes a second; none is no limit.
    pub upload_limit: Option<u64>,
    pub predict: Predict,
    /// Time between forecasts.
    pub predict_interval: Duration,
    pub durability: Durability,
    pub wait_umount: WaitUmount,
    /// Longest a plain umount is held.
    pub umount_timeout: Duration,
    /// Threads that serve requests.
    pub threads: usize,
    pub transport: Transport,
    /// Where the background gateway logs.
    pub log_file: PathBuf,
    pub read_only: bool,
    /// The user vouches that nobody else writes to the backing.
    pub sole_writer: bool,
    pub flags: MountFlags,
}
