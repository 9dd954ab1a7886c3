//! Plays a trace against the policies.

use super::policy::{Policy, all_policies};
use super::pool::{SimPool, Tally};
use super::report::{PolicyReport, ReplayReport, TraceReport};
use super::trace::Trace;
use super::track::Track;
use crate::predict::{FeatureTracker, Forecast, ManagerConfig, Scored, TickFeatures, TickSums};
use crate::segmenter::{Costs, FLOOR_BYTES, Limits, Segmenter};
use crate::sys::clock::Clock;

/// The forecaster all pinball losses are relative to.
const REFERENCE: &str = "quantile-60s";
/// Ticks of the longest trace that is played: two days at 50 ms.
const TICKS_MAX: u64 = 3_456_000;

/// How to play.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    pub interval_ns: u64,
    pub horizon_ns: u64,
    /// Assumed time of an allocation: so much, and so much a MiB.
    pub alloc_ms: f64,
    pub alloc_ms_per_mib: f64,
    pub limits: Limits,
    /// Empty for all.
    pub policies: Vec<String>,
    /// Models left out of the pool that `leader` and `fixed-share` choose from.
    pub without: Vec<String>,
    /// What models start from, by their names.
    pub weights: Vec<(String, Vec<u8>)>,
}

impl Default for ReplayOptions {
    /// One stream of segments for all clients, so that policies compare by their forecasts alone.
    fn default() -> Self {
        ReplayOptions {
            interval_ns: 50_000_000,
            horizon_ns: 1_000_000_000,
            alloc_ms: 8.0,
            alloc_ms_per_mib: 1.0,
            limits: Limits { clients_max: 0, floor_bytes: FLOOR_BYTES, ..Limits::default() },
            policies: Vec::new(),
            without: Vec::new(),
            weights: Vec::new(),
        }
    }
}

/// The ticks of a trace as models see them. Fails on a trace that is too long.
pub fn series(trace: &Trace, options: &ReplayOptions) -> Result<Vec<TickFeatures>, String> {
    let interval_ns = options.interval_ns.max(1_000_000);
    let config = ManagerConfig { interval_ns, ..ManagerConfig::default() };
    let mut tracker = FeatureTracker::new(config.ticks(options.horizon_ns));
    let mut sums = vec![TickSums::default(); ticks_of(trace, interval_ns)? as usize];
    for s in &trace.samples {
        let sum = &mut sums[(s.at_ns / interval_ns) as usize];
        sum.bytes += s.bytes as u64;
        sum.requests += s.is_write() as u64;
    }
    Ok(sums.into_iter().map(|s| tracker.push(s)).collect())
}

fn ticks_of(trace: &Trace, interval_ns: u64) -> Result<u64, String> {
    let ticks = trace.samples.last().map_or(0, |s| s.at_ns / interval_ns) + 1;
    if ticks > TICKS_MAX {
        return Err(format!("the trace spans {:.0} s, at most two days can be played", trace.seconds()));
    }
    Ok(ticks)
}

/// What one policy came to on the last half of the trace.
struct Outcome {
    name: String,
    tally: Tally,
    scored: Scored,
    client_loss: f64,
    ticks_us: Vec<u32>,
    track: Track,
}

/// Plays the trace against every policy asked for. `clock` only times the ticks. Fails on an unknown
/// policy or a trace that is too long.
pub fn replay(trace: &Trace, options: &ReplayOptions, clock: &dyn Clock) -> Result<ReplayReport, String> {
    let interval_ns = options.interval_ns.max(1_000_000);
    let ticks = ticks_of(trace, interval_ns)?;
    let mut outcomes = vec![0u64; ticks as usize];
    trace.samples.iter().for_each(|s| outcomes[(s.at_ns / interval_ns) as usize] += s.bytes as u64);
    let all = all_policies();
    let mut names: Vec<&str> = options.policies.iter().map(String::as_str).collect();
    if names.is_empty() {
        names = all;
    }
    let options = ReplayOptions { interval_ns, ..options.clone() };
    let play =
        |name: &str| Ok(one(trace, Policy::by_name(name, &options, &outcomes)?, &options, &outcomes, clock));
    let mut played = names.iter().map(|name| play(name)).collect::<Result<Vec<Outcome>, String>>()?;
    let reference = match played.iter().find(|o| o.name == REFERENCE) {
        Some(o) => o.scored,
        None => play(REFERENCE)?.scored,
    };
    Ok(ReplayReport {
        version: 1,
        trace: TraceReport {
            writes: trace.writes(),
            bytes: trace.bytes(),
            seconds: trace.seconds(),
            programs: trace.programs as u64,
            failed_writes: trace.failed_writes,
        },
        alloc_ms: options.alloc_ms,
        alloc_ms_per_mib: options.alloc_ms_per_mib,
        policies: played.iter_mut().map(|o| o.report(&reference)).collect(),
        tracks: played.into_iter().map(|o| o.track).collect(),
    })
}

