use super::*;
use crate::predict::features::{FeatureTracker, TickSums};

/// A megabyte every 3 s.
fn periodic(ticks: u64) -> Vec<TickFeatures> {
    let mut tracker = FeatureTracker::new(20);
    (0..ticks)
        .map(|i| {
            let bytes = if i % 60 == 0 { 1 << 20 } else { 0 };
            tracker.push(TickSums { bytes, requests: bytes >> 17, ..TickSums::default() })
        })
        .collect()
}

#[test]
fn learns_a_period_while_it_runs() {
    let mut m = Lstm::new();
    let all: Vec<_> = periodic(60 * 200)
        .iter()
        .map(|tick| {
            m.observe(tick);
            m.forecast()
        })
        .collect();
    let cycle = &all[199 * 60..];
    assert!(cycle[25].q95 < 10_000.0, "{:?}", cycle[25]);
    assert!(cycle[55].q95 > 500_000.0 && cycle[55].q99 <= 1048576.0, "{:?}", cycle[55]);
    assert!(all.iter().all(|d| d.q50 <= d.q95 && d.q95 <= d.q99));
}

#[test]
fn training_lowers_the_held_out_loss_and_weights_come_back() {
    let series = periodic(60 * 60);
    let mut epochs = Vec::new();
    let trained = train(&series, 12, |e| epochs.push(e)).expect("the series is long enough");
    assert_eq!(epochs.len(), 12);
    assert!(epochs[11].held_out_loss < 0.5 * epochs[0].held_out_loss, "{epochs:?}");
    let mut loaded = Lstm::load(&trained.save()).expect("just saved");
    let mut restored = Lstm::new();
    assert!(restored.restore(&trained.save()) && !restored.restore(&trained.save()[1..]));
    for tick in &series[..100] {
        loaded.absorb(tick);
        restored.absorb(tick);
    }
    assert_eq!(loaded.said, restored.said);
    assert!(train(&series[..20], 1, |_| ()).is_none());
}

#[test]
fn wild_outputs_are_clipped() {
    let mut m = Lstm::new();
    m.observe(&periodic(1)[0]);
    m.said = [f32::INFINITY, -3.0, f32::NAN];
    assert_eq!(m.forecast().q99, 1048576.0);
    assert!(m.forecast().expected_bytes.is_finite());
}

#[test]
fn the_same_series_gives_the_same_weights() {
    let run = || {
        let mut m = Lstm::new();
        periodic(500).iter().for_each(|t| m.observe(t));
        m.save()
    };
    assert_eq!(run(), run());
}
