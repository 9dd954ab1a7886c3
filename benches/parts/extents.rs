//! Which bytes of a file are where.

use crate::world::World;
use divan::{Bencher, black_box};
use forelog::extents::{Extent, Map, Source};
use forelog::types::{ByteRange, Lsn, SegmentId};

const PAGE: u64 = 4096;
const COUNTS: [u64; 3] = [1, 1_000, 100_000];

fn extent(n: u64) -> Extent {
    let source = Source::Log { segment: SegmentId(n as u32 % 64 + 1), record: 64, data: 128 };
    Extent { len: PAGE, lsn: Lsn(n + 1), source }
}

/// A file of which every second page is in the log.
fn fragmented(extents: u64) -> Map {
    let mut m = Map::default();
    (0..extents).for_each(|n| m.insert(2 * n * PAGE, extent(n), &mut |_| ()));
    m
}

/// A page somewhere in it; the same ones each time.
fn somewhere(n: &mut u64, pages: u64) -> u64 {
    *n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*n >> 33) % pages * PAGE
}

/// A page is overwritten in a file of so many extents.
#[divan::bench(args = COUNTS)]
fn insert(b: Bencher, extents: u64) {
    let (mut m, mut n, mut gone) = (fragmented(extents), 1, 0);
    b.bench_local(|| {
        let at = somewhere(&mut n, 2 * extents);
        m.insert(at, extent(n >> 40), &mut |e| gone += e.len);
        black_box(gone)
    });
}

/// Where one page is.
#[divan::bench(args = COUNTS)]
fn lookup(b: Bencher, extents: u64) {
    let (m, mut n) = (fragmented(extents), 1);
    b.bench_local(|| m.plan(ByteRange::at(somewhere(&mut n, 2 * extents), PAGE), u64::MAX));
}

/// What a read of so many KiB is made of, in a file of 100,000 extents, none of them longer than a page.
#[divan::bench(args = [4, 128, 1024])]
fn read_plan(b: Bencher, kib: u64) {
    let (m, mut n) = (fragmented(100_000), 1);
    b.bench_local(|| m.plan(ByteRange::at(somewhere(&mut n, 199_000), kib << 10), u64::MAX));
}

/// The read itself: 128 KiB, out of 32 records of the log.
#[divan::bench]
fn read_fragmented(b: Bencher) {
    let (w, page) = (World::new(), [7u8; PAGE as usize]);
    let who = w.who();
    let cell = w.file(&who, "f");
    // Backwards, so that no two neighbours lie together.
    (0..32).rev().for_each(|n| w.write(&who, &cell, n * PAGE, &page));
    b.bench_local(|| w.fs.read(cell.id, 0, 128 << 10).expect("the log can be read").len());
}
