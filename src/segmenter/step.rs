//! Carries decisions out, and remembers what a pure decision cannot know.

use super::{Action, Costs, Limits, Owner, PoolState, SegmentPool, decide};
use crate::predict::Forecast;
use std::collections::HashMap;

const SHRINK_EVERY_NS: u64 = 1_000_000_000;

/// What a step did.
#[derive(Debug, Default)]
pub struct Step {
    pub actions: Vec<Action>,
    /// Why a reservation failed; the rest of that step was left for the next.
    pub error: Option<std::io::Error>,
}

/// A burst that an owner writes.
struct Burst {
    since_ns: u64,
    last_ns: u64,
    /// What the owner had appended before.
    before: u64,
}

/// The Adaptive Segmenter. Step it after each forecast, and with the same forecast again whenever a ready
/// segment was taken.
pub struct Segmenter {
    costs: Costs,
    limits: Limits,
    forecast_ns: u64,
    appended_then: HashMap<Owner, u64>,
    bursts: HashMap<Owner, Burst>,
    missed_then: u64,
    shrunk_ns: HashMap<Owner, u64>,
    /// What each owner had appended at the last step.
    appended: HashMap<Owner, u64>,
    /// The last reservation failed, and was told.
    refused: bool,
}

impl Segmenter {
    /// With these bounds; what allocations take is measured as they happen.
    pub fn new(costs: Costs, limits: Limits) -> Self {
        Segmenter {
            costs,
            limits,
            forecast_ns: u64::MAX,
            appended_then: HashMap::new(),
            bursts: HashMap::new(),
            missed_then: 0,
            shrunk_ns: HashMap::new(),
            appended: HashMap::new(),
            refused: false,
        }
    }

    /// Bounds, to be changed at run time.
    pub fn limits_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }

    /// Costs and measured allocation times.
    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    fn note_appended(&mut self, now_ns: u64, state: &PoolState) {
        let mut bytes = 0;
        for o in &state.owners {
            let then = self.appended.insert(o.owner, o.appended_bytes).unwrap_or(0);
            bytes += o.appended_bytes.saturating_sub(then);
        }
        if self.appended.len() > state.owners.len() {
            self.appended.retain(|owner, _| state.owners.iter().any(|o| o.owner == *owner));
        }
        self.costs.observe(now_ns, bytes);
    }

    /// A forecast made within a burst may not know of it. So what a burst has brought is counted from its begin, for a horizon, and
    /// until then nothing is given back: a pause may be none.
    fn follow_bursts(&mut self, now_ns: u64, horizon_ns: u64, state: &PoolState) {
        for o in &state.owners {
            let then = self.appended_then.get(&o.owner).copied().unwrap_or(o.appended_bytes);
            if o.appended_bytes.saturating_sub(then) >= self.limits.segment_bytes_min {
                let new = Burst { since_ns: now_ns, last_ns: now_ns, before: then };
                self.bursts.entry(o.owner).or_insert(new).last_ns = now_ns;
            }
        }
        self.bursts.retain(|_, b| now_ns.saturating_sub(b.last_ns) < hold_ns(horizon_ns));
        self.bursts.retain(|owner, _| state.owners.iter().any(|o| o.owner == *owner));
    }

    /// Decides and does it.
    pub fn step(&mut self, now_ns: u64, forecast: &Forecast, pool: &dyn SegmentPool) -> Step {
        let mut state = pool.state();
        self.note_appended(now_ns, &state);
        if forecast.at_ns != self.forecast_ns {
            self.forecast_ns = forecast.at_ns;
            self.follow_bursts(now_ns, forecast.horizon_ns, &state);
            self.appended_then = state.owners.iter().map(|o| (o.owner, o.appended_bytes)).collect();
            self.missed_then = state.missed;
            self.shrunk_ns.retain(|owner, _| state.owners.iter().any(|o| o.owner == *owner));
        }
        state.missed = state.missed.saturating_sub(self.missed_then);
        for o in &mut state.owners {
            let then = self.appended_then.get(&o.owner).copied().unwrap_or(0);
            o.taken_bytes = o.appended_bytes.saturating_sub(then);
            let begun = self
                .bursts
                .get(&o.owner)
                .filter(|b| now_ns.saturating_sub(b.since_ns) < hold_ns(forecast.horizon_ns));
            o.burst_bytes = o.appended_bytes.saturating_sub(begun.map_or(then, |b| b.before));
            let shrunk = self.shrunk_ns.get(&o.owner);
            o.may_shrink =
                begun.is_none() && shrunk.is_none_or(|at| now_ns.saturating_sub(*at) >= SHRINK_EVERY_NS);
        }
        let mut step = Step { actions: decide(forecast, &state, &self.costs, &self.limits), error: None };
        for action in &step.actions {
            let size_now =
                |owner| state.owners.iter().find(|o| o.owner == owner).map_or(0, |o| o.segment_bytes);
            match *action {
                Action::Resize { owner, segment_bytes } => {
                    if segment_bytes < size_now(owner) {
                        self.shrunk_ns.insert(owner, now_ns);
                    }
                    pool.resize(owner, segment_bytes);
                }
                Action::Release { owner, class_bytes, count } => {
                    self.shrunk_ns.insert(owner, now_ns);
                    (0..count).for_each(|_| pool.release(owner, class_bytes));
                }
                Action::Reserve { owner, class_bytes, count } if step.error.is_none() => {
                    for _ in 0..count {
                        match pool.reserve(owner, class_bytes) {
                            Ok(made_ns) => {
                                self.refused = false;
                                // One at hand says nothing of what a write waits for when there is none.
                                if let Some(ns) = made_ns {
                                    self.costs.allocations.observe(class_bytes, ns);
                                }
                            }
                            Err(why) => {
                                if !std::mem::replace(&mut self.refused, true) {
                                    log::warn!("no segment of {class_bytes} bytes could be reserved: {why}");
                                }
                                step.error = Some(why);
                                break;
                            }
                        }
                    }
                }
                Action::Reserve { .. } => {}
            }
        }
        step
    }
}

