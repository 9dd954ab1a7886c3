use super::*;
use crate::predict::Onset;
use crate::predict::features::{FeatureTracker, TickSums};

/// Runs a series through a model; returns the forecast after each tick.
fn run(model: &mut dyn Model, ticks: impl IntoIterator<Item = u64>) -> Vec<Distribution> {
    let mut tracker = FeatureTracker::new(20);
    ticks
        .into_iter()
        .map(|bytes| {
            let sums = TickSums { bytes, requests: bytes / 1000, ..TickSums::default() };
            model.observe(&tracker.push(sums));
            model.forecast()
        })
        .collect()
}

fn last(name: &str, ticks: impl IntoIterator<Item = u64>) -> Distribution {
    let mut model = by_name(name, 20, 6 << 20).expect("the name is in the table");
    assert_eq!(model.name(), name);
    run(&mut *model, ticks).pop().expect("the series is not empty")
}

fn near(got: f64, want: f64, factor: f64) -> bool {
    got <= want * factor && got >= want / factor
}

/// A megabyte every 3 s.
fn periodic(n: u64) -> impl Iterator<Item = u64> {
    (0..n).map(|i| if i % 60 == 0 { 1 << 20 } else { 0 })
}

#[test]
fn all_names_exist_and_forecast_before_any_data() {
    for name in POOL.iter().chain(&NAIVE) {
        let mut m = by_name(name, 20, 1).expect("the name is in the table");
        assert!(m.forecast().q99 <= 1.0, "{name}");
    }
    assert!(by_name("oracle of delphi", 20, 1).is_none());
}

