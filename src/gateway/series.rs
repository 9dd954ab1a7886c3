//! What is noted each second: the points of the series, and what each program has written so far.

use super::Gateway;
use crate::control::metrics::{Program, Scrape};
use crate::control::series::{Point, SeriesPart, Times};
use crate::control::status::Status;
use crate::fs::meter::Verb;
use crate::history::Programs;
use crate::types::{ClientId, ProgramId};
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Programs told apart; the lightest are lumped together.
const PROGRAMS_MAX: usize = 32;
const VERBS: [Verb; 3] = [Verb::Write, Verb::Read, Verb::Fsync];

/// What one program, or all others, did since the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub requests: u64,
    pub bytes: u64,
    pub throttled_ns: u64,
}

impl Done {
    fn add(&mut self, d: Done) {
        self.requests += d.requests;
        self.bytes += d.bytes;
        self.throttled_ns += d.throttled_ns;
    }
}

/// Sums by program, from those of clients, which are dropped some time after they ended.
#[derive(Default)]
pub struct ByProgram {
    clients: HashMap<ClientId, Done>,
    programs: BTreeMap<ProgramId, Done>,
}

impl ByProgram {
    /// Takes how far the clients have come. Returns the bytes of each program since the last time.
    fn follow(&mut self, now: &[(ClientId, ProgramId, Done)]) -> BTreeMap<u32, u64> {
        let mut news = BTreeMap::new();
        for (client, program, done) in now {
            let old = self.clients.insert(*client, *done).unwrap_or_default();
            let more = Done {
                requests: done.requests.saturating_sub(old.requests),
                bytes: done.bytes.saturating_sub(old.bytes),
                throttled_ns: done.throttled_ns.saturating_sub(old.throttled_ns),
            };
            if more != Done::default() {
                self.programs.entry(*program).or_default().add(more);
                *news.entry(program.0).or_default() += more.bytes;
            }
        }
        let present: HashSet<ClientId> = now.iter().map(|c| c.0).collect();
        self.clients.retain(|c, _| present.contains(c));
        while self.programs.len() > PROGRAMS_MAX {
            let named = self.programs.iter().filter(|p| *p.0 != Programs::OTHER);
            let Some(least) = named.min_by_key(|p| p.1.bytes).map(|p| *p.0) else { break };
            let folded = self.programs.remove(&least).unwrap_or_default();
            self.programs.entry(Programs::OTHER).or_default().add(folded);
        }
        news
    }
}

/// Counters at one moment.
struct Moment {
    monotonic_ns: u64,
    status: Status,
    times: [Histogram<u32>; 3],
}

impl Moment {
    fn of(g: &Gateway) -> Moment {
        Moment {
            monotonic_ns: g.volume.clock.monotonic_ns(),
            status: g.status_without_clients(),
            times: VERBS.map(|v| g.fs.meter.times(v).0),
        }
    }

    /// Requests made of the store, or steps of the writeback.
    fn requests(&self) -> u64 {
        match self.status.store_requests.values().sum() {
            0 => self.status.writeback.requests,
            n => n,
        }
    }

    fn times_since(&self, then: &Moment, verb: Verb) -> Times {
        let mut span = self.times[verb as usize].clone();
        // It is the same histogram later, so none of its counts is below the earlier one's.
        if span.subtract(&then.times[verb as usize]).is_err() {
            return Times::default();
        }
        let us = |q| u32::try_from(span.value_at_quantile(q) / 1000).unwrap_or(u32::MAX);
        if span.is_empty() {
            Times::default()
        } else {
            Times { p50: us(0.5), p99: us(0.99), p999: us(0.999) }
        }
    }

    fn since(&self, then: &Moment, at_ms: i64, reserve_bytes: u64, programs: &BTreeMap<u32, u64>) -> Point {
        let (s, t) = (&self.status, &then.status);
        let (r, q, w, x, p) = (&s.requests, &t.requests, &s.writeback, &t.writeback, &s.prediction);
        let mut point = Point {
            number: 0,
            at_ms,
            span_ms: (self.monotonic_ns.saturating_sub(then.monotonic_ns) / 1_000_000) as u32,
            state: s.state,
            writes: r.write.count.saturating_sub(q.write.count),
            written_bytes: r.write.bytes.saturating_sub(q.write.bytes),
            reads: r.read.count.saturating_sub(q.read.count),
            read_bytes: r.read.bytes.saturating_sub(q.read.bytes),
            fsyncs: r.fsync.count.saturating_sub(q.fsync.count),
            write_us: self.times_since(then, Verb::Write),
            read_us: self.times_since(then, Verb::Read),
            fsync_us: self.times_since(then, Verb::Fsync),
            stored_bytes: w.stored_bytes.saturating_sub(x.stored_bytes),
            absorbed_bytes: w.absorbed_bytes.saturating_sub(x.absorbed_bytes),
            requests: self.requests().saturating_sub(then.requests()),
            errors: w.errors.saturating_sub(x.errors),
            stalls: p.stalls.saturating_sub(t.prediction.stalls),
            closes: w.closes_after_write.saturating_sub(x.closes_after_write),
            contents: w.contents_stored.saturating_sub(x.contents_stored),
            programs: Box::default(),
            // Casts of NaN and negatives give 0.
            expected_bytes: p.expected_bytes as u64,
            q95_bytes: p.q95_bytes as u64,
            q99_bytes: p.q99_bytes as u64,
            horizon_ms: p.horizon_ms as u32,
            reserve_bytes,
            dirty_bytes: s.log.dirty_bytes,
            used_bytes: s.log.used_bytes,
            oldest_dirty_ms: (s.log.oldest_dirty_seconds * 1000.0) as u64,
        };
        point.set_programs(programs);
        point
    }
}

