//! F0: what a mount was told to do, all checked: plain values, made once by `cli/resolve`, read by
//! whoever is given them.

mod hours;
mod live;

pub use hours::{Hours, clock_text};
pub use live::{LIVE_KEYS, Live, LogLevel, duration_text, size_text};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A bucket, or what in it begins with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketUrl {
    pub bucket: String,
    /// Without a slash at either end; empty: the whole bucket.
    pub prefix: String,
}

impl BucketUrl {
    /// From `s3://bucket/prefix`. Errors: one line for people.
    pub fn parse(text: &str) -> Result<BucketUrl, String> {
        let rest =
            text.strip_prefix("s3://").ok_or("a bucket is written s3://BUCKET or s3://BUCKET/PREFIX")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if bucket.is_empty() || bucket.len() > 63 || !bucket.chars().all(ok) {
            return Err(format!("'{bucket}' is no name of a bucket"));
        }
        let bad = |n: &str| n.is_empty() || n == "." || n == ".." || n.contains('\0');
        if !prefix.is_empty() && (prefix.len() > 512 || prefix.split('/').any(bad)) {
            return Err(format!("'{prefix}' cannot be a prefix: it needs names between single slashes"));
        }
        if prefix.split('/').any(|n| n == ".forelog") {
            return Err("a prefix inside .forelog is the gateway's own".into());
        }
        Ok(BucketUrl { bucket: bucket.into(), prefix: prefix.into() })
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.is_empty() {
            true => write!(f, "s3://{}", self.bucket),
            false => write!(f, "s3://{}/{}", self.bucket, self.prefix),
        }
    }
}

/// Where the files end up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Canonical.
    Directory(PathBuf),
    Bucket(BucketUrl),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Directory(d) => d.display().fmt(f),
            Place::Bucket(b) => b.fmt(f),
        }
    }
}

/// What `--predict` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// What idle CPUs do while programs ask a lot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Idle {
    /// As `Poll` on a machine with at most four CPUs.
    #[default]
    Auto,
    /// They wait in a loop, so that nobody waits for one to be woken; root only.
    Poll,
    /// They halt as ever.
    Halt,
}

/// One mount, every value checked and absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub backing: Place,
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
    /// How long changes are kept once they are in the backing; 0: not at all.
    pub keep_log: Duration,
    /// Age at which an open segment is sealed.
    pub seal_after: Duration,
    /// Bound on what a power cut can take without fsync.
    pub commit_interval: Duration,
    /// A dirty byte is in the backing after at most this.
    pub writeback_age: Duration,
    /// Bytes a second; none is no limit.
    pub upload_limit: Option<u64>,
    /// Local hours at which it goes to the backing; none is at any time.
    pub upload_hours: Option<Hours>,
    /// Bytes a second at other hours; 0 is nothing.
    pub upload_outside: u64,
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
    pub idle: Idle,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Where the background gateway logs.
    pub log_file: PathBuf,
    /// Most bytes of the read cache beside the log; none: a share of the free space; 0: no cache.
    pub cache_bytes: Option<u64>,
    pub log_level: LogLevel,
    pub read_only: bool,
    /// Take the backing over from a gateway whose lease lapsed.
    pub takeover: bool,
    /// The user vouches that nobody else writes to the backing.
    pub sole_writer: bool,
    pub flags: MountFlags,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_named_by_urls() {
        for (text, bucket, prefix) in
            [("s3://b", "b", ""), ("s3://b/", "b", ""), ("s3://my.b-1/x/y z/", "my.b-1", "x/y z")]
        {
            let url = BucketUrl::parse(text).unwrap();
            assert_eq!((url.bucket.as_str(), url.prefix.as_str()), (bucket, prefix), "{text}");
            assert_eq!(BucketUrl::parse(&url.to_string()).unwrap(), url);
        }
        for bad in ["b", "s3://", "s3:///x", "s3://a b", "s3://b//x", "s3://b/x/../y", "s3://b/.forelog/x"] {
            BucketUrl::parse(bad).unwrap_err();
        }
    }
}
