//! What the writeback does before and while it stores.

use crate::world::World;
use divan::{Bencher, black_box};
use forelog::types::InodeId;

/// What is to be stored of a file that was written in so many pieces of 4 KiB: one moment of it, in the order of its
/// bytes, however they lie in the log.
#[divan::bench(args = [1, 100, 10_000])]
fn coalesce(b: Bencher, pieces: u64) {
    let (w, page) = (World::new(), [7u8; 4096]);
    let who = w.who();
    let cell = w.file(&who, "f");
    // Every page once, in an order that has no neighbours.
    (0..pieces).for_each(|n| w.write(&who, &cell, n * 7919 % pieces * 4096, &page));
    b.bench_local(|| w.volume.snapshot(black_box(cell.id)).map(|s| s.pieces.len()));
}

/// The oldest files that wait, of 10,000.
#[divan::bench]
fn take_due(b: Bencher) {
    let w = World::new();
    let who = w.who();
    (0..10_000).for_each(|n| {
        w.file(&who, &format!("f{n}"));
    });
    b.bench_local(|| {
        let due = w.volume.dirty.take(256, i64::MAX);
        let n = due.len();
        w.volume.dirty.put_back(due);
        n
    });
}

/// So many new files of 4 KiB in a directory, from the log into the backing, synced there.
#[divan::bench(args = [1, 100], sample_count = 10, sample_size = 1)]
fn store(b: Bencher, files: u64) {
    let (w, page, mut n) = (World::new(), [7u8; 4096], 0);
    let who = w.who();
    let (mut writeback, shared) = w.writeback();
    let _all = shared.drain();
    let make = || {
        for _ in 0..files {
            n += 1;
            let cell = w.file(&who, &format!("f{n}"));
            w.write(&who, &cell, 0, &page);
        }
    };
    b.with_inputs(make).bench_local_values(|()| {
        while !w.volume.dirty.is_empty() {
            writeback.step();
        }
    });
    assert!(w.volume.snapshot(InodeId::ROOT).is_some(), "the root is always in memory");
}
