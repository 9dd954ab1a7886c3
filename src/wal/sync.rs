//! Group commit. A sync makes a record durable *and all it depends on*: the transitive closure over
//! the predecessors that lie in other segments (docs/ARCHITECTURE.md, "Order across segments"). One
//! fdatasync of a segment serves all who wait for it; the committers run off the session threads.

use super::Wal;
use super::segment::{Phase, Segment};
use crate::format::segment::RECORDS_AT;
use crate::sys::worker::spawn;
use crate::types::{Lsn, Pos, SegmentId};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// The log device failed to sync, now or earlier: the errno. Never retried into success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncFailed(pub i32);

/// Called once with the outcome, on a committer's thread or at once on the caller's.
pub type Done = Box<dyn FnOnce(Result<(), SyncFailed>) + Send>;

struct Target {
    segment: Arc<Segment>,
    generation: u32,
    end: u32,
}

struct Job {
    targets: Vec<Target>,
    left: AtomicUsize,
    failed: AtomicI32,
    /// Every record up to here is durable when this job is done.
    stable: Lsn,
    done: Mutex<Option<Done>>,
}

/// The waiters of one segment.
#[derive(Default)]
pub(super) struct Queue {
    running: bool,
    waiting: Vec<Arc<Job>>,
}

/// The committers' common state.
#[derive(Default)]
pub struct Committer {
    work: Mutex<VecDeque<Arc<Segment>>>,
    wake: Condvar,
    stop: AtomicBool,
    /// fdatasync calls made.
    pub device_syncs: AtomicU64,
    /// Segments latched by a failed sync now.
    pub latched: AtomicU64,
    /// Syncs that failed, and segments written anew for it.
    pub failures: AtomicU64,
    pub rewritten: AtomicU64,
}

impl Wal {
    /// Starts the committer threads.
    pub fn start_committers(self: &Arc<Self>, threads: usize) -> io::Result<Vec<JoinHandle<()>>> {
        (0..threads)
            .map(|i| {
                let wal = self.clone();
                spawn(&format!("committer-{i}"), move || {
                    crate::sys::limits::short_turns(0);
                    wal.run_committer()
                })
            })
            .collect()
    }

    /// Ends the committers once their queue is empty.
    pub fn stop_committers(&self) {
        self.committer.stop.store(true, Ordering::Release);
        let _held = self.committer.work.lock();
        self.committer.wake.notify_all();
    }

    /// Makes all of `needs` and what they depend on durable, then calls `done`.
    pub fn sync(&self, needs: &[Pos], done: Done) {
        let targets = self.closure(needs);
        self.submit(targets, Lsn::NONE, done);
    }

    /// Makes everything appended so far durable.
    pub fn sync_all(&self, done: Done) {
        // Numbers are given out under the segment's lock, and a segment is in the table before it
        // takes its first: whoever has a number up to `upto` is seen, complete, below.
        let upto = self.marks.appended();
        if upto <= self.marks.stable() {
            return done(Ok(()));
        }
        let mut targets = Vec::new();
        for s in self.pool.all() {
            let st = s.state.lock();
            if matches!(st.phase, Phase::Open | Phase::Sealed) && st.pos > s.durable() {
                let (generation, end) = (s.generation(), st.pos);
                drop(st);
                targets.push(Target { segment: s, generation, end });
            }
        }
        self.submit(targets, upto, done);
    }

    /// As `sync_all`, waiting for the outcome.
    pub fn sync_all_wait(&self) -> Result<(), SyncFailed> {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.sync_all(Box::new(move |r| tx.send(r).unwrap_or(())));
        rx.recv().unwrap_or(Err(SyncFailed(5)))
    }

    /// As `sync`, waiting for the outcome.
    pub fn sync_wait(&self, needs: &[Pos]) -> Result<(), SyncFailed> {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.sync(needs, Box::new(move |r| tx.send(r).unwrap_or(())));
        rx.recv().unwrap_or(Err(SyncFailed(5)))
    }

