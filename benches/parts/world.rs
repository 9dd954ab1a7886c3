//! A gateway without FUSE: a log and a backing directory in a directory of their own.

use forelog::backing::Backing;
use forelog::backing::directory::DirectoryBacking;
use forelog::fs::{Clients, Fs, New, OpenHow, Who};
use forelog::history::History;
use forelog::sys::clock;
use forelog::sys::disk::RealDisk;
use forelog::sys::files;
use forelog::types::{InodeId, Kind, ProgramId};
use forelog::volume::{Cell, Volume};
use forelog::wal::{Owner, PoolLimits};
use forelog::writeback::{Settings, Shared, Writeback};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// As `gateway/workers.rs` starts them.
const COMMITTERS: usize = 4;

/// Segments kept ready.
const READY: u64 = 16;

const LIMITS: PoolLimits = PoolLimits {
    capacity: 512 << 20,
    segment_min: 256 << 10,
    segment_max: 64 << 20,
    segment_static: 4 << 20,
};

pub struct World {
    pub fs: Arc<Fs>,
    pub volume: Arc<Volume>,
    committers: Vec<JoinHandle<()>>,
    next_pid: AtomicU32,
    // Removed when all else is gone.
    _top: tempfile::TempDir,
}

impl World {
    pub fn new() -> World {
        let top = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
        let (log, store) = (top.path().join("log"), top.path().join("store"));
        files::create_dir_private(&log).expect("the log's directory");
        files::create_dir_private(&store).expect("the backing");
        let backing = Arc::new(DirectoryBacking::open(&store).expect("the backing opens"));
        backing.make_house().and_then(|()| backing.prepare()).expect("the backing takes files");
        let disk = Arc::new(RealDisk::open(&log).expect("the log's directory opens"));
        let opened = Volume::open(disk, backing, clock::real(), LIMITS, &files::boot_id(), 7);
        let volume = opened.expect("an empty log opens").volume;
        volume.wal.pool.fill_spare().expect("room for the log");
        let committers = volume.wal.start_committers(COMMITTERS).expect("threads start");
        let fs =
            Arc::new(Fs::new(volume.clone(), Arc::new(History::new()), Arc::new(Clients::default()), false));
        World { fs, volume, committers, next_pid: AtomicU32::new(1), _top: top }
    }

    /// A client that has done nothing yet.
    pub fn who(&self) -> Who {
        let pid = self.next_pid.fetch_add(1, Ordering::Relaxed);
        let client = self.fs.clients.get_or_make(pid, || (ProgramId(1), "bench".into()));
        Who { uid: 0, gid: 0, client }
    }

    /// An empty file, open.
    pub fn file(&self, who: &Who, name: &str) -> Arc<Cell> {
        let new = New { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0, target: &[] };
        let made = self.fs.make(who, InodeId::ROOT, name.as_bytes(), &new).expect("a free name");
        let how = OpenHow { writes: true, sync: false };
        let fh = self.fs.open(who, made.ino, how).expect("a file opens");
        self.fs.handle(fh).expect("a handle that was just opened").cell.clone()
    }

    pub fn write(&self, who: &Who, cell: &Arc<Cell>, offset: u64, data: &[u8]) {
        self.fs.write(who, cell, offset, data, false, &mut 0).expect("the log has room");
    }

    /// Not measured: makes segments ready, as the predictor does, and gives those back that nothing needs.
    pub fn make_room(&self) {
        let pool = &self.volume.wal.pool;
        let counts = pool.counts();
        if counts.free_bytes < READY / 2 * u64::from(LIMITS.segment_static) {
            let ready = |_| pool.reserve(Owner::Shared, LIMITS.segment_static).expect("room for segments");
            (0..READY).for_each(|n| _ = ready(n));
            (0..READY).for_each(|_| pool.release(Owner::Shared, LIMITS.segment_static));
        }
        if counts.busy_bytes > LIMITS.capacity / 2 {
            self.volume.checkpoint().expect("a checkpoint is taken");
            self.volume.wal.nudge_epochs();
        }
    }

    /// What brings changes to the backing.
    pub fn writeback(&self) -> (Writeback, Arc<Shared>) {
        let never = Duration::from_secs(3600);
        let shared = Shared::new(Settings { age: never, upload_limit: None, hours: None, outside: 0 });
        (Writeback::new(self.volume.clone(), shared.clone()), shared)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.volume.wal.stop_committers();
        self.committers.drain(..).for_each(|t| t.join().expect("a committer ends by itself"));
    }
}
