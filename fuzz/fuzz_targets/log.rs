//! Any records in a log: recovery ends, with a line or with a volume that can be drained.
#![no_main]
use forelog::backing::Backing;
use forelog::format::frame::{Header, Place, data_crc};
use forelog::format::segment::{RECORDS_AT, SegmentHeader, VERSION};
use forelog::sys::disk::Disk;
use forelog::testing::{ManualClock, MemBacking, Plug, SimDisk};
use forelog::types::{Lsn, SegmentId};
use forelog::volume::Volume;
use forelog::wal::PoolLimits;
use forelog::writeback::{Settings, Shared, Writeback};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use std::time::Duration;

const LIMITS: PoolLimits =
    PoolLimits { capacity: 3 << 20, segment_min: 64 << 10, segment_max: 256 << 10, segment_static: 128 << 10 };
const ID: SegmentId = SegmentId(1);

fn open(disk: &Arc<SimDisk>, backing: &Arc<MemBacking>, clock: &Arc<ManualClock>, boot: &str) -> Option<Arc<Volume>> {
    let (disk, backing) = (disk.clone() as Arc<dyn Disk>, backing.clone() as Arc<dyn Backing>);
    Volume::open(disk, backing, clock.clone(), LIMITS, boot, 7).ok().map(|o| o.volume)
}

/// Records of (kind, predecessor, length of the body, of the data), one after the other.
fn segment(mut input: &[u8]) -> Vec<u8> {
    let head = SegmentHeader { id: ID, generation: 9, size: 64 << 10, log: 7, version: VERSION };
    let mut bytes = head.encode();
    bytes.resize(RECORDS_AT, 0);
    let mut lsn = 1000;
    while let [kind, before, body, data, rest @ ..] = input {
        let body = &rest[..rest.len().min(*body as usize)];
        let rest = &rest[body.len()..];
        let data = &rest[..rest.len().min(*data as usize)];
        input = &rest[data.len()..];
        lsn += 1;
        let mut meta = Vec::new();
        if *before > 0 {
            meta.extend_from_slice(&(lsn - u64::from(*before)).to_le_bytes());
        }
        meta.extend_from_slice(body);
        let h = Header {
            lsn: Lsn(lsn),
            generation: 9,
            pid: 1,
            start: 1,
            kind: *kind % 20,
            predecessors: (*before > 0) as u8,
            meta_bytes: meta.len() as u16,
            data_bytes: data.len() as u32,
            data_crc: data_crc(ID, 9, data),
            durable: 0,
            wall_ns: lsn as i64,
        };
        if bytes.len() + h.frame_bytes() > 64 << 10 {
            break;
        }
        let end = bytes.len() + h.frame_bytes();
        let place = Place { version: VERSION, log: 7, segment: ID, at: bytes.len() as u32 };
        bytes.extend_from_slice(&h.encode(&place, &meta));
        bytes.extend_from_slice(&meta);
        bytes.extend_from_slice(data);
        bytes.resize(end, 0);
    }
    bytes.resize(64 << 10, 0);
    bytes
}

fuzz_target!(|input: &[u8]| {
    let plug = Arc::new(Plug::new());
    let disk = Arc::new(SimDisk::new(plug.clone(), 64 << 20));
    let backing = Arc::new(MemBacking::new(plug));
    let clock = Arc::new(ManualClock::default());
    backing.prepare().expect("a fresh backing");
    drop(open(&disk, &backing, &clock, "boot").expect("a fresh log"));
    let name = "00000001.seg";
    let _ = disk.remove(name);
    let file = disk.create(name, 64 << 10).expect("there is room");
    file.write_all_at(&[&segment(input)], 0).expect("it is written");
    for boot in ["boot", "another"] {
        let Some(volume) = open(&disk, &backing, &clock, boot) else { return };
        let committers = volume.wal.start_committers(1).expect("a thread");
        let shared = Shared::new(Settings { age: Duration::from_secs(1), upload_limit: None });
        let mut writeback = Writeback::new(volume.clone(), shared.clone());
        let _drain = shared.drain();
        for _ in 0..3 {
            writeback.step();
        }
        volume.wal.stop_committers();
        committers.into_iter().for_each(|c| c.join().expect("a committer panicked"));
    }
});
