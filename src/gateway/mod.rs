//! F6: the Storage Gateway Process: the composition root. open -> recover -> start -> run -> shut down,
//! each a visible sequence.

mod awake;
mod engine;
mod hold;
mod inspect;
mod live;
mod marker;
mod open;
mod plan;
mod queue;
mod recorder;
mod replayed;
mod report;
mod series;
mod service;
mod target;
mod workers;

pub use awake::Awake;
pub use engine::ForelogEngine;

use crate::backing::HeldLease;
use crate::config::{Config, Place, Transport};
use crate::control::Verdict;
use crate::control::exporter::Exporter;
use crate::control::series::Series;
use crate::fs::Fs;
use crate::history::Programs;
use crate::mount::{Callers, Served};
use crate::sys::fusemount;
use crate::sys::lock::LockFile;
use crate::sys::mountinfo;
use crate::volume::Volume;
use crate::writeback::{Retry, Shared};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Why the gateway ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Unmounted by us: what was `drained` before stays so, what was not stays in the log.
    Unmounted { drained: bool },
    /// Someone else unmounted it: drain on as long as we may.
    Bypassed,
    /// Someone else unmounted it, and their umount(2) waits for us.
    Held,
}

#[derive(Default)]
struct Life {
    ending: Option<Ending>,
    /// We are unmounting: the end of the session is ours.
    unmounting: bool,
    /// The verdict of the shutdown, once it is over.
    over: Option<Verdict>,
    /// A signal asked to end.
    signalled: bool,
    /// Asked to stop at once, even with bytes left.
    hurry: bool,
    /// Since when the mount is not in the tree of mounts that we see.
    off_tree_ns: Option<u64>,
}

/// A serving gateway.
pub struct Gateway {
    pub config: Config,
    pub volume: Arc<Volume>,
    pub fs: Arc<Fs>,
    pub callers: Arc<Callers>,
    pub programs: Arc<Programs>,
    pub writeback: Arc<Shared>,
    pub prediction: Mutex<plan::Seen>,
    pub recorders: recorder::Recorders,
    series: Mutex<Series>,
    by_program: Mutex<series::ByProgram>,
    /// Where metrics are served.
    metrics: OnceLock<SocketAddr>,
    /// The settings that may change.
    pub live: live::Current,
    started_ns: u64,
    rate: AtomicU64,
    mending: Mutex<Mending>,
    sign_of_life: Mutex<SignOfLife>,
    draining: AtomicBool,
    /// How requests come, once mounted.
    transport: OnceLock<Transport>,
    life: (Mutex<Life>, Condvar),
    hold: hold::Hold,
    /// Set if a umount(2) by anybody waits for us: how to see the mount leave the tree, and its device number.
    tree: OnceLock<(mountinfo::Watch, String)>,
    lease: Mutex<Option<Box<dyn HeldLease>>>,
}

/// How far the kernel reads ahead of a bucket's reader: its requests are small, so several are to be under way.
const READ_AHEAD_BYTES: u64 = 1 << 20;

/// From when on `status` speaks of a backing that does not answer.
const HANGS_SECONDS: u64 = 10;

/// The writing anew of segments whose sync failed.
struct Mending {
    retry: Retry,
    /// Why it did not work the last time.
    trouble: Option<String>,
}

/// When the writeback was last seen to get on.
#[derive(Default)]
struct SignOfLife {
    done: (u64, u64, u64, u64),
    at_ns: u64,
}

impl Gateway {
    /// Seconds for which the writeback has been waiting for one answer of the backing, if that is long.
    fn hangs(&self) -> Option<u64> {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let (v, w) = (&self.volume, &self.writeback);
        let moved = w.limiter.taken() + v.backing.answers();
        let done = (of(&v.given_bytes), of(&w.requests), of(&w.errors), moved);
        let now = v.clock.monotonic_ns();
        let mut s = self.sign_of_life.lock();
        if done != s.done || !w.in_step() {
            *s = SignOfLife { done, at_ns: now };
        }
        Some(now.saturating_sub(s.at_ns) / 1_000_000_000).filter(|&n| n >= HANGS_SECONDS)
    }

