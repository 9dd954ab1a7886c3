//! Damage at rest: one bit or one block of any file of a log is changed, and the log is opened. What is not damaged is there, byte for
//! byte; what is gives an error, or nothing, but no wrong bytes; `fsck` says so, and says nothing of what does not matter.
//!
//! FORELOG_DAMAGE=N looks at every Nth byte (1: all).

use forelog::backing::Backing;
use forelog::format::mutation::Mutation;
use forelog::fs::{Clients, Fs, New, OpenHow, SetAttrRequest, Who};
use forelog::history::History;
use forelog::sys::disk::Disk;
use forelog::testing::{Dice, ManualClock, MemBacking, Plug, SimDisk};
use forelog::types::{InodeId, Kind, ProgramId, SegmentId};
use forelog::volume::{Volume, read_log};
use forelog::wal::PoolLimits;
use forelog::writeback::{Settings, Shared, Writeback};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const LIMITS: PoolLimits =
    PoolLimits { capacity: 1 << 20, segment_min: 64 << 10, segment_max: 64 << 10, segment_static: 64 << 10 };

type Files = BTreeMap<String, Vec<u8>>;

/// One record of the log before anything is damaged.
struct Record {
    segment: SegmentId,
    start: usize,
    /// Where its data begin and end.
    data: usize,
    end: usize,
    ino: Option<InodeId>,
    /// Before the checkpoint, and the checkpoint names nothing of it.
    past: bool,
    /// How far it says the segment is durable.
    says: usize,
}

struct Log {
    files: Files,
    records: Vec<Record>,
    /// What each file holds.
    want: BTreeMap<Vec<u8>, (InodeId, Vec<u8>)>,
}

fn ino_of(m: &Mutation) -> Option<InodeId> {
    match m {
        Mutation::Create { ino, .. }
        | Mutation::Write { ino, .. }
        | Mutation::SetAttr { ino, .. }
        | Mutation::Rename { ino, .. }
        | Mutation::SetXattrs { ino }
        | Mutation::Zero { ino, .. }
        | Mutation::Link { ino, .. } => Some(*ino),
        _ => None,
    }
}

fn open(files: &Files) -> (Arc<SimDisk>, Arc<MemBacking>, Result<Arc<Volume>, String>) {
    let plug = Arc::new(Plug::new());
    let disk = Arc::new(SimDisk::new(plug.clone(), 64 << 20));
    for (name, bytes) in files {
        let f = disk.create(name, bytes.len() as u64).expect("there is room");
        f.write_all_at(&[bytes], 0).expect("it is written");
        f.sync_data().expect("it is synced");
    }
    let backing = Arc::new(MemBacking::new(plug));
    backing.prepare().expect("a fresh backing");
    let volume =
        Volume::open(disk.clone(), backing.clone(), Arc::new(ManualClock::default()), LIMITS, "boot", 7);
    (disk, backing, volume.map(|o| o.volume))
}

fn read(disk: &SimDisk) -> Files {
    let names = disk.list().expect("it lists");
    let whole = |(name, size): (String, u64)| {
        let mut b = vec![0; size as usize];
        disk.open(&name).expect("it opens").read_exact_at(&mut b, 0).expect("it reads");
        (name, b)
    };
    names.into_iter().map(whole).collect()
}