/// Notes a point a second, and a longer one each minute.
pub struct Sampler {
    gateway: Arc<Gateway>,
    second: Moment,
    minute: Moment,
    /// Bytes by program since the last minute's point.
    minute_programs: BTreeMap<u32, u64>,
}

const MINUTE_NS: u64 = 60_000_000_000;

impl Sampler {
    /// Begins now.
    pub fn new(gateway: &Arc<Gateway>) -> Sampler {
        let (second, minute) = (Moment::of(gateway), Moment::of(gateway));
        Sampler { gateway: gateway.clone(), second, minute, minute_programs: BTreeMap::new() }
    }

    /// The second is over.
    pub fn step(&mut self) {
        let g = &self.gateway;
        let news = g.follow_programs();
        for (program, bytes) in &news {
            *self.minute_programs.entry(*program).or_default() += bytes;
        }
        let now = Moment::of(g);
        let at_ms = g.volume.clock.wall_ns() / 1_000_000;
        let room: u64 = g.volume.wal.open_segments().iter().map(|s| s.room_bytes).sum();
        let reserve = now.status.prediction.idle_reserved_bytes + room;
        let point = now.since(&self.second, at_ms, reserve, &news);
        let full = now.monotonic_ns.saturating_sub(self.minute.monotonic_ns) + 500_000_000 >= MINUTE_NS;
        let minute = full.then(|| now.since(&self.minute, at_ms, reserve, &self.minute_programs));
        let mut series = g.series.lock();
        series.push(false, point);
        if let Some(minute) = minute {
            series.push(true, minute);
            self.minute_programs.clear();
            self.minute = Moment::of(g);
        }
        drop(series);
        self.second = now;
    }
}

impl Gateway {
    fn follow_programs(&self) -> BTreeMap<u32, u64> {
        let of = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let clients = self.fs.clients.all();
        let now: Vec<_> = clients
            .iter()
            .map(|c| {
                let done = Done {
                    requests: of(&c.requests),
                    bytes: of(&c.bytes),
                    throttled_ns: of(&c.throttled_ns),
                };
                (c.slot.id, c.program, done)
            })
            .collect();
        self.by_program.lock().follow(&now)
    }

    /// What was noted, for the control channel.
    pub fn series(&self, minutes: bool, after: u64) -> Vec<SeriesPart> {
        let name = |n| self.programs.name(ProgramId(n)).to_string();
        self.series.lock().parts(minutes, after, &name)
    }

    /// All that metrics are made of.
    pub fn scrape(&self) -> Scrape {
        self.follow_programs();
        let status = self.status().tidy();
        let mut dirty: HashMap<&str, u64> = HashMap::new();
        for c in &status.clients {
            *dirty.entry(&c.program).or_default() += c.dirty_bytes;
        }
        let table = self.by_program.lock();
        let mut programs: Vec<Program> = table
            .programs
            .iter()
            .map(|(id, done)| {
                let name = self.programs.name(*id).to_string();
                Program {
                    dirty_bytes: dirty.remove(name.as_str()).unwrap_or(0),
                    name,
                    requests: done.requests,
                    bytes: done.bytes,
                    throttled_seconds: done.throttled_ns as f64 / 1e9,
                }
            })
            .collect();
        drop(table);
        let rest: u64 = dirty.values().sum();
        match programs.iter_mut().find(|p| p.name == "other") {
            Some(other) => other.dirty_bytes += rest,
            None if rest > 0 => {
                programs.push(Program { name: "other".into(), dirty_bytes: rest, ..Program::default() });
            }
            None => {}
        }
        Scrape { times: VERBS.map(|v| self.fs.meter.times(v)), programs, status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bytes: u64) -> Done {
        Done { requests: 1, bytes, throttled_ns: 0 }
    }

    #[test]
    fn programs_keep_what_their_ended_clients_wrote() {
        let mut t = ByProgram::default();
        let (a, b) = (ProgramId(1), ProgramId(2));
        assert_eq!(
            t.follow(&[(ClientId(1), a, at(10)), (ClientId(2), b, at(5))]),
            BTreeMap::from([(1, 10), (2, 5)])
        );
        assert_eq!(
            t.follow(&[(ClientId(1), a, at(25)), (ClientId(3), b, at(1))]),
            BTreeMap::from([(1, 15), (2, 1)])
        );
        assert_eq!((t.programs[&a].bytes, t.programs[&b].bytes, t.clients.len()), (25, 6, 2));
    }

    #[test]
    fn the_lightest_programs_are_lumped_and_nothing_is_lost() {
        let mut t = ByProgram::default();
        for n in 1..=100u32 {
            t.follow(&[(ClientId(n), ProgramId(n), at(n as u64))]);
        }
        assert_eq!(t.programs.len(), PROGRAMS_MAX);
        assert_eq!(t.programs.values().map(|d| d.bytes).sum::<u64>(), 5050);
        assert!(t.programs.contains_key(&ProgramId(100)) && !t.programs.contains_key(&ProgramId(1)));
    }
}