    fn served_by(&self, transport: Transport) {
        if self.transport.set(transport).is_err() {
            log::debug!("mounted before");
        }
    }

    fn metrics_at(&self, address: SocketAddr) {
        if self.metrics.set(address).is_err() {
            log::debug!("metrics are served already");
        }
    }

    fn end(&self, why: Ending) {
        let (m, c) = &self.life;
        let mut l = m.lock();
        if l.ending.is_none() {
            l.ending = Some(why);
        }
        c.notify_all();
    }

    /// Bytes that are only in the log. A change without bytes counts as one, so that 0 means nothing.
    pub fn bytes_left(&self) -> u64 {
        match self.volume.dirty_bytes() {
            0 if !self.is_drained() => 1,
            n => n,
        }
    }

    /// In one line that another gateway has the backing, and what to do; `None` while it is ours.
    fn taken_over(&self) -> Option<String> {
        let by = self.volume.lost_to()?;
        let (backing, dir) = (self.volume.backing.describe(), self.config.log_dir.display());
        Some(match self.bytes_left() {
            0 => format!("{backing} {by}; all that was written here had been stored before: unmount"),
            n => format!(
                "{backing} {by}: {n} bytes remain in the log {dir}; unmount, and mount again with this log once that \
                 gateway has ended: what both changed is then kept twice"
            ),
        })
    }

    /// Nothing waits for the writeback and it is not in the middle of something.
    pub fn is_drained(&self) -> bool {
        let parked = self.writeback.closing.load(Ordering::Acquire) && self.writeback.parked() > 0;
        self.volume.dirty.is_empty() && !parked && !self.writeback.in_step() && self.volume.dirty.is_empty()
    }

    /// Unmounts, EBUSY kept. Nothing to do when another thread of ours, or something else, just did.
    fn unmount(&self, lazy: bool) -> io::Result<()> {
        let (m, c) = &self.life;
        {
            let mut l = m.lock();
            while l.unmounting && l.ending.is_none() {
                c.wait_for(&mut l, Duration::from_millis(50));
            }
            if l.ending.is_some() {
                return Ok(());
            }
            l.unmounting = true;
        }
        let r = fusemount::unmount(&self.config.mountpoint, lazy);
        m.lock().unmounting = r.is_ok();
        c.notify_all();
        r
    }

    /// Waits until the mount has ended or must end.
    fn wait_for_end(&self, served: &Served) -> Ending {
        let (m, c) = &self.life;
        let mut l = m.lock();
        loop {
            if let Some(e) = l.ending {
                return e;
            }
            self.look_at_tree(&mut l);
            if served.ended() && !l.unmounting {
                l.ending = Some(Ending::Bypassed);
                return Ending::Bypassed;
            }
            c.wait_for(&mut l, Duration::from_millis(200));
        }
    }

    /// A signal: drain, unmount, end. A second one: end now, the log keeps the rest. One that comes while an unmount is
    /// under way, as at a machine's shutdown, lets that go on.
    fn signalled(self: &Arc<Self>) {
        let (m, c) = &self.life;
        {
            let mut l = m.lock();
            if std::mem::replace(&mut l.signalled, true) {
                l.hurry = true;
                c.notify_all();
                return;
            }
        }
        self.draining.store(true, Ordering::Release);
        log::info!("signal: draining, then unmounting");
        let drained = self.drain(Some(self.live.get().umount_timeout), &mut |_| ());
        {
            let mut l = m.lock();
            if l.ending.is_some() {
                l.hurry |= !drained;
                c.notify_all();
                return;
            }
        }
        if let Err(e) = self.unmount(false) {
            log::warn!("unmounting failed ({e}); detaching: files still open there become useless");
            if let Err(e) = self.unmount(true) {
                log::error!("detaching failed: {e}");
            }
        }
        self.end(Ending::Unmounted { drained });
    }

    fn hurried(&self) -> bool {
        self.life.0.lock().hurry
    }