/// A log with a checkpoint in the middle; everything in it is durable and nothing is stored.
fn make() -> Log {
    let (disk, _, volume) = open(&Files::new());
    let volume = volume.expect("a fresh log");
    let committers = volume.wal.start_committers(1).expect("a thread");
    let fs = Fs::new(volume.clone(), Arc::new(History::new()), Arc::new(Clients::default()), false);
    let who = Who { uid: 0, gid: 0, client: fs.clients.get_or_make(100, || (ProgramId(0), "p".into())) };
    let mut dice = Dice::new(5);
    let mut want = BTreeMap::new();
    for n in 0..14u64 {
        let name = format!("f{n:02}").into_bytes();
        let new = New { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0, target: &[] };
        let ino = fs.make(&who, InodeId::ROOT, &name, &new).expect("made").ino;
        let mut data = dice.bytes(30 + n as usize * 450);
        let fh = fs.open(&who, ino, OpenHow { writes: true, sync: false }).expect("opened");
        let cell = fs.handle(fh).expect("open").cell.clone();
        let write = |at: u64, b: &[u8]| fs.write(&who, &cell, at, b, false, &mut 0).expect("written");
        write(0, &data);
        if n % 3 == 0 {
            let over = dice.bytes(20);
            write(5, &over);
            data[5..25].copy_from_slice(&over);
        }
        if n % 4 == 1 {
            fs.setattr(&who, ino, &SetAttrRequest { size: Some(25), ..Default::default() }).expect("cut");
            data.truncate(25);
        }
        let (tx, rx) = std::sync::mpsc::channel();
        fs.fsync(&who, ino, Box::new(move |r| tx.send(r).unwrap_or(())));
        rx.recv().expect("an answer").expect("synced");
        fs.release(fh);
        want.insert(name, (ino, data));
        if n == 6 {
            volume.checkpoint().expect("a checkpoint");
        }
    }
    volume.sync_log().expect("synced");
    // A last record says how far the others are durable.
    let (ino, _) = want[&b"f00"[..].to_vec()];
    fs.setxattr(&who, ino, b"user.last", b"1", 0).expect("set");
    volume.sync_log().expect("synced");
    volume.wal.stop_committers();
    committers.into_iter().for_each(|c| c.join().expect("a committer panicked"));
    let image = read_log(&*disk).expect("it reads");
    assert!(image.damage.is_empty());
    let checkpoint = image.checkpoint.as_ref().expect("a checkpoint");
    let named: BTreeSet<(u32, u32)> = checkpoint
        .inodes
        .iter()
        .flat_map(|i| &i.extents)
        .filter_map(|e| match e.source {
            forelog::format::checkpoint::SavedSource::Log { segment, record, .. } => Some((segment, record)),
            _ => None,
        })
        .collect();
    let mut records = Vec::new();
    for (segment, _, _, s) in &image.scans {
        for r in &s.records {
            let start = r.record_at as usize;
            let data = start + r.header.data_at();
            records.push(Record {
                segment: *segment,
                start,
                data,
                end: data + r.header.data_bytes as usize,
                ino: Mutation::decode(r.header.kind, &r.body).ok().and_then(|m| ino_of(&m)),
                past: r.header.lsn.0 <= checkpoint.lsn && !named.contains(&(segment.0, r.record_at)),
                says: r.header.durable as usize,
            });
        }
    }
    Log { files: read(&disk), records, want }
}

/// What one damaged log comes to. `hit`: the inodes that may suffer; `bit`: only one bit was changed.
fn judge(log: &Log, files: &Files, hit: &BTreeSet<InodeId>, what: &str, bit: bool) -> Vec<String> {
    let (_, backing, volume) = open(files);
    let volume = match volume {
        Ok(v) => v,
        Err(e) => return vec![format!("{what}: the log is refused: {e}")],
    };
    let mut wrong = Vec::new();
    let fs = Fs::new(volume.clone(), Arc::new(History::new()), Arc::new(Clients::default()), false);
    let mut lost = BTreeSet::new();
    for (name, (ino, data)) in &log.want {
        let shown = String::from_utf8_lossy(name);
        let got = match fs.lookup(InodeId::ROOT, name) {
            Ok(Some(e)) => fs.read(e.ino, 0, 1 << 20),
            Ok(None) | Err(_) => Err(forelog::volume::Error::NotFound),
        };
        match got {
            Ok(got) if got[..] == data[..] => {}
            Ok(_) if bit => wrong.push(format!("{what}: {shown} is served with other bytes")),
            Ok(_) if hit.contains(ino) => drop(lost.insert(name.clone())),
            Err(_) if hit.contains(ino) => drop(lost.insert(name.clone())),
            other => wrong.push(format!("{what}: {shown} was not touched: {:?}", other.map(|b| b.len()))),
        }
    }
    // And what reaches the backing.
    let committers = volume.wal.start_committers(1).expect("a thread");
    let shared =
        Shared::new(Settings { age: Duration::from_secs(1), upload_limit: None, hours: None, outside: 0 });
    let mut writeback = Writeback::new(volume.clone(), shared.clone());
    {
        let _drain = shared.drain();
        for _ in 0..3 {
            writeback.step();
        }
    }
    volume.wal.stop_committers();
    committers.into_iter().for_each(|c| c.join().expect("a committer panicked"));
    let there = backing.all();
    for (name, (_, data)) in log.want.iter().filter(|w| !lost.contains(w.0)) {
        if there.get(name).is_none_or(|t| t.1.data != *data) {
            wrong.push(format!(
                "{what}: {} did not reach the backing as it was",
                String::from_utf8_lossy(name)
            ));
        }
    }
    for name in &lost {
        if bit && there.get(name).is_some_and(|t| t.1.data != log.want[name].1) {
            wrong.push(format!("{what}: {} was written back damaged", String::from_utf8_lossy(name)));
        }
    }
    wrong
}

