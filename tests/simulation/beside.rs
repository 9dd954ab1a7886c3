//! One process's fsync beside another's stream: what the second wrote is not brought to the device for it, unless the
//! first needs it.

use forelog::backing::Backing;
use forelog::fs::{Clients, Fs, New, Who};
use forelog::history::History;
use forelog::sys::clock::Clock;
use forelog::sys::disk::Disk;
use forelog::testing::{ManualClock, MemBacking, Plug, SimDisk};
use forelog::types::{InodeId, Kind, ProgramId};
use forelog::volume::Volume;
use forelog::wal::PoolLimits;
use std::sync::Arc;
use std::sync::mpsc::channel;

const LIMITS: PoolLimits =
    PoolLimits { capacity: 64 << 20, segment_min: 64 << 10, segment_max: 8 << 20, segment_static: 4 << 20 };

/// Bytes that a stream may write before it has a segment of its own.
const SHARED: u64 = 256 << 10;

struct Mount {
    disk: Arc<SimDisk>,
    fs: Fs,
}

impl Mount {
    fn new() -> Mount {
        let plug = Arc::new(Plug::new());
        let disk = Arc::new(SimDisk::new(plug.clone(), 128 << 20));
        let backing = Arc::new(MemBacking::new(plug));
        backing.prepare().expect("a new backing");
        let opened = Volume::open(
            disk.clone() as Arc<dyn Disk>,
            backing as Arc<dyn Backing>,
            Arc::new(ManualClock::default()) as Arc<dyn Clock>,
            LIMITS,
            "boot",
            7,
        );
        let volume = opened.expect("a new log opens").volume;
        let fs = Fs::new(volume, Arc::new(History::new()), Arc::new(Clients::default()), false);
        Mount { disk, fs }
    }

    fn who(&self, pid: u32) -> Who {
        let client = self.fs.clients.get_or_make(pid, || (ProgramId(pid), format!("p{pid}")));
        Who { uid: 0, gid: 0, client }
    }

    fn make(&self, who: &Who, name: &[u8]) -> InodeId {
        let new = New { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0, target: b"" };
        self.fs.make(who, InodeId::ROOT, name, &new).expect("a file is made").ino
    }

    fn append(&self, who: &Who, ino: InodeId, offset: u64, len: usize) {
        let cell = self.fs.volume.cell(ino).expect("its inode is in memory");
        let n = self.fs.write(who, &cell, offset, &vec![7; len], false, &mut 0).expect("a write");
        assert_eq!(n, len);
    }

    fn fsync(&self, who: &Who, ino: InodeId) {
        let (tx, rx) = channel();
        self.fs.fsync(who, ino, Box::new(move |r| tx.send(r).expect("someone waits")));
        rx.recv().expect("an answer").expect("an fsync that holds");
    }

    /// Runs with committers.
    fn run(self, f: impl FnOnce(&Mount)) {
        let wal = self.fs.volume.wal.clone();
        let committers = wal.start_committers(1).expect("threads");
        f(&self);
        wal.stop_committers();
        committers.into_iter().for_each(|c| c.join().expect("a committer ends"));
    }
}

#[test]
fn an_fsync_leaves_alone_what_another_process_streams() {
    Mount::new().run(|m| {
        let (streamer, small) = (m.who(100), m.who(101));
        let stream = m.make(&streamer, b"stream");
        let file = m.make(&small, b"small");
        // What the names depend on is synced once.
        m.fsync(&streamer, stream);
        m.fsync(&small, file);
        let mut streamed = 0;
        for n in 0..20 {
            for k in 0..8 {
                m.append(&streamer, stream, streamed + k * (128 << 10), 128 << 10);
            }
            streamed += 1 << 20;
            m.append(&small, file, n * 4096, 4096);
            m.fsync(&small, file);
            let left = m.disk.unsynced_bytes();
            // Until it has a segment of its own it shares one.
            assert!(
                left + SHARED >= streamed,
                "of {streamed} streamed bytes only {left} are still to be synced"
            );
        }
    });
}

#[test]
fn an_fsync_waits_for_what_others_wrote_into_the_same_file() {
    Mount::new().run(|m| {
        let (one, two) = (m.who(100), m.who(101));
        let file = m.make(&one, b"shared");
        m.append(&one, file, 0, 128 << 10);
        m.append(&two, file, 128 << 10, 4096);
        m.fsync(&two, file);
        assert_eq!(m.disk.unsynced_bytes(), 0);
    });
}
