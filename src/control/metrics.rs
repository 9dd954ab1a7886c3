//! A status as metrics, in the OpenMetrics text format. `docs/METRICS.md` lists them all; a test keeps it so.

use super::render::plain;
use super::status::{State, Status};
use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};
use std::collections::HashMap;
use std::fmt;

/// How the text is named to who asks for it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper ends of the buckets of service times, seconds.
const BOUNDS: [f64; 16] =
    [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 2.0, 10.0];

/// What one program did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    pub name: String,
    pub requests: u64,
    pub bytes: u64,
    pub throttled_seconds: f64,
    pub dirty_bytes: u64,
}

/// All that a scrape shows.
#[derive(Clone, Debug)]
pub struct Scrape {
    pub status: Status,
    /// Service times of writes, reads and syncs in nanoseconds, and their sums.
    pub times: [(Histogram<u32>, u64); 3],
    pub programs: Vec<Program>,
}

/// The value of a sample.
#[derive(Clone, Copy)]
enum Value {
    Count(u64),
    Real(f64),
}

/// Label values, in the order of the family's labels.
type Labelled = (Vec<String>, Value);

enum Samples<'a> {
    Values(Vec<Labelled>),
    Times(Vec<(&'static str, &'a (Histogram<u32>, u64))>),
    /// One sample that is all labels.
    Info(Vec<String>),
}

/// One metric, as it is documented.
struct Family<'a> {
    name: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    labels: &'static [&'static str],
    help: &'static str,
    samples: Samples<'a>,
}

impl Family<'_> {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), self.kind)?;
        let named = |values: &[String]| -> Vec<(String, String)> {
            self.labels.iter().map(|l| (*l).to_owned()).zip(values.iter().map(|v| plain(v))).collect()
        };
        match &self.samples {
            Samples::Info(values) => metric.encode_info(&named(values)),
            Samples::Values(all) => all.iter().try_for_each(|(values, v)| {
                let labels = named(values);
                match labels.is_empty() {
                    true => self.one(&mut metric, *v),
                    false => self.one(&mut metric.encode_family(&labels)?, *v),
                }
            }),
            Samples::Times(all) => all.iter().try_for_each(|(kind, times)| {
                let labels = named(&[(*kind).to_owned()]);
                histogram(&mut metric.encode_family(&labels)?, times)
            }),
        }
    }

    fn one(&self, metric: &mut MetricEncoder<'_>, value: Value) -> fmt::Result {
        match (self.kind, value) {
            (MetricType::Counter, Value::Count(n)) => metric.encode_counter::<NoLabelSet, _, u64>(&n, None),
            (MetricType::Counter, Value::Real(x)) => metric.encode_counter::<NoLabelSet, _, u64>(&x, None),
            (_, Value::Count(n)) => metric.encode_gauge(&n),
            (_, Value::Real(x)) => metric.encode_gauge(&x),
        }
    }
}

fn histogram(metric: &mut MetricEncoder<'_>, (times, sum_ns): &(Histogram<u32>, u64)) -> fmt::Result {
    let mut from_ns = 0;
    let mut buckets = Vec::with_capacity(BOUNDS.len() + 1);
    let mut counted = 0;
    for bound in BOUNDS {
        let to_ns = (bound * 1e9) as u64;
        let n = times.count_between(from_ns, to_ns).min(times.len() - counted);
        buckets.push((bound, n));
        counted += n;
        // The histogram's own steps: what is equivalent to a bound counts below it.
        from_ns = times.next_non_equivalent(to_ns);
    }
    buckets.push((f64::INFINITY, times.len() - counted));
    let none = None::<&HashMap<usize, Exemplar<NoLabelSet, f64>>>;
    metric.encode_histogram(*sum_ns as f64 / 1e9, times.len(), &buckets, none)
}

impl Scrape {
    /// The text.
    pub fn text(self) -> String {
        let mut registry = Registry::with_prefix("forelog");
        registry.register_collector(Box::new(self));
        let mut out = String::with_capacity(16 << 10);
        text::encode(&mut out, &registry).expect("writing to a String cannot fail");
        out
    }