    /// Segments, and how far, that must be synced so that `needs` survive any cut. A sync makes a
    /// segment's whole prefix durable, so every record of that prefix counts, not only those asked for.
    fn closure(&self, needs: &[Pos]) -> Vec<Target> {
        let mut found: BTreeMap<SegmentId, Target> = BTreeMap::new();
        let mut work: Vec<Pos> = needs.iter().copied().filter(|p| !self.is_durable(p)).collect();
        while let Some(p) = work.pop() {
            let seen = found.get(&p.segment).map_or(RECORDS_AT as u32, |t| t.end);
            if p.end <= seen && found.contains_key(&p.segment) {
                continue;
            }
            let Some(seg) = self.pool.get(p.segment) else { continue };
            let st = seg.state.lock();
            if seg.generation() != p.generation {
                continue;
            }
            let end = st.pos;
            let from = seg.durable().max(if found.contains_key(&p.segment) { seen } else { 0 });
            work.extend(
                st.deps
                    .iter()
                    .filter(|d| d.end > from && d.end <= end)
                    .map(|d| d.on)
                    .filter(|on| !self.is_durable_held(on, &seg, p.generation)),
            );
            drop(st);
            found.insert(p.segment, Target { segment: seg, generation: p.generation, end });
        }
        found.into_values().collect()
    }

    fn submit(&self, targets: Vec<Target>, stable: Lsn, done: Done) {
        if let Some(e) = targets.iter().find_map(|t| t.segment.latched()) {
            return done(Err(SyncFailed(e)));
        }
        if targets.is_empty() {
            self.marks.advance_stable(stable);
            return done(Ok(()));
        }
        let job = Arc::new(Job {
            left: AtomicUsize::new(targets.len()),
            targets,
            failed: AtomicI32::new(0),
            stable,
            done: Mutex::new(Some(done)),
        });
        for t in &job.targets {
            let mut q = t.segment.sync.lock();
            q.waiting.push(job.clone());
            if !q.running {
                q.running = true;
                drop(q);
                self.committer.work.lock().push_back(t.segment.clone());
                self.committer.wake.notify_one();
            }
        }
    }

    fn run_committer(&self) {
        loop {
            let seg = {
                let mut w = self.committer.work.lock();
                loop {
                    if let Some(s) = w.pop_front() {
                        break s;
                    }
                    if self.committer.stop.load(Ordering::Acquire) {
                        return;
                    }
                    self.committer.wake.wait(&mut w);
                }
            };
            self.commit(&seg);
        }
    }

    /// One fdatasync for all who wait for this segment now.
    fn commit(&self, seg: &Arc<Segment>) {
        let jobs = std::mem::take(&mut seg.sync.lock().waiting);
        let outcome = match seg.latched() {
            Some(e) => Err(e),
            None => {
                self.committer.device_syncs.fetch_add(1, Ordering::Relaxed);
                self.sync_segment(seg).map_err(|e| self.latch(seg, &e))
            }
        };
        for job in jobs {
            if let Err(e) = outcome {
                job.failed.store(e, Ordering::Release);
            }
            if job.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.finish(&job);
            }
        }
        let mut q = seg.sync.lock();
        if q.waiting.is_empty() {
            q.running = false;
        } else {
            drop(q);
            self.committer.work.lock().push_back(seg.clone());
            self.committer.wake.notify_one();
        }
    }

    fn sync_segment(&self, seg: &Segment) -> io::Result<()> {
        seg.file().sync_data()?;
        if seg.unnamed.load(Ordering::Acquire) {
            self.pool.sync_names()?;
            seg.unnamed.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Law 4: after one failed sync the kernel may have dropped the pages and forgotten the error.
    fn latch(&self, seg: &Segment, e: &io::Error) -> i32 {
        let errno = e.raw_os_error().filter(|&n| n != 0).unwrap_or(5);
        if seg.latched.swap(errno, Ordering::AcqRel) == 0 {
            self.committer.latched.fetch_add(1, Ordering::AcqRel);
        }
        self.committer.failures.fetch_add(1, Ordering::Relaxed);
        log::error!(
            "syncing log segment {} failed: {e}; fsync answers EIO for what it holds until that is \
             written to another file and verified; check the log's disk",
            seg.id.0
        );
        self.seal(seg);
        super::mend::mark(self.pool.disk(), seg.id);
        errno
    }

    /// All segments of a job are synced: only now are they durable, since each may depend on another.
    fn finish(&self, job: &Job) {
        let failed = job.failed.load(Ordering::Acquire);
        if failed == 0 {
            for t in &job.targets {
                t.segment.advance_durable(t.generation, t.end);
            }
            self.marks.advance_stable(job.stable);
        }
        if let Some(done) = job.done.lock().take() {
            done(if failed == 0 { Ok(()) } else { Err(SyncFailed(failed)) });
        }
    }
}