/// How long after the begin of a burst, and its last bytes.
fn hold_ns(horizon_ns: u64) -> u64 {
    horizon_ns.max(SHRINK_EVERY_NS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::{Distribution, Fallback};
    use crate::segmenter::OwnerState;
    use parking_lot::Mutex;
    use std::io;

    #[derive(Default)]
    struct Fake {
        state: Mutex<PoolState>,
        full: bool,
    }

    impl Fake {
        fn with<R>(&self, owner: Owner, f: impl FnOnce(&mut OwnerState) -> R) -> R {
            let mut s = self.state.lock();
            if !s.owners.iter().any(|o| o.owner == owner) {
                s.owners.push(OwnerState::new(owner));
            }
            f(s.owners.iter_mut().find(|o| o.owner == owner).expect("just pushed"))
        }
    }

    impl SegmentPool for Fake {
        fn state(&self) -> PoolState {
            self.state.lock().clone()
        }
        fn reserve(&self, owner: Owner, class_bytes: u64) -> io::Result<Option<u64>> {
            if self.full {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            self.with(owner, |o| match o.ready.iter_mut().find(|r| r.0 == class_bytes) {
                Some(r) => r.1 += 1,
                None => o.ready.push((class_bytes, 1)),
            });
            Ok(Some(5_000_000))
        }
        fn release(&self, owner: Owner, class_bytes: u64) {
            self.with(owner, |o| {
                o.ready.iter_mut().filter(|r| r.0 == class_bytes).for_each(|r| r.1 -= 1);
                o.ready.retain(|r| r.1 > 0);
            });
        }
        fn resize(&self, owner: Owner, class_bytes: u64) {
            self.with(owner, |o| o.segment_bytes = class_bytes);
        }
    }

    fn forecast(at_ns: u64, bytes: f64) -> Forecast {
        let total = Distribution::point(bytes);
        Forecast { at_ns, total, fallback: None, ..Forecast::none(1_000_000_000) }
    }

    fn shared(pool: &Fake) -> OwnerState {
        pool.with(Owner::Shared, |o| o.clone())
    }

    #[test]
    fn grows_at_once_and_shrinks_a_class_a_second() {
        let pool = Fake::default();
        let mut s = Segmenter::new(Costs::default(), Limits::default());
        s.step(0, &forecast(0, 32e6), &pool);
        assert!(shared(&pool).ready_bytes() >= 32_000_000);
        assert_eq!(shared(&pool).segment_bytes, 4 << 20);
        assert_eq!(s.costs().allocations.p50_ms(4 << 20), 5.0);
        let mut sizes = Vec::new();
        for tick in 1..=60 {
            s.step(tick * 50_000_000, &forecast(tick * 50_000_000, 0.0), &pool);
            sizes.push((shared(&pool).segment_bytes >> 10, shared(&pool).ready_bytes() >> 20));
        }
        sizes.dedup();
        assert_eq!(sizes, [(2048, 8), (1024, 4), (512, 0)]);
    }

    #[test]
    fn a_burst_beyond_the_forecast_finds_a_next_segment() {
        let pool = Fake::default();
        let mut s = Segmenter::new(Costs::default(), Limits::default());
        let f = forecast(0, 1000.0);
        s.step(0, &f, &pool);
        for written in [1u64, 2, 3] {
            pool.with(Owner::Shared, |o| {
                o.ready.clear();
                o.appended_bytes = written << 18;
            });
            s.step(written, &f, &pool);
            assert!(shared(&pool).ready_bytes() >= 1 << 18);
            assert!(shared(&pool).segment_bytes > 1 << 18, "it grows at once");
        }
    }

    #[test]
    fn a_fresh_forecast_within_a_burst_gives_nothing_back_until_a_horizon_after_its_begin() {
        let pool = Fake::default();
        let mut s = Segmenter::new(Costs::default(), Limits::default());
        s.step(0, &forecast(0, 32e6), &pool);
        s.step(2_000_000_000, &forecast(2_000_000_000, 32e6), &pool);
        pool.with(Owner::Shared, |o| o.appended_bytes = 1 << 20);
        let held = shared(&pool).ready_bytes();
        let at = |ms: u64| 2_000_000_000 + ms * 1_000_000;
        for ms in (50..1000).step_by(50) {
            s.step(at(ms), &forecast(at(ms), 0.0), &pool);
            assert_eq!(shared(&pool).ready_bytes(), held, "{ms}");
        }
        for ms in (1000..6000).step_by(50) {
            s.step(at(ms), &forecast(at(ms), 0.0), &pool);
        }
        assert_eq!(shared(&pool).ready_bytes(), 0);
    }

    #[test]
    fn what_a_burst_brought_counts_from_its_begin_though_forecasts_are_newer() {
        // Nothing in 99 of 100 horizons, 32 MB in the others: once 1 MB of them came, the rest is to come.
        let rare = |at_ns| {
            let mut f = forecast(at_ns, 32e6);
            let top = f.total.probs.iter().position(|p| *p > 0.0).expect("a point");
            (f.total.probs[0], f.total.probs[top]) = (0.999, 0.001);
            f.total.expected_bytes = 32e3;
            f
        };
        let pool = Fake::default();
        let mut s = Segmenter::new(Costs::default(), Limits::default());
        s.step(0, &rare(0), &pool);
        s.step(1, &rare(1), &pool);
        assert_eq!(shared(&pool).ready_bytes(), 0);
        pool.with(Owner::Shared, |o| o.appended_bytes = 1 << 20);
        s.step(50_000_000, &rare(50_000_000), &pool);
        assert!(shared(&pool).ready_bytes() >= 24_000_000, "{}", shared(&pool).ready_bytes());
    }

    #[test]
    fn a_full_disk_is_reported_not_retried_in_the_step() {
        let pool = Fake { full: true, ..Fake::default() };
        let mut s = Segmenter::new(Costs::default(), Limits::default());
        let step = s.step(0, &Forecast { fallback: Some(Fallback::Off), ..forecast(0, 0.0) }, &pool);
        assert_eq!(step.error.map(|e| e.kind()), Some(io::ErrorKind::StorageFull));
    }
}