#[test]
fn a_constant_stream_is_forecast_by_every_model_of_the_pool() {
    for name in &POOL[1..] {
        let d = last(name, std::iter::repeat_n(100_000, 2000));
        assert!(near(d.q99, 2e6, 1.45) && near(d.expected_bytes, 2e6, 1.45), "{name}: {d:?}");
        assert!((d.probs.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{name}");
        assert!(d.q50 <= d.q95 && d.q95 <= d.q99, "{name}");
    }
}

#[test]
fn static_is_static() {
    assert_eq!(last("static", [0, 9, 1 << 30]).q99, (6 << 20) as f64);
}

#[test]
fn sliding_quantile_is_exact_and_forgets() {
    let mut q = SlidingQuantile::new("quantile-10s", 100);
    (1..=500).for_each(|v| q.push(v));
    assert_eq!((q.quantile(0.5), q.quantile(0.95), q.quantile(0.99)), (450, 495, 499));
    let d = last("quantile-10s", (0..1000).map(|i| if i < 500 { 5000 } else { 0 }));
    assert_eq!((d.q99, d.expected_bytes), (0.0, 0.0));
}

#[test]
fn ewma_follows_at_its_speed() {
    let step = |n| (0..1000 + n).map(|i| if i < 1000 { 1000 } else { 100_000 });
    assert!(last("ewma-fast", step(10)).q50 > 4.0 * last("ewma-slow", step(2)).q50);
}

#[test]
fn conformal_spread_reaches_what_was_missed() {
    // Twice as much every other second: the .99 quantile covers it, the median lies between.
    let d = last("ewma-slow", (0..4000).map(|i| if (i / 20) % 2 == 0 { 10_000 } else { 40_000 }));
    assert!(d.q99 >= 560_000.0 && d.q50 < 800_000.0, "{d:?}");
}

#[test]
fn tsb_lets_a_dead_program_go() {
    let busy = last("tsb", (0..1000).map(|i| if i % 10 == 0 { 50_000 } else { 0 }));
    assert!(near(busy.q50, 100_000.0, 2.0), "{busy:?}");
    let dead = last("tsb", (0..2000).map(|i| if i < 1000 && i % 10 == 0 { 50_000 } else { 0 }));
    assert!(dead.q50 < 100.0 && dead.expected_bytes < 1000.0, "{dead:?}");
}

#[test]
fn decaying_max_is_up_at_once_and_down_slowly() {
    assert_eq!(last("decaying-max", [0, 0, 5000]).q99, 5000.0);
    let d = last("decaying-max", (0..60).map(|i| if i == 0 { 1000 } else { 0 }));
    // Ticks 20, 40 and 60 end a horizon: the first still holds the burst.
    assert!((d.q99 - 810.0).abs() < 1e-9, "{d:?}");
}

#[test]
fn markov_tells_the_silence_after_a_burst_from_the_one_before() {
    let mut m = Context::new();
    let all = run(&mut m, periodic(60 * 60));
    let cycle = &all[59 * 60..];
    // 1 s after the burst the next second is empty; half a second before the next it is not.
    assert!(cycle[22].q95 < 1000.0, "{:?}", cycle[22]);
    assert!(near(cycle[50].q95, 1048576.0, 1.1), "{:?}", cycle[50]);
}

#[test]
fn markov_stays_bounded_on_noise() {
    let mut m = Context::new();
    let mut x = 1u64;
    run(
        &mut m,
        (0..30_000).map(|_| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if x >> 62 == 0 { 1 << (x >> 33 & 31) } else { 0 }
        }),
    );
    assert!(m.situations() <= SITUATIONS);
}
const SITUATIONS: usize = 3004;

#[test]
fn renewal_knows_the_phase() {
    let mut m = Renewal::new();
    let all = run(&mut m, periodic(60 * 40));
    let cycle = &all[39 * 60..];
    assert!(cycle[10].q95 < 1000.0 && cycle[30].q95 < 1000.0, "{:?}", cycle[30]);
    assert!(near(cycle[48].q95, 1048576.0, 1.1), "{:?}", cycle[48]);
}

#[test]
fn the_naive_sizings() {
    let constant = || std::iter::repeat_n(100_000, 500);
    assert!(near(last("seed", constant()).q99, 1e5, 1.01));
    assert!(near(last("seed-literal", constant()).q99, 1e11, 1.01));
    assert!(near(last("ewma2", constant()).q99, 4e6, 1.01));
}

/// Two programs in turn; one writes a megabyte a second after it began, the other nothing more.
fn jobs(m: &mut dyn Model, ticks: u64) -> Vec<Distribution> {
    let mut tracker = FeatureTracker::new(20);
    (0..ticks)
        .map(|i| {
            let (job, at) = ((i / 60 * 7 / 3) % 2, (i % 60) as u32);
            let bytes = if at == 0 { 100 } else { (job == 1 && at == 30) as u64 * (1 << 20) };
            let sums = TickSums { bytes, requests: 1, ..TickSums::default() };
            let onset = Onset { program: 1 + job as u32, before: 0, ticks: at };
            m.observe(&TickFeatures { onset, ..tracker.push(sums) });
            m.forecast()
        })
        .collect()
}

#[test]
fn sequence_knows_what_a_program_does_once_it_began() {
    for name in ["sequence", "blend"] {
        let all = jobs(&mut *by_name(name, 20, 1).expect("the name is in the table"), 60 * 300);
        let (mut with, mut without) = (0, 0);
        for (n, cycle) in all.as_chunks::<60>().0.iter().enumerate().skip(200) {
            if (n as u64 * 7 / 3) % 2 == 1 {
                with += (cycle[20].q95 > 1_000_000.0) as u32;
            } else {
                without += (cycle[20].q95 < 10_000.0) as u32;
            }
        }
        assert!(with > 40 && without > 40 && with + without >= 98, "{name}: {with} {without}");
    }
}

#[test]
fn a_blend_follows_the_part_that_is_right() {
    let mut m = Blend::new(20);
    let all = run(&mut m, periodic(60 * 60));
    let cycle = &all[59 * 60..];
    assert!(cycle[22].q95 < 1000.0, "{:?}", cycle[22]);
    assert!(near(cycle[50].q99, 1048576.0, 1.1), "{:?}", cycle[50]);
}
