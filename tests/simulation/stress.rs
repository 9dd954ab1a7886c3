//! Real threads: each works in a directory of its own and checks every byte it reads, while the writeback
//! drains, checkpoints and recycles a small log beside them. It finds lock orders that can deadlock and
//! reads that see something half changed.

use crate::model::Model;
use crate::programs::Programs;
use forelog::backing::Backing;
use forelog::fs::{Clients, Fs, New};
use forelog::history::History;
use forelog::sys::clock;
use forelog::sys::disk::Disk;
use forelog::testing::{Dice, MemBacking, Plug, SimDisk};
use forelog::types::Kind;
use forelog::volume::Volume;
use forelog::wal::PoolLimits;
use forelog::writeback::{Settings, Shared, Writeback};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const THREADS: u64 = 4;

struct Stage {
    fs: Arc<Fs>,
    stop: AtomicBool,
    /// Turns of each thread, the writeback's last.
    beats: Vec<AtomicU64>,
}

fn programs(s: &Stage, n: u64) -> Result<(), String> {
    let mut p = Programs::new(s.fs.clone(), Model::default(), Dice::new(n));
    let new = New { kind: Kind::Dir, mode: 0o755, umask: 0, rdev: 0, target: b"" };
    let root = s.fs.make(&p.who[0], p.root, format!("w{n}").as_bytes(), &new);
    p.root = root.map_err(|e| format!("its directory: {e:?}"))?.ino;
    while !s.stop.load(Ordering::Acquire) {
        let r = p.step();
        let turn = s.beats[n as usize].fetch_add(1, Ordering::AcqRel);
        let r = if turn % 500 == 499 { r.and_then(|()| p.verify()) } else { r };
        if let Err(e) = r {
            let last = p.trace.len().saturating_sub(30);
            return Err(format!("thread {n}: {e}\nafter\n{}", p.trace[last..].join("\n")));
        }
    }
    Ok(())
}

/// Waits for the end; a thread that stands still for long ends the process, since it cannot be ended.
fn watch(s: &Stage, seconds: u64) {
    let begun = Instant::now();
    let mut seen: Vec<u64> = vec![0; s.beats.len()];
    let mut moved = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) && !s.stop.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(100));
        let now: Vec<u64> = s.beats.iter().map(|b| b.load(Ordering::Acquire)).collect();
        if now.iter().zip(&seen).all(|(a, b)| a > b) {
            (seen, moved) = (now, Instant::now());
        } else if moved.elapsed() > Duration::from_secs(30) {
            eprintln!("a thread stands still: {seen:?}, then {now:?}");
            std::process::exit(101);
        }
    }
    s.stop.store(true, Ordering::Release);
}

#[test]
fn many_threads_see_what_they_wrote_and_never_wait_for_ever() {
    let seconds = std::env::var("FORELOG_STRESS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    crate::logging();
    let plug = Arc::new(Plug::new());
    let disk = Arc::new(SimDisk::new(plug.clone(), 64 << 20));
    let backing = Arc::new(MemBacking::new(plug));
    backing.prepare().expect("prepares");
    let limits = PoolLimits {
        capacity: 6 << 20,
        segment_min: 64 << 10,
        segment_max: 256 << 10,
        segment_static: 128 << 10,
    };
    let (disk, backing) = (disk as Arc<dyn Disk>, backing as Arc<dyn Backing>);
    let volume = Volume::open(disk, backing, clock::real(), limits, "boot", 7).expect("opens").volume;
    let committers = volume.wal.start_committers(2).expect("starts");
    let clients = Arc::new(Clients::default());
    let shared =
        Shared::new(Settings { age: Duration::from_millis(20), upload_limit: None, hours: None, outside: 0 });
    let mut writeback = Writeback::new(volume.clone(), shared);
    let stage = Stage {
        fs: Arc::new(Fs::new(volume.clone(), Arc::new(History::new()), clients, false)),
        stop: AtomicBool::new(false),
        beats: (0..=THREADS).map(|_| AtomicU64::new(0)).collect(),
    };
    let s = &stage;
    let wrong: Vec<String> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !s.stop.load(Ordering::Acquire) {
                writeback.step();
                s.beats[THREADS as usize].fetch_add(1, Ordering::AcqRel);
            }
        });
        let work = |n| {
            let r = programs(s, n);
            if r.is_err() {
                s.stop.store(true, Ordering::Release);
            }
            r
        };
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || work(n))).collect();
        watch(s, seconds);
        threads.into_iter().filter_map(|t| t.join().expect("a thread panicked").err()).collect()
    });
    volume.wal.stop_committers();
    committers.into_iter().for_each(|c| c.join().expect("a committer panicked"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