fn one(
    trace: &Trace,
    policy: Policy,
    options: &ReplayOptions,
    outcomes: &[u64],
    clock: &dyn Clock,
) -> Outcome {
    let ticks = outcomes.len() as u64;
    let Policy { name, limits, mut manager } = policy;
    let pool = SimPool::new(options.alloc_ms, options.alloc_ms_per_mib, limits.seal_after_ns);
    let mut segmenter = Segmenter::new(Costs::default(), limits);
    let mut forecast = Forecast::none(options.horizon_ns);
    let (mut client_loss, mut ticks_us, mut rest) = ((0.0, 0.0), Vec::new(), &trace.samples[..]);
    let mut track = Track::new(&name, trace.seconds(), options, outcomes);
    segmenter.step(0, &forecast, &pool);
    for tick in 1..=ticks {
        let now_ns = tick * options.interval_ns;
        let (samples, later) = rest.split_at(rest.partition_point(|s| s.at_ns < now_ns));
        rest = later;
        for s in samples {
            if pool.write(s) {
                segmenter.step(s.at_ns, &forecast, &pool);
            }
        }
        pool.tick(now_ns);
        let start_ns = clock.monotonic_ns();
        forecast = manager.tick(now_ns, samples, 0);
        segmenter.step(now_ns, &forecast, &pool);
        track.note(tick, &forecast.total, pool.idle_bytes());
        ticks_us.push((clock.monotonic_ns().saturating_sub(start_ns) / 1000) as u32);
        if let Some(loss) = manager.last_client_loss() {
            client_loss = (client_loss.0 + loss, client_loss.1 + 1.0);
        }
        if tick == ticks / 2 {
            manager.take_scored();
            pool.take_tally();
            (client_loss, ticks_us) = ((0.0, 0.0), Vec::new());
        }
    }
    Outcome {
        name,
        track,
        tally: pool.take_tally(),
        scored: manager.take_scored(),
        client_loss: if client_loss.1 > 0.0 { client_loss.0 / client_loss.1 } else { 0.0 },
        ticks_us,
    }
}

impl Outcome {
    fn report(&mut self, reference: &Scored) -> PolicyReport {
        self.ticks_us.sort_unstable();
        let tick = |tau: f64| {
            let rank = (tau * self.ticks_us.len() as f64).ceil() as usize;
            self.ticks_us.get(rank.saturating_sub(1)).copied().unwrap_or(0) as u64
        };
        let [quantile_coverage_95, quantile_coverage_99] = self.scored.quantile_coverage();
        let [coverage_95, coverage_99, active_coverage_99, byte_coverage_99] = self.scored.coverage();
        // A byte on both sides, so that two perfect forecasts are equal.
        let relative = |mine: f64, theirs: f64| (mine + 1.0) / (theirs + 1.0);
        PolicyReport {
            policy: self.name.clone(),
            stalls: self.tally.stalls,
            ready_rate: self.tally.ready_rate(),
            idle_mib: self.tally.idle_mean_bytes() / 1048576.0,
            idle_max_mib: self.tally.idle_max_bytes as f64 / 1048576.0,
            seals: self.tally.seals,
            wait_p50_us: self.tally.wait_us(0.5),
            wait_p99_us: self.tally.wait_us(0.99),
            wait_p999_us: self.tally.wait_us(0.999),
            relative_pinball_95: relative(self.scored.pinball_95, reference.pinball_95),
            relative_pinball_99: relative(self.scored.pinball_99, reference.pinball_99),
            band_pinball_95: relative(self.scored.band_pinball_95, reference.pinball_95),
            band_pinball_99: relative(self.scored.band_pinball_99, reference.pinball_99),
            quantile_coverage_95,
            quantile_coverage_99,
            coverage_95,
            coverage_99,
            active_coverage_99,
            byte_coverage_99,
            client_log_loss_nats: self.client_loss,
            tick_p50_us: tick(0.5),
            tick_p99_us: tick(0.99),
        }
    }
}
