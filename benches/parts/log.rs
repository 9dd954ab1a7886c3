//! Appends and syncs.

use crate::world::World;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use forelog::fs::Who;
use forelog::volume::Cell;
use forelog::wal::{Class, ClientSlot, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

const WRITES: [usize; 3] = [64, 4 << 10, 128 << 10];

/// One record in the log, with its checksum: no filesystem above.
#[divan::bench(args = WRITES, sample_size = 32)]
fn append(b: Bencher, bytes: usize) {
    let (w, data) = (World::new(), vec![7u8; bytes]);
    let slot = ClientSlot::new(forelog::types::ClientId(9), 9);
    let record = || Record {
        kind: 1,
        body: &[0; 24],
        predecessors: &[],
        data: black_box(&data),
        class: Class::Data,
        may_split: true,
        wall_ns: 1,
    };
    let input = b.counter(BytesCount::new(bytes)).with_inputs(|| w.make_room());
    input.bench_local_values(|()| w.volume.wal.append(&slot, &record()).expect("the log has room").taken);
}

/// A write as a request makes it: checks, the record, the file's extents, the history's sample.
#[divan::bench(args = WRITES, sample_size = 32)]
fn write(b: Bencher, bytes: usize) {
    let (w, data) = (World::new(), vec![7u8; bytes]);
    let who = w.who();
    let cell = w.file(&who, "f");
    let mut n = 0;
    let input = b.counter(BytesCount::new(bytes)).with_inputs(|| w.make_room());
    input.bench_local_values(|()| {
        n += 1;
        w.write(&who, &cell, n % 256 * bytes as u64, black_box(&data));
    });
}

/// Write + fsync of so many clients at once, each in a file of its own: one sync of the log serves all that wait.
#[divan::bench(threads = [1, 4, 16], sample_count = 50, sample_size = 4)]
fn group_commit(b: Bencher) {
    let (w, data) = (World::new(), [7u8; 4096]);
    let clients: Vec<(Who, Arc<Cell>)> = (0..16)
        .map(|i| {
            let who = w.who();
            let cell = w.file(&who, &format!("f{i}"));
            (who, cell)
        })
        .collect();
    let next = AtomicU64::new(0);
    b.with_inputs(|| next.fetch_add(1, Ordering::Relaxed)).bench_values(|n| {
        let (who, cell) = &clients[n as usize % clients.len()];
        w.write(who, cell, n % 256 * 4096, black_box(&data));
        let (tell, told) = sync_channel(1);
        w.fs.fsync(who, cell.id, Box::new(move |r| tell.send(r.is_ok()).unwrap_or(())));
        assert!(told.recv().unwrap_or(false), "the sync failed");
    });
}