fn fsck(files: &Files) -> (bool, usize) {
    let plug = Arc::new(Plug::new());
    let disk = SimDisk::new(plug, 64 << 20);
    for (name, bytes) in files {
        let f = disk.create(name, bytes.len() as u64).expect("there is room");
        f.write_all_at(&[bytes], 0).expect("it is written");
    }
    match read_log(&disk) {
        Ok(i) => (i.damage.is_empty() && i.checkpoint_damage.is_none(), i.damage.len()),
        Err(_) => (false, 0),
    }
}

fn segment_of(name: &str) -> Option<SegmentId> {
    name.strip_suffix(".seg")?.parse().ok().map(SegmentId)
}

/// Which inodes a changed range touches, and whether `fsck` must see it (`None`: it may).
fn touched(log: &Log, id: SegmentId, from: usize, to: usize) -> (BTreeSet<InodeId>, Option<bool>) {
    let all = log.records.iter().filter(|r| r.segment == id && r.start < to && from < r.end);
    let hit: Vec<&Record> = all.collect();
    let inos = hit.iter().filter_map(|r| r.ino).collect();
    // What is left of the log must know that it was durable: else it passes for a torn tail.
    let rest = log.records.iter().filter(|r| r.segment == id && !(r.start < to && from < r.end));
    let durable = rest.map(|r| r.says).max().unwrap_or(0);
    let seen = if hit.iter().any(|r| !r.past && r.start < durable) {
        Some(true)
    } else if hit.is_empty() && from >= 4096 {
        Some(false)
    } else {
        None
    };
    (inos, seen)
}

#[test]
fn any_bit_of_a_log_may_rot() {
    super::logging();
    let step: usize = std::env::var("FORELOG_DAMAGE").ok().and_then(|n| n.parse().ok()).unwrap_or(97);
    let log = make();
    let mut dice = Dice::new(9);
    let (mut wrong, mut cases) = (Vec::new(), 0);
    for (name, bytes) in &log.files {
        let used = match segment_of(name) {
            Some(id) => {
                log.records.iter().filter(|r| r.segment == id).map(|r| r.end + 200).max().unwrap_or(64)
            }
            None => bytes.len(),
        };
        // Every header in full, of the rest a part.
        for at in 0..used.min(bytes.len()) {
            let in_head = segment_of(name).is_some_and(|id| {
                log.records.iter().any(|r| r.segment == id && (r.start..r.data).contains(&at))
            });
            let every = if in_head { step.div_ceil(10) } else { step };
            if at % every != 0 {
                continue;
            }
            let bit = dice.below(8) as u8;
            let mut files = log.files.clone();
            files.get_mut(name).expect("it is there")[at] ^= 1 << bit;
            let what = format!("{name}, byte {at}, bit {bit}");
            cases += 1;
            let (hit, seen) = match segment_of(name) {
                Some(id) => touched(&log, id, at, at + 1),
                None => (BTreeSet::new(), Some(true)),
            };
            wrong.extend(judge(&log, &files, &hit, &what, true));
            let (clean, _) = fsck(&files);
            if seen.is_some_and(|s| s == clean) {
                wrong.push(format!("{what}: fsck says {}", if clean { "clean" } else { "damaged" }));
            }
        }
    }
    println!("{cases} logs with one bit changed");
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

#[test]
fn any_block_of_a_log_may_rot() {
    super::logging();
    let log = make();
    let mut dice = Dice::new(11);
    let (mut wrong, mut cases) = (Vec::new(), 0);
    for (name, bytes) in &log.files {
        for (size, how) in [(512, 0), (512, 1), (4096, 0), (4096, 1), (4096, 2)] {
            for from in (0..bytes.len()).step_by(size) {
                let to = (from + size).min(bytes.len());
                if bytes[from..to].iter().all(|b| *b == 0) {
                    continue;
                }
                let mut files = log.files.clone();
                let new = match how {
                    0 => vec![0; to - from],
                    1 => dice.bytes(to - from),
                    // A block of the same file that was written to the wrong place.
                    _ => bytes[4096.min(bytes.len() - (to - from))..][..to - from].to_vec(),
                };
                if new == bytes[from..to] {
                    continue;
                }
                files.get_mut(name).expect("it is there")[from..to].copy_from_slice(&new);
                let what = format!("{name}, bytes {from}..{to} replaced ({how})");
                cases += 1;
                let (hit, seen) = match segment_of(name) {
                    Some(id) => touched(&log, id, from, to),
                    None => (BTreeSet::new(), Some(true)),
                };
                wrong.extend(judge(&log, &files, &hit, &what, false));
                let (clean, _) = fsck(&files);
                if seen.is_some_and(|s| s == clean) {
                    wrong.push(format!("{what}: fsck says {}", if clean { "clean" } else { "damaged" }));
                }
            }
        }
    }
    println!("{cases} logs with one block changed");
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}
