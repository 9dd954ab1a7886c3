//! What stands below the options in `--help`: examples, and words that the options take for granted.

pub const PROGRAM: &str = "\
Words:
  backing   the slow directory or the bucket, where the files end up
  log       files on a local disk that hold what was written and is not in the backing yet
  gateway   the process behind a mount
  drain     to bring everything in the log to the backing

Examples:
  forelog mount /mnt/nas /data              # write to /data at local speed
  forelog status /data                      # what is where, what is left to store
  forelog flush /data                       # returns once all is in /mnt/nas
  forelog umount /data                      # drains, unmounts; exit 3: bytes remain in the log

Exit codes: 0 done, 1 usage, 2 refused or failed, 3 bytes remain in the log.
`forelog VERB --help` tells more. -V: the version in one line; --version: what this build is.";

pub const MOUNT: &str = "\
SIZE is 4MiB, 4M or 4194304; DURATION is 300ms, 5s, 5m or 2h; RATE is a SIZE a second.
A segment is one file of the log. It is sealed when it takes no more.
Each option may also be given as -o NAME=VALUE, as FORELOG_NAME in the environment,
or as a key of the TOML file named by --config. A flag wins over -o, that over the
environment, that over the file.
It returns 0 once the mount answers. With -f, SIGTERM or Ctrl-C drains and unmounts.

Examples:
  forelog mount /mnt/nas /data
  forelog mount /mnt/nas /data --log-dir /ssd/log --log-size 32GiB --upload-limit 50MiB/s
  forelog mount s3://my-bucket/files /data              # credentials as for every AWS program
  forelog mount -f --config /etc/forelog/data.toml      # backing and mountpoint are keys there
  /etc/fstab:  /mnt/nas  /data  fuse.forelog  _netdev,nofail,log_dir=/ssd/log  0  0";

pub const UMOUNT: &str = "\
A mount with open files is refused (exit 2) and goes on. When the time is up (exit 3) it is
unmounted, what is left stays in the log, and the next mount of it goes on.

Examples:
  forelog umount /data
  forelog umount /data --timeout 1h       # a slow backing
  forelog umount /data --no-wait          # now; the next mount drains";

pub const FLUSH: &str = "\
Programs may go on writing; what they write meanwhile is not waited for.

Examples:
  forelog flush /data
  forelog flush /data /data/report.pdf --timeout 30s || echo 'not there yet'";

pub const STATUS: &str = "\
It never waits for the backing. As the user who mounted, or as root.

Examples:
  forelog status /data
  forelog status /data --json | jq .writeback.backlog_bytes";

pub const TOP: &str = "\
Keys: q quit, s sort by the next column, r reverse, g group by process, program, user or unit,
p pause, f flush, arrows scroll. NO_COLOR in the environment: no colours.

Examples:
  forelog top /data                       # until q or Ctrl-C
  forelog top /data --once";

pub const REPORT: &str = "\
Examples:
  forelog report /data -o report.html                 # of a mount: the last hour and day
  forelog report night.trace -o report.html           # of a recording";

pub const FSCK: &str = "\
Exit codes: 0 nothing is damaged, 2 damaged or no log there. A mount recovers by itself all that
can be recovered.

Examples:
  forelog fsck /var/lib/forelog/nas-0123456789abcdef
  forelog fsck /ssd/log --json";

pub const DUMP: &str = "\
A record is one change as it stands in the log.

Examples:
  forelog dump /ssd/log | head";

pub const TRACE: &str = "\
Examples:
  forelog trace record /data day.trace.gz --for 24h
  forelog trace replay day.trace.gz --policy leader,static-4m";

pub const RECORD: &str = "\
Examples:
  forelog trace record /data day.trace.gz --for 24h";

pub const REPLAY: &str = "\
A policy decides how large segments of the log are made and how many are kept ready; a stall is a
write that found none ready. A model forecasts what will be written; the policy `leader` follows
the model that has been right most.

Examples:
  forelog trace replay day.trace.gz
  forelog trace replay day.trace.gz --policy leader,static-4m --json";

pub const TRAIN: &str = "\
The LSTM is a small neural network, one of the models that forecast.

Examples:
  forelog trace train day.trace.gz -o day.weights
  forelog trace replay day.trace.gz --weights day.weights";

pub const COMPLETIONS: &str = "\
Examples:
  forelog completions bash > /etc/bash_completion.d/forelog";

pub const MAN: &str = "\
Examples:
  forelog man | man -l -
  forelog man mount > forelog-mount.1";
