use super::*;
use crate::cli::args::{Cli, Verb};
use clap::Parser;
use std::collections::BTreeMap;
use tempfile::TempDir;

const CAN: Abilities = Abilities {
    uring: false,
    wait_umount: false,
    metrics: false,
    takeover: false,
    bucket: false,
    durability_backing: false,
    models: &["leader", "ewma"],
    policies: &[],
};

/// A backing, an empty mount point and a log directory, side by side.
struct Bench {
    _dir: TempDir,
    root: PathBuf,
    env: BTreeMap<&'static str, String>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let root = paths::canonical(dir.path()).unwrap();
        for name in ["back", "mnt", "log"] {
            paths::make_dirs(&root.join(name), 0o755).unwrap();
        }
        Bench { _dir: dir, root, env: BTreeMap::new() }
    }

    fn path(&self, name: &str) -> String {
        self.root.join(name).to_str().unwrap().to_string()
    }

    /// Parses words in which `@` stands for the bench's directory.
    fn args(&self, words: &str) -> MountArgs {
        let root = format!("{}/", self.root.display());
        let words = words.split_whitespace().map(|w| w.replace('@', &root));
        let line = ["forelog".to_string(), "mount".into()].into_iter().chain(words);
        match Cli::try_parse_from(line).unwrap().verb {
            Verb::Mount(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn resolve(&self, words: &str) -> Result<Resolved, Verdict> {
        resolve(&self.args(words), |name| self.env.get(name).cloned(), &CAN)
    }

    fn config(&self, words: &str) -> Config {
        self.resolve(&format!("@back @mnt --log-dir @log {words}")).unwrap().config
    }

    /// The refusal's code and its line.
    fn refusal(&self, words: &str) -> (u8, String) {
        let e = self.resolve(words).unwrap_err();
        assert!(!e.message.contains('\n') && !e.message.is_empty());
        (e.code, e.message)
    }

    /// As `refusal`, of flags added to a good line.
    fn bad_flags(&self, words: &str) -> (u8, String) {
        self.refusal(&format!("@back @mnt --log-dir @log {words}"))
    }
}

#[test]
fn defaults() {
    let b = Bench::new();
    let c = b.config("");
    assert_eq!((c.segment_bytes, c.segment_bytes_min, c.segment_bytes_max), (4 * MIB, 256 * KIB, 64 * MIB));
    assert_eq!(c.seal_after, Duration::from_secs(5));
    assert_eq!(c.commit_interval, Duration::from_secs(1));
    assert_eq!(c.writeback_age, Duration::from_secs(30));
    assert_eq!(c.predict_interval, Duration::from_millis(50));
    assert_eq!(c.umount_timeout, Duration::from_secs(300));
    assert_eq!((c.predict, c.durability, c.upload_limit), (Predict::Auto, Durability::Log, None));
    assert_eq!((c.transport, c.wait_umount), (Transport::Auto, WaitUmount::Auto));
    assert!((2..=4).contains(&c.threads) && !c.read_only && !c.log_size_given);
    assert_eq!(c.log_file, b.root.join("log/forelog.log"));
    assert!(c.log_size_bytes >= 16 * MIB && c.log_size_bytes <= 64 * GIB);
    assert_eq!(c.reserve_bytes_max, c.log_size_bytes / 4);
}

#[test]
fn precedence_is_flag_o_env_config() {
    let mut b = Bench::new();
    let text = "seal-after = '1s'\ncommit_interval = '2s'\nwriteback-age = '3s'\numount-timeout = '4s'\noptions = 'nodev,nosuid,read_only'\n";
    paths::write_private(&b.root.join("c.toml"), text.as_bytes()).unwrap();
    b.env.insert("FORELOG_CONFIG", b.path("c.toml"));
    b.env.insert("FORELOG_SEAL_AFTER", "11s".into());
    b.env.insert("FORELOG_COMMIT_INTERVAL", "12s".into());
    b.env.insert("FORELOG_WRITEBACK_AGE", "13s".into());
    let c = b.config("--seal-after 31s -o seal_after=21s,commit-interval=22s,suid");
    let seconds = [c.seal_after, c.commit_interval, c.writeback_age, c.umount_timeout].map(|d| d.as_secs());
    assert_eq!(seconds, [31, 22, 13, 4]);
    assert!(c.flags.nodev && !c.flags.nosuid && c.read_only);
    assert!(!b.config("-o rw").read_only);
}

#[test]
fn a_config_file_can_hold_the_whole_mount() {
    let b = Bench::new();
    let text = format!(
        "backing = '{}'\nmountpoint = '{}'\nlog-dir = '{}'\nthreads = 3\n",
        b.path("back"),
        b.path("mnt"),
        b.path("log")
    );
    paths::write_private(&b.root.join("c.toml"), text.as_bytes()).unwrap();
    assert_eq!(b.resolve("-f --config @c.toml").unwrap().config.threads, 3);
    assert_eq!(b.refusal("--config @none").0, 2);
    assert_eq!(b.refusal("@back").0, 1);
}

#[test]
fn bad_values_are_usage_errors_that_name_their_place() {
    let mut b = Bench::new();
    for (words, want) in [
        ("--log-size many", "--log-size: 'many' is no size"),
        ("--seal-after 5", "--seal-after: '5' has no unit"),
        ("-o interval=1h", "-o interval: 1h is not between 5ms and 10s"),
        ("--threads 0", "--threads: '0' is no number"),
        ("--durability tape", "--durability: 'tape' is none of log, backing"),
        ("--upload-limit x", "--upload-limit: 'x' is no rate"),
        ("--cache-size 1MiB", "--cache-size: 1MiB is less than the smallest cache, 16MiB; for none give 0"),
        ("-o lgo_size=1G", "-o lgo_size: no such option; did you mean 'log-size'?"),
    ] {
        let (code, line) = b.bad_flags(words);
        assert!(code == 1 && line.starts_with(want), "{words}: {code} {line}");
    }
    b.env.insert("FORELOG_TAKEOVER", "perhaps".into());
    assert_eq!(b.bad_flags("").1, "FORELOG_TAKEOVER: 'perhaps' is neither yes nor no");
}

#[test]
fn places_that_will_not_do() {
    let b = Bench::new();
    paths::write_private(&b.root.join("file"), b"x").unwrap();
    paths::make_dirs(&b.root.join("full/x"), 0o755).unwrap();
    paths::make_dirs(&b.root.join("back/sub"), 0o755).unwrap();
    std::os::unix::fs::symlink(b.root.join("back"), b.root.join("alias")).unwrap();
    for (words, want) in [
        ("@none @mnt", "no such directory"),
        ("@file @mnt", "not a directory"),
        ("@back @none", "no such directory"),
        ("@back @none/x", "no such directory"),
        ("@back @file", "not a directory"),
        ("@mnt @full", "not empty"),
        ("@mnt @mnt", "the same directory"),
        ("@back @back", "the same directory"),
        ("@full @full", "the same directory"),
        ("@alias @back/sub", "lies inside the backing"),
        ("@full/x @full", "lies inside the mount point"),
        ("@back /proc", "already mounted (proc from"),
        ("s3://bucket/x @mnt", "this build has no bucket backing"),
        ("@back @mnt --log-dir @back/log", "lies inside the backing"),
        ("@back @mnt --log-dir @alias", "lies inside the backing"),
        ("@back @mnt --log-dir @mnt", "lies inside the mount point"),
        ("@back @mnt --log-dir @file", "not a directory"),
        ("@back @mnt --log-dir /proc/none", "free, and the smallest log takes 16.0 MiB"),
    ] {
        let (code, line) = b.refusal(words);
        assert!(code == 2 && line.contains(want), "{words}: {code} {line}");
    }
}

#[test]
fn sizes_agree_or_are_refused() {
    let b = Bench::new();
    let r =
        b.resolve("@back @mnt --log-dir @log --segment-size 3MiB --segment-max 9M --log-size 64M").unwrap();
    assert_eq!((r.config.segment_bytes, r.config.segment_bytes_max), (4 * MIB, 16 * MIB));
    assert_eq!(r.notes.len(), 2, "{:?}", r.notes);
    assert!(r.config.log_size_given && r.config.log_size_bytes == 64 * MIB);
    let c = b.config("--segment-size 128K");
    assert_eq!((c.segment_bytes_min, c.segment_bytes), (128 * KIB, 128 * KIB));
    let c = b.config("--segment-max 1M");
    assert_eq!((c.segment_bytes, c.segment_bytes_max), (MIB, MIB));
    assert_eq!(b.config("--log-size 32M").segment_bytes_max, 8 * MIB);
    for (words, want) in [
        ("--segment-min 8M --segment-size 4M", "disagree"),
        ("--segment-size 4M --segment-max 1M", "disagree"),
        ("--segment-min 8M --segment-max 1M", "disagree"),
        ("--segment-size 1K", "from 64KiB to 4GiB"),
        ("--log-size 8MiB", "less than four segments of 4MiB"),
        ("--log-size 16383P", "only"),
        ("--reserve-max 1", "less than the smallest segment"),
    ] {
        let (code, line) = b.bad_flags(words);
        assert!(code == 2 && line.contains(want), "{words}: {code} {line}");
    }
}

#[test]
fn what_this_build_cannot_honour_is_refused() {
    let b = Bench::new();
    for (words, want) in [
        ("--metrics 127.0.0.1:9000", "no metrics"),
        ("--transport uring", "no ring transport"),
        ("--wait-umount yes", "cannot hold a plain umount"),
        ("--takeover", "no lease"),
        ("--durability backing", "fsync waits for the log only"),
        ("--predict ewna", "did you mean 'ewma'? (known: auto, off, leader, ewma)"),
    ] {
        let (code, line) = b.bad_flags(words);
        assert!(code == 2 && line.contains(want), "{words}: {code} {line}");
    }
    let c = b.config("--predict ewma --sole-writer --wait-umount no --transport device --upload-limit 1M/s");
    assert_eq!((c.predict, c.sole_writer, c.upload_limit), (Predict::Model("ewma".into()), true, Some(MIB)));
}

#[test]
fn the_default_log_directory_is_named_after_the_backing() {
    let dir = default_log_dir(&Place::Directory("/mnt/my nas".into())).unwrap();
    let name = dir.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("my_nas-") && name.len() == 7 + 16, "{name}");
    assert_ne!(dir, default_log_dir(&Place::Directory("/other/my nas".into())).unwrap());
    let bucket =
        default_log_dir(&Place::Bucket(crate::config::BucketUrl::parse("s3://b/x").unwrap())).unwrap();
    assert!(bucket.file_name().unwrap().to_str().unwrap().starts_with("x-"));
    assert_eq!(default_log_dir(&Place::Directory("/".into())).unwrap().file_name().unwrap().len(), 16);
}