    /// Drains until nothing is left, the time is up, or a second signal. True: nothing is left.
    fn drain(&self, at_most: Option<Duration>, each: &mut dyn FnMut(u64)) -> bool {
        let _draining = self.writeback.drain();
        let start = self.volume.clock.monotonic_ns();
        loop {
            if self.is_drained() {
                return true;
            }
            let spent = Duration::from_nanos(self.volume.clock.monotonic_ns() - start);
            if at_most.is_some_and(|m| spent >= m) || self.hurried() || self.volume.is_lost() {
                return false;
            }
            each(self.bytes_left());
            self.writeback.wait_step(Duration::from_millis(100));
        }
    }
}

/// Runs a gateway to its end.
fn run(config: Config, ready: &crate::sys::daemon::Ready) -> Result<Verdict, String> {
    if ready.is_foreground() {
        service::opening();
    }
    // Before anything is opened: a port that is taken costs nothing.
    let listener = config.metrics.map(Exporter::bind).transpose()?;
    let opened = open::open(&config)?;
    let locks: Vec<LockFile> = opened.locks;
    let gateway = opened.gateway;
    let workers = workers::start(&gateway).map_err(|e| format!("starting threads failed: {e}"))?;
    let exporter = listener.map(|l| {
        let weak = Arc::downgrade(&gateway);
        l.start(move || weak.upgrade().map(|g| g.scrape().text()))
    });
    let exporter = exporter.transpose().map_err(|e| format!("starting the metrics thread failed: {e}"))?;
    if let Some(e) = &exporter {
        log::info!("metrics at http://{}/metrics", e.address);
        gateway.metrics_at(e.address);
    }
    let outcome = serve(&gateway, ready);
    drop(exporter);
    workers.stop();
    // Whoever unmounted may mount again at once.
    drop(locks);
    gateway.hold.let_go();
    outcome
}

/// How long a last step of the writeback is waited for when nothing is dirty.
const LAST_STEP_NS: u64 = 5_000_000_000;

/// From the mount to the last checkpoint.
fn serve(gateway: &Arc<Gateway>, ready: &crate::sys::daemon::Ready) -> Result<Verdict, String> {
    let c = &gateway.config;
    let options = fusemount::MountOptions {
        fsname: c.backing.to_string(),
        read_only: c.read_only,
        allow_other: c.flags.allow_other,
        default_permissions: true,
        nosuid: c.flags.nosuid,
        nodev: c.flags.nodev,
        noexec: c.flags.noexec,
        noatime: c.flags.noatime,
        max_read: None,
    };
    let how = crate::mount::How { threads: c.threads, transport: c.transport, wait_umount: c.wait_umount };
    let weak = Arc::downgrade(gateway);
    let at_end: crate::mount::AtEnd = Arc::new(move |answer| match weak.upgrade() {
        Some(g) => g.gone(answer),
        None => answer(),
    });
    let (fs, callers) = (gateway.fs.clone(), gateway.callers.clone());
    let served =
        crate::mount::serve(fs, callers, &c.mountpoint, &options, how, at_end).map_err(|e| e.to_string())?;
    gateway.served_by(served.transport);
    if served.holds_umount {
        gateway.watch_tree();
    }
    if matches!(c.backing, Place::Bucket(_))
        && let Err(e) = fusemount::set_read_ahead(&c.mountpoint, READ_AHEAD_BYTES)
    {
        log::debug!("the kernel's read-ahead stays as it is: {e}");
    }
    queue::tell_states(gateway);
    let server = match crate::control::Server::start(&c.mountpoint, &c.log_dir, target::Target::new(gateway))
    {
        Ok(s) => s,
        Err(e) => {
            gateway.unmount(true).map_err(|u| format!("{e}; and unmounting failed: {u}"))?;
            return Err(e.to_string());
        }
    };
    let (weak, told) = (Arc::downgrade(gateway), ready.clone());
    let signals = crate::sys::signal::SignalThread::start(move |s| {
        if s != crate::sys::signal::Signal::Hangup
            && let Some(g) = weak.upgrade()
        {
            told.stopping();
            // On a thread of its own, so that a second signal is heard while this one drains.
            let started = crate::sys::worker::spawn("terminate", move || g.signalled());
            if let Err(e) = started {
                log::error!("starting a thread failed: {e}");
            }
        }
    })
    .map_err(|e| format!("catching signals failed: {e}"))?;
    let utab = utab_add(c);
    log::info!("serving {} on {}", c.backing, c.mountpoint.display());
    ready.mounted();
    let service = if ready.is_foreground() { service::start(gateway) } else { None };
    let why = gateway.wait_for_end(&served);
    ready.stopping();
    if utab && let Err(e) = crate::sys::utab::remove(&c.mountpoint) {
        log::debug!("removing the utab entry failed: {e}");
    }
    let verdict = shut_down(gateway, why);
    {
        let (m, cv) = &gateway.life;
        m.lock().over = Some(verdict.clone());
        cv.notify_all();
    }
    drop((signals, service));
    if let Err(e) = server.stop() {
        log::warn!("ending the control channel failed: {e}");
    }
    Ok(verdict)
}