    fn families(&self) -> Vec<Family<'_>> {
        let mut all = self.gateway();
        all.extend(self.log());
        all.extend(self.writeback());
        all.extend(self.prediction());
        all.extend(self.programs());
        all
    }

    fn gateway(&self) -> Vec<Family<'_>> {
        let s = &self.status;
        let states = [State::Serving, State::Draining, State::Degraded, State::Stopped];
        let states = states.map(|t| (vec![t.name().to_owned()], Value::Count((t == s.state) as u64)));
        // A latched log degrades too, and comes first in `state`.
        let failing = s.state == State::Degraded && s.log.segments_latched == 0;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let info = Samples::Info(vec![version, s.backing_kind.clone(), s.transport.clone()]);
        let times = ["write", "read", "fsync"].into_iter().zip(&self.times).collect();
        let bytes = [("write", s.requests.write.bytes), ("read", s.requests.read.bytes)];
        vec![
            Family {
                name: "build",
                unit: None,
                kind: MetricType::Info,
                labels: &["version", "backing_kind", "transport"],
                help: "What this gateway is: its version, directory or bucket, uring or device.",
                samples: info,
            },
            many("state", None, MetricType::Gauge, &["state"], "1 for the state the gateway is in.", states),
            gauge(
                "backing_failing",
                None,
                "1 while the backing fails or does not answer and the writeback waits.",
                failing as u64,
            ),
            seconds("uptime", "Since the mount.", s.uptime_seconds),
            gauge("open_handles", None, "Files that programs hold open.", s.open_handles),
            Family {
                name: "request_duration",
                unit: Some(Unit::Seconds),
                kind: MetricType::Histogram,
                labels: &["kind"],
                help: "Service times of writes, reads and fsyncs.",
                samples: Samples::Times(times),
            },
            many(
                "request",
                Some(Unit::Bytes),
                MetricType::Counter,
                &["kind"],
                "Bytes that programs wrote and read.",
                bytes.map(|(k, n)| (vec![k.to_owned()], Value::Count(n))),
            ),
        ]
    }

    fn log(&self) -> Vec<Family<'_>> {
        let l = &self.status.log;
        let g = &l.segments;
        let segments = [("free", g.free), ("reserved", g.reserved), ("open", g.open), ("sealed", g.sealed)];
        vec![
            gauge("log_capacity", Some(Unit::Bytes), "Capacity of the log.", l.capacity_bytes),
            gauge("log_used", Some(Unit::Bytes), "Bytes of the log in use.", l.used_bytes),
            gauge(
                "log_dirty",
                Some(Unit::Bytes),
                "Bytes that are only in the log, not yet in the backing.",
                l.dirty_bytes,
            ),
            seconds(
                "log_oldest_dirty",
                "Age of the oldest change that is not yet in the backing.",
                l.oldest_dirty_seconds,
            ),
            many(
                "log_segments",
                None,
                MetricType::Gauge,
                &["state"],
                "Segments of the log by state.",
                segments.map(|(k, n)| (vec![k.to_owned()], Value::Count(n))),
            ),
            counter("log_device_syncs", None, "Syncs of the log's device.", l.device_syncs),
            counter("log_sync_failures", None, "Syncs of the log that failed.", l.sync_failures),
            gauge(
                "log_segments_latched",
                None,
                "Segments whose sync failed and that are not rewritten yet: fsync gives EIO.",
                l.segments_latched,
            ),
            counter(
                "log_segments_rewritten",
                None,
                "Segments rewritten after a failed sync, and verified.",
                l.segments_rewritten,
            ),
        ]
    }

    fn writeback(&self) -> Vec<Family<'_>> {
        let w = &self.status.writeback;
        let kinds = &self.status.store_requests;
        let kinds: Vec<Labelled> = kinds.iter().map(|(k, n)| (vec![k.clone()], Value::Count(*n))).collect();
        vec![
            gauge("writeback_files", None, "Files and directories with something not yet stored.", w.files),
            counter("writeback_stored", Some(Unit::Bytes), "Bytes brought to the backing.", w.stored_bytes),
            counter(
                "writeback_absorbed",
                Some(Unit::Bytes),
                "Bytes that never had to go to the backing: overwritten or deleted first.",
                w.absorbed_bytes,
            ),
            counter("writeback_requests", None, "Objects and names changed in the backing.", w.requests),
            counter("writeback_retries", None, "Batches tried again.", w.retries),
            counter("writeback_errors", None, "Batches that failed.", w.errors),
            counter(
                "writeback_conflicts",
                None,
                "Files that something else changed in the backing while they were changed here; both versions are kept.",
                w.conflicts,
            ),
            counter(
                "closes_after_write",
                None,
                "Closes of files that had been written.",
                w.closes_after_write,
            ),
            counter(
                "writeback_contents_stored",
                None,
                "Contents of files brought to the backing.",
                w.contents_stored,
            ),
            gauge(
                "writeback_uploads_saved",
                None,
                "Uploads (PUTs of a bucket) that one at each close would have made and absorption saved.",
                w.uploads_saved,
            ),
            many(
                "store_requests",
                None,
                MetricType::Counter,
                &["kind"],
                "Requests made of a bucket's store.",
                kinds,
            ),
        ]
    }

    fn prediction(&self) -> Vec<Family<'_>> {
        let p = &self.status.prediction;
        let fallback = p.fallback.is_some() as u64;
        vec![
            real(
                "prediction_confidence",
                Some(Unit::Other("ratio".into())),
                "Measured trust in the forecast, 0 to 1.",
                p.confidence,
            ),
            gauge("prediction_fallback", None, "1 while segments have the static size instead.", fallback),
            seconds("prediction_horizon", "How far ahead is forecast.", p.horizon_ms as f64 / 1e3),
            real(
                "prediction_expected",
                Some(Unit::Bytes),
                "Bytes expected in the horizon that begins now.",
                p.expected_bytes,
            ),
            real("prediction_q95", Some(Unit::Bytes), "Their credible .95 quantile.", p.q95_bytes),
            real("prediction_q99", Some(Unit::Bytes), "Their credible .99 quantile.", p.q99_bytes),
            gauge(
                "prediction_actual",
                Some(Unit::Bytes),
                "Bytes that came in the horizon that ends now.",
                p.actual_bytes,
            ),
            gauge(
                "reserve_idle",
                Some(Unit::Bytes),
                "Reserved segments that are not used.",
                p.idle_reserved_bytes,
            ),
            counter("reserve_hits", None, "Segments taken from the reserve.", p.reserve_hits),
            counter(
                "reserve_misses",
                None,
                "Segments that had to be made while a write waited.",
                p.reserve_misses,
            ),
            counter("write_stalls", None, "Writes that waited for space in the log.", p.stalls),
        ]
    }

    fn programs(&self) -> Vec<Family<'_>> {
        let of = |value: fn(&Program) -> Value| -> Vec<Labelled> {
            self.programs.iter().map(|p| (vec![p.name.clone()], value(p))).collect()
        };
        let live = self.status.clients.iter().filter(|c| !c.ended).count() as u64;
        let (name, bytes) = (&["program"], Some(Unit::Bytes));
        let counter = MetricType::Counter;
        vec![
            gauge("clients", None, "Processes that wrote and still run.", live),
            many(
                "program_written",
                bytes.clone(),
                counter,
                name,
                "Bytes written, by program.",
                of(|p| Value::Count(p.bytes)),
            ),
            many(
                "program_writes",
                None,
                counter,
                name,
                "Writes, by program.",
                of(|p| Value::Count(p.requests)),
            ),
            many(
                "program_throttled",
                Some(Unit::Seconds),
                counter,
                name,
                "Time that writes were held back because the log was full, by program.",
                of(|p| Value::Real(p.throttled_seconds)),
            ),
            many(
                "program_dirty",
                bytes,
                MetricType::Gauge,
                name,
                "Bytes that are only in the log, by program.",
                of(|p| Value::Count(p.dirty_bytes)),
            ),
        ]
    }
}

fn many<'a>(
    name: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    labels: &'static [&'static str],
    help: &'static str,
    samples: impl Into<Vec<Labelled>>,
) -> Family<'a> {
    Family { name, unit, kind, labels, help, samples: Samples::Values(samples.into()) }
}

fn gauge<'a>(name: &'static str, unit: Option<Unit>, help: &'static str, n: u64) -> Family<'a> {
    many(name, unit, MetricType::Gauge, &[], help, [(vec![], Value::Count(n))])
}

fn counter<'a>(name: &'static str, unit: Option<Unit>, help: &'static str, n: u64) -> Family<'a> {
    many(name, unit, MetricType::Counter, &[], help, [(vec![], Value::Count(n))])
}

fn real<'a>(name: &'static str, unit: Option<Unit>, help: &'static str, x: f64) -> Family<'a> {
    many(name, unit, MetricType::Gauge, &[], help, [(vec![], Value::Real(x))])
}

fn seconds<'a>(name: &'static str, help: &'static str, x: f64) -> Family<'a> {
    real(name, Some(Unit::Seconds), help, x)
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.families().iter().try_for_each(|f| f.encode(&mut encoder))
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
