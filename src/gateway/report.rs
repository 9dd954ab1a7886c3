//! The status snapshot, from true figures only.

use super::{Gateway, still_mounted};
use crate::config::Place;
use crate::control::status::{self, State, Status, Timing};
use crate::fs::meter::Verb;
use crate::wal::Owner;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

impl Gateway {
    /// What `forelog status` shows.
    pub fn status(&self) -> Status {
        Status { clients: self.clients_status(), ..self.status_without_clients() }
    }

    /// The same but for the clients, of which there may be many.
    pub fn status_without_clients(&self) -> Status {
        let now = self.volume.clock.monotonic_ns();
        let (state, reason) = self.state();
        Status {
            state,
            reason,
            pid: std::process::id(),
            mountpoint: self.config.mountpoint.display().to_string(),
            backing: self.volume.backing.describe(),
            backing_kind: match self.config.backing {
                Place::Directory(_) => "directory".into(),
                Place::Bucket(_) => "bucket".into(),
            },
            store_requests: self.volume.backing.requests().into_iter().collect(),
            read_cache: self.cache_status(),
            kept: self.kept_status(),
            log_dir: self.config.log_dir.display().to_string(),
            uptime_seconds: (now - self.started_ns) as f64 / 1e9,
            transport: self.transport.get().map_or("", |t| t.name()).into(),
            umount_waits: self.holds_umount(),
            metrics: self.metrics.get().map(ToString::to_string),
            open_handles: self.fs.open_handles() as u64,
            requests: status::Requests {
                write: self.timing(Verb::Write),
                read: self.timing(Verb::Read),
                fsync: self.timing(Verb::Fsync),
            },
            log: self.log_status(),
            writeback: self.writeback_status(),
            prediction: self.prediction_status(),
            settings: self.live.get().texts(),
            ..Status::default()
        }
    }

    fn kept_status(&self) -> status::Kept {
        let Some(kept) = self.writeback.kept.get() else { return status::Kept::default() };
        let f = kept.figures();
        let oldest_ns = self.volume.clock.wall_ns().saturating_sub(f.since_ns).max(0);
        status::Kept {
            on: true,
            window_seconds: self.config.keep_log.as_secs_f64(),
            segments: f.segments,
            bytes: f.bytes,
            room_bytes: f.room_bytes,
            oldest_seconds: oldest_ns as f64 / 1e9,
            given_up: f.given_up,
            lost: f.lost,
        }
    }

    fn cache_status(&self) -> status::ReadCache {
        let c = self.volume.backing.cache();
        status::ReadCache {
            capacity_bytes: c.capacity_bytes,
            used_bytes: c.used_bytes,
            entries: c.entries,
            hits: c.hits,
            misses: c.misses,
            damaged: c.damaged,
        }
    }

    pub(super) fn state(&self) -> (State, Option<String>) {
        if self.volume.wal.committer.latched.load(Ordering::Relaxed) > 0 {
            let why = match self.mending.lock().trouble.clone() {
                None => "it is being written to another file".to_owned(),
                Some(e) => format!("writing it to another file failed, trying again: {e}"),
            };
            let dir = self.config.log_dir.display();
            return (
                State::Degraded,
                Some(format!(
                    "a sync of the log in {dir} failed: fsync gives EIO for what that segment holds, and nothing \
                     is brought to the backing; {why}; check the disk"
                )),
            );
        }
        if let Some(why) = self.taken_over() {
            return (State::Degraded, Some(why));
        }
        let trouble = self.writeback.trouble.lock().clone();
        if let Some(t) = trouble {
            return (State::Degraded, Some(format!("the backing fails, retrying: {t}")));
        }
        if let Some(n) = self.hangs() {
            let why = format!("the backing has not answered for {n} s; what is written waits in the log");
            return (State::Degraded, Some(why));
        }
        if self.life.0.lock().over.is_some() {
            return (State::Stopped, None);
        }
        if self.draining.load(Ordering::Acquire) || self.writeback.is_draining() {
            let unmounted = || (!still_mounted(&self.config)).then(|| "unmounted, draining on".to_owned());
            return (State::Draining, self.hold_reason().or_else(unmounted));
        }
        (State::Serving, None)
    }

    fn timing(&self, verb: Verb) -> Timing {
        let r = self.fs.meter.read(verb);
        Timing { count: r.count, bytes: r.bytes, p50_us: r.p50_us, p99_us: r.p99_us, p999_us: r.p999_us }
    }

    fn log_status(&self) -> status::Log {
        let wal = &self.volume.wal;
        let c = wal.segment_counts();
        let age = match self.volume.dirty.oldest_ns() {
            Some(t) => (self.volume.clock.wall_ns() - t).max(0) as f64 / 1e9,
            None => 0.0,
        };
        status::Log {
            capacity_bytes: wal.pool.limits.capacity,
            used_bytes: c.used_bytes,
            dirty_bytes: self.volume.dirty_bytes(),
            appended_lsn: wal.marks.appended().0,
            durable_lsn: wal.marks.stable().0,
            oldest_dirty_seconds: age,
            device_syncs: wal.committer.device_syncs.load(Ordering::Relaxed),
            sync_failures: wal.committer.failures.load(Ordering::Relaxed),
            segments_latched: wal.committer.latched.load(Ordering::Relaxed),
            segments_rewritten: wal.committer.rewritten.load(Ordering::Relaxed),
            segments: status::Segments { free: c.free, reserved: c.reserved, open: c.open, sealed: c.sealed },
        }
    }