fn utab_add(c: &Config) -> bool {
    if !rustix::process::geteuid().is_root() {
        return false;
    }
    match crate::sys::utab::add(&c.mountpoint) {
        Ok(()) => true,
        Err(e) => {
            log::debug!("no utab entry ({e}): a plain umount by root will not wait for the drain");
            false
        }
    }
}

/// Drains until all is in the backing (true), or somebody is in a hurry, or the backing has another owner.
fn drain_on(gateway: &Gateway, first: Duration) -> bool {
    let mut at_most = first;
    loop {
        if gateway.drain(Some(at_most), &mut |_| ()) {
            return true;
        }
        if gateway.hurried() || gateway.volume.is_lost() {
            return false;
        }
        at_most = Duration::from_secs(3600);
        log::info!("still draining: {} bytes left", gateway.bytes_left());
    }
}

/// Stop intake -> drain -> seal -> checkpoint -> close.
fn shut_down(gateway: &Arc<Gateway>, why: Ending) -> Verdict {
    let v = &gateway.volume;
    gateway.draining.store(true, Ordering::Release);
    // No program can come any more; what the kernel did not give back is given back now.
    gateway.fs.close_all();
    gateway.writeback.closing.store(true, Ordering::Release);
    let told = match why {
        Ending::Bypassed => {
            log::info!("unmounted by something else; draining on");
            drain_on(gateway, Duration::from_secs(3600))
        }
        // The hold's own watch says when its time is over.
        Ending::Held => drain_on(gateway, gateway.live.get().umount_timeout),
        // What came between the drain and the unmount.
        Ending::Unmounted { drained: true } => {
            gateway.drain(Some(gateway.live.get().umount_timeout), &mut |_| ())
        }
        Ending::Unmounted { drained: false } => false,
    };
    // Once all was in the backing nothing new can come. A step of the writeback that finds nothing to do may just have begun: that is
    // no reason to say that something remains.
    let asked = v.clock.monotonic_ns();
    while told && gateway.writeback.in_step() && v.clock.monotonic_ns() - asked < LAST_STEP_NS {
        gateway.writeback.wait_step(Duration::from_millis(20));
    }
    let clean = (told && v.dirty.is_empty()) || gateway.is_drained();
    v.wal.seal_older(0);
    let closed = v.checkpoint();
    v.wal.nudge_epochs();
    if let Some(kept) = gateway.writeback.kept.get() {
        kept.close();
    }
    if let Err(e) = closed {
        return Verdict::refused(format!(
            "closing the log in {} failed: {e}; the next mount recovers it",
            gateway.config.log_dir.display()
        ));
    }
    if let Some(why) = gateway.taken_over() {
        return match clean {
            true => Verdict::done(""),
            false => Verdict::remains(why),
        };
    }
    if !clean {
        return Verdict::remains(format!(
            "{} bytes remain in the log {}; mount again to resume",
            gateway.bytes_left(),
            gateway.config.log_dir.display()
        ));
    }
    if let Err(e) = open::leave_backing(gateway) {
        log::warn!("tidying the backing failed: {e}");
    }
    log::info!("unmounted; the log is empty");
    Verdict::done("")
}

/// True while the kernel still has the mount.
fn still_mounted(c: &Config) -> bool {
    mountinfo::is_mounted(&c.mountpoint).unwrap_or(false)
}
