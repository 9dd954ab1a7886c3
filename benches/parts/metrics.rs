//! What the write path notes of each request.

use divan::{Bencher, black_box};
use forelog::fs::meter::{Latency, Meter, Verb};
use forelog::history::{History, Sample};
use forelog::types::{ClientId, How, InodeId, ProgramId};

fn sample(n: u64) -> Sample {
    Sample {
        at_ns: n,
        client: ClientId(2),
        program: ProgramId(1),
        bytes: 4096,
        inode: InodeId(n & 7),
        how: How::Write,
    }
}

/// One sample for the predictor.
#[divan::bench(threads = [1, 4])]
fn history_sample(b: Bencher) {
    let h = History::new();
    b.bench(|| h.record(black_box(sample(5))));
}

/// What 50 ms of a busy mount leave for the predictor to fetch.
#[divan::bench(args = [100, 5_000])]
fn history_drain(b: Bencher, samples: u64) {
    let (h, mut out) = (History::new(), Vec::new());
    let fill = || (0..samples).for_each(|n| h.record(sample(n)));
    b.with_inputs(fill).bench_local_values(|()| {
        out.clear();
        h.drain(&mut out);
        out.len()
    });
}

/// All that a write pays for the metrics: the count, its sum, its histogram, and the client's own.
#[divan::bench(threads = [1, 4])]
fn write_metrics(b: Bencher) {
    let (m, l) = (Meter::default(), Latency::default());
    b.bench(|| {
        m.ask();
        m.note(Verb::Write, 4096, black_box(14_000));
        l.note(black_box(14_000));
    });
}

/// What one look at them costs (`status`, a scrape).
#[divan::bench]
fn read_metrics(b: Bencher) {
    let m = Meter::default();
    (0..100_000).for_each(|n| m.note(Verb::Write, 4096, 10_000 + n));
    b.bench_local(|| m.read(Verb::Write));
}