    fn writeback_status(&self) -> status::Writeback {
        let w = &self.writeback;
        let backlog = self.volume.dirty_bytes();
        let rate = self.rate.load(Ordering::Relaxed);
        let closes = self.fs.closes_after_write.load(Ordering::Relaxed);
        let contents = w.contents.load(Ordering::Relaxed);
        let waiting = self.volume.dirty.len() as u64;
        let eta = match (backlog, rate) {
            (0, _) => Some(0.0),
            (_, 0) => None,
            (b, r) => Some(b as f64 / r as f64),
        };
        status::Writeback {
            backlog_bytes: backlog,
            files: waiting,
            bytes_per_second: rate,
            eta_seconds: eta,
            stored_bytes: self.volume.stored_bytes.load(Ordering::Relaxed),
            absorbed_bytes: self.volume.absorbed_bytes.load(Ordering::Relaxed),
            requests: w.requests.load(Ordering::Relaxed),
            retries: w.retries.load(Ordering::Relaxed),
            errors: w.errors.load(Ordering::Relaxed),
            conflicts: w.conflicts.load(Ordering::Relaxed),
            closes_after_write: closes,
            contents_stored: contents,
            uploads_saved: closes.saturating_sub(contents + waiting),
            last_error: w.last_error.lock().clone(),
            note: w.seen.lock().note.clone(),
        }
    }

    fn prediction_status(&self) -> status::Prediction {
        let seen = self.prediction.lock();
        let f = &seen.forecast;
        let pool = &self.volume.wal.pool;
        status::Prediction {
            interval_ms: self.config.predict_interval.as_millis() as u64,
            horizon_ms: f.horizon_ns / 1_000_000,
            model: f.model.clone(),
            confidence: f.confidence,
            fallback: f.fallback.as_ref().map(ToString::to_string),
            expected_requests: f.expected_requests,
            expected_request_bytes: f.expected_request_bytes,
            expected_bytes: f.expected_bytes,
            q95_bytes: f.band.0.min(f.credible_bytes as f64),
            q99_bytes: f.band.1.min(f.credible_bytes as f64),
            actual_requests: f.actual_requests,
            actual_bytes: f.actual_bytes,
            reserve_hits: pool.hits.load(Ordering::Relaxed),
            reserve_misses: pool.misses.load(Ordering::Relaxed),
            stalls: self.fs.pressure.stalls.load(Ordering::Relaxed),
            idle_reserved_bytes: pool.counts().reserved_bytes,
            tick_p50_us: seen.ticks.value_at_quantile(0.5) / 1000,
            tick_p99_us: seen.ticks.value_at_quantile(0.99) / 1000,
        }
    }

    fn clients_status(&self) -> Vec<status::Client> {
        let mut dirty: HashMap<Owner, i64> = HashMap::new();
        let mut total = 0;
        for (o, live) in self.volume.wal.live_by_owner() {
            *dirty.entry(o).or_default() += live;
            total += live;
        }
        let mut reserved: HashMap<Owner, u64> = HashMap::new();
        for (o, size) in self.volume.wal.pool.reserved() {
            *reserved.entry(o).or_default() += size as u64;
        }
        let expected: HashMap<_, f64> =
            self.prediction.lock().forecast.clients.iter().map(|c| (c.client, c.expected_bytes)).collect();
        let clients = self.fs.clients.all();
        let seen = clients.iter().filter(|c| c.requests.load(Ordering::Relaxed) > 0);
        seen.take(status::CLIENTS_MAX)
            .map(|c| {
                let o = Owner::Client(c.slot.id);
                let mine = dirty.get(&o).copied().unwrap_or(0).max(0) as u64;
                status::Client {
                    client: format!("{}:{}", c.slot.pid, c.slot.start.load(Ordering::Relaxed)),
                    pid: c.slot.pid,
                    program: c.name.clone(),
                    requests: c.requests.load(Ordering::Relaxed),
                    bytes: c.bytes.load(Ordering::Relaxed),
                    dirty_bytes: mine,
                    segment_bytes: c.slot.open_bytes(),
                    reserved_bytes: reserved.get(&o).copied().unwrap_or(0),
                    expected_bytes: expected.get(&c.slot.id).copied().unwrap_or(0.0),
                    share: if total > 0 { mine as f64 / total as f64 } else { 0.0 },
                    throttled_seconds: c.throttled_ns.load(Ordering::Relaxed) as f64 / 1e9,
                    p99_us: c.latency.quantile_us(0.99),
                    ended: c.gone.load(Ordering::Acquire),
                }
            })
            .collect()
    }
}
