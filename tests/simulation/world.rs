//! A simulated machine: disk, backing, clock and a gateway without FUSE, driven from one seed.

use crate::model::Model;
use crate::programs::{Programs, difference, show};
use forelog::backing::Backing;
use forelog::fs::{Clients, Fs};
use forelog::history::History;
use forelog::sys::clock::Clock;
use forelog::sys::disk::Disk;
use forelog::testing::{Dice, ManualClock, MemBacking, Plug, SimDisk, Trouble};
use forelog::types::Kind;
use forelog::volume::Volume;
use forelog::wal::PoolLimits;
use forelog::writeback::{Settings, Shared, Writeback};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// A log that is soon full and turns its segments over all the time.
pub const LIMITS: PoolLimits = PoolLimits {
    capacity: 3 << 20,
    segment_min: 64 << 10,
    segment_max: 256 << 10,
    segment_static: 128 << 10,
};

/// A running gateway.
struct Running {
    volume: Arc<Volume>,
    shared: Arc<Shared>,
    writeback: Arc<Mutex<Writeback>>,
    committers: Vec<JoinHandle<()>>,
    programs: Arc<Mutex<Programs>>,
}

pub struct World {
    pub dice: Dice,
    plug: Arc<Plug>,
    pub disk: Arc<SimDisk>,
    backing: Arc<MemBacking>,
    clock: Arc<ManualClock>,
    run: Option<Running>,
    model: Model,
    pub log: Vec<String>,
    /// Percent of the backing's calls between which programs act, and of those that fail.
    visits: u64,
    failures: u64,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let plug = Arc::new(Plug::new());
        let visits = [0, 5, 30][dice.below(3) as usize];
        let failures = [0, 0, 3][dice.below(3) as usize];
        World {
            disk: Arc::new(SimDisk::new(plug.clone(), 64 << 20)),
            backing: Arc::new(MemBacking::new(plug.clone())),
            clock: Arc::new(ManualClock::default()),
            plug,
            dice,
            run: None,
            model: Model::default(),
            log: Vec::new(),
            visits,
            failures,
        }
    }

    /// Mounts, perhaps dying on the way.
    pub fn mount(&mut self) -> Result<(), String> {
        for n in 0.. {
            if n < 3 && self.dice.chance(30) {
                self.plug.pull_after(self.dice.below(30));
            }
            self.backing.prepare().ok();
            let opened = Volume::open(
                self.disk.clone() as Arc<dyn Disk>,
                self.backing.clone() as Arc<dyn Backing>,
                self.clock.clone() as Arc<dyn Clock>,
                LIMITS,
                "boot",
                7,
            );
            if self.plug.is_dead() {
                log::info!("the machine died while mounting");
                self.plug.restore();
                continue;
            }
            self.plug.restore();
            let volume = opened?.volume;
            let committers = volume.wal.start_committers(1).map_err(|e| e.to_string())?;
            let fs = Fs::new(volume.clone(), Arc::new(History::new()), Arc::new(Clients::default()), false);
            let programs = Programs::new(Arc::new(fs), self.model.clone(), Dice::new(self.dice.number()));
            let shared = Shared::new(Settings {
                age: Duration::from_secs(30),
                upload_limit: None,
                hours: None,
                outside: 0,
            });
            self.run = Some(Running {
                writeback: Arc::new(Mutex::new(Writeback::new(volume.clone(), shared.clone()))),
                volume,
                shared,
                committers,
                programs: Arc::new(Mutex::new(programs)),
            });
            return Ok(());
        }
        Ok(())
    }

    fn running(&mut self) -> Result<&mut Running, String> {
        self.run.as_mut().ok_or("not mounted".to_owned())
    }

    /// Programs do `n` things.
    pub fn act(&mut self, n: u64) -> Result<(), String> {
        let programs = self.running()?.programs.clone();
        for _ in 0..n {
            self.beside(|| programs.lock().step())?;
            self.clock.advance(Duration::from_millis(300));
        }
        Ok(())
    }

    pub fn verify(&mut self) -> Result<(), String> {
        let programs = self.running()?.programs.clone();
        let r = self.beside(|| programs.lock().verify());
        r.map_err(|e| format!("what programs see is wrong:\n  {e}"))
    }

    /// As `verify`, while the writeback does nothing.
    pub fn verify_alone(&mut self) -> Result<(), String> {
        let visits = std::mem::take(&mut self.visits);
        let r = self.verify();
        self.visits = visits;
        r
    }

    /// Something that programs do, while the writeback works between their looks at the backing and the answers.
    fn beside<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let Some(r) = &self.run else { return what() };
        let (writeback, me) = (r.writeback.clone(), std::thread::current().id());
        let (mut dice, visits) = (Dice::new(self.dice.number()), self.visits);
        self.plug.set_visitor(Some(Box::new(move |at| {
            if at != Trouble::Disk && std::thread::current().id() == me && dice.chance(visits) {
                writeback.lock().step();
            }
            Ok(())
        })));
        let r = what();
        self.plug.set_visitor(None);
        r
    }

    /// One step of the writeback, with programs acting between its calls. `drain`: all that is dirty.
    pub fn write_back(&mut self, drain: bool) -> Result<(), String> {
        let (visits, failures) = (self.visits, self.failures);
        let mut dice = Dice::new(self.dice.number());
        let clock = self.clock.clone();
        let r = self.running()?;
        let complaint: Arc<Mutex<Option<String>>> = Arc::default();
        let _drain = drain.then(|| r.shared.drain());
        let (programs, volume, heard) = (r.programs.clone(), r.volume.clone(), complaint.clone());
        let me = std::thread::current().id();
        let visitor = move |what: Trouble| -> io::Result<()> {
            // Between the image of a checkpoint and its end as well; not in a committer, whom programs wait for.
            if what == Trouble::Disk {
                let between = volume.is_checkpointing() && std::thread::current().id() == me;
                if !between || !dice.chance(visits) {
                    return Ok(());
                }
                if let Err(e) = programs.lock().step() {
                    heard.lock().get_or_insert(format!("while a checkpoint is taken: {e}"));
                }
                return Ok(());
            }
            if volume.moves.any() {
                // In the midst of a move programs find all but what is moved: for that they would have to wait.
                if dice.chance(visits)
                    && let Err(e) = programs.lock().peek()
                {
                    heard.lock().get_or_insert(format!("while something is moved: {e}"));
                }
            } else if dice.chance(visits) {
                for _ in 0..1 + dice.below(3) {
                    if let Err(e) = programs.lock().step() {
                        heard.lock().get_or_insert(format!("between two calls of the writeback: {e}"));
                    }
                }
                clock.advance(Duration::from_millis(50));
            }
            if dice.chance(failures) { Err(io::Error::other("simulated failure")) } else { Ok(()) }
        };
        self.plug.set_visitor(Some(Box::new(visitor)));
        let plug = self.plug.clone();
        let r = self.running()?;
        r.writeback.lock().step();
        plug.set_visitor(None);
        match complaint.lock().take() {
            // A program that was in the middle of something when the machine died.
            Some(_) if plug.is_dead() => Ok(()),
            Some(c) => Err(c),
            None => Ok(()),
        }
    }

    /// The backing refuses every call for `hours`, while programs go on and the writeback goes on trying.
    pub fn outage(&mut self, hours: u64) -> Result<(), String> {
        let before = (self.visits, self.failures);
        (self.visits, self.failures) = (0, 100);
        for _ in 0..hours {
            self.clock.advance(Duration::from_secs(3600));
            let n = self.dice.below(4);
            self.act(n)?;
            let drain = self.dice.chance(50);
            self.write_back(drain)?;
            self.verify()?;
        }
        (self.visits, self.failures) = before;
        Ok(())
    }

    /// Seconds since the oldest change that the backing does not have.
    pub fn oldest_dirty_seconds(&mut self) -> Result<i64, String> {
        let now = self.clock.wall_ns();
        let oldest = self.running()?.volume.dirty.oldest_ns();
        Ok(oldest.map_or(0, |t| (now - t) / 1_000_000_000))
    }

    /// The machine dies somewhere in the next calls of a writeback step. What is in the log stays.
    pub fn crash(&mut self) -> Result<(), String> {
        let calls = self.dice.below(60);
        self.plug.pull_after(calls);
        for _ in 0..8 {
            if self.plug.is_dead() {
                break;
            }
            self.write_back(true)?;
            self.clock.advance(Duration::from_secs(40));
        }
        self.plug.pull();
        self.stop()?;
        log::info!("the machine died");
        self.plug.restore();
        Ok(())
    }

    fn stop(&mut self) -> Result<(), String> {
        if let Some(r) = self.run.take() {
            self.model = r.programs.lock().model.clone();
            for line in std::mem::take(&mut r.programs.lock().trace) {
                self.log.push(line);
            }
            r.volume.wal.stop_committers();
            for c in r.committers {
                c.join().map_err(|_| "a committer panicked")?;
            }
        }
        Ok(())
    }

    /// Drains completely and compares the backing with the model.
    pub fn unmount(&mut self) -> Result<(), String> {
        (self.visits, self.failures) = (0, 0);
        {
            let p = self.running()?.programs.clone();
            let mut p = p.lock();
            for o in std::mem::take(&mut p.open) {
                p.fs.release(o.fh);
            }
            p.forget();
        }
        let mut steps = 0;
        loop {
            self.write_back(true)?;
            self.clock.advance(Duration::from_secs(40));
            let r = self.running()?;
            if r.volume.dirty.is_empty() {
                break;
            }
            steps += 1;
            if steps > 200 {
                let why = r.shared.last_error.lock().clone();
                return Err(format!("the drain does not end: {} left, {why:?}", r.volume.dirty.len()));
            }
        }
        let r = self.running()?;
        r.shared.closing.store(true, Ordering::Release);
        r.writeback.lock().step();
        r.volume.wal.seal_older(0);
        r.volume.checkpoint().map_err(|e| format!("closing: {e:?}"))?;
        self.stop()?;
        self.backing.clean().map_err(|e| e.to_string())?;
        self.compare().map_err(|e| format!("the backing is wrong after a drain:\n  {e}"))
    }

    fn compare(&self) -> Result<(), String> {
        let mut wrong = Vec::new();
        let there = self.backing.all();
        let mut want: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        let links = self.model.links();
        for (path, at) in self.model.paths() {
            want.insert(path.join(&b'/'), at);
        }
        for (path, (id, _)) in &there {
            if path.starts_with(b".forelog") {
                if path.iter().filter(|&&b| b == b'/').count() > 1 {
                    wrong.push(format!("{}: left behind (object {id})", String::from_utf8_lossy(path)));
                }
            } else if !want.contains_key(path) {
                wrong.push(format!("{}: not expected (object {id})", String::from_utf8_lossy(path)));
            }
        }
        for (path, at) in &want {
            let n = &self.model.nodes[*at];
            let shown = show(std::slice::from_ref(path));
            let Some((id, t)) = there.get(path) else {
                wrong.push(format!("{shown}: missing"));
                continue;
            };
            if t.attr.kind != n.kind {
                wrong.push(format!("{shown}: is a {:?}", t.attr.kind));
                continue;
            }
            if *at != 0 && t.attr.mode != n.mode {
                wrong.push(format!("{shown}: mode {:o}, not {:o}", t.attr.mode, n.mode));
            }
            if n.mtime.is_some_and(|m| m != t.attr.mtime) {
                wrong.push(format!("{shown}: mtime {:?}, not {:?}", t.attr.mtime, n.mtime));
            }
            if n.kind != Kind::Dir && t.attr.nlink != links[at] {
                wrong.push(format!("{shown}: {} links, not {} (object {id})", t.attr.nlink, links[at]));
            }
            if n.kind == Kind::File && t.data != n.data {
                wrong.push(format!("{shown}: {}", difference(&t.data, &n.data)));
            }
            if n.kind == Kind::Symlink && t.target != n.target {
                wrong.push(format!("{shown}: another target"));
            }
            let xattrs: BTreeMap<Vec<u8>, Vec<u8>> =
                t.xattrs.iter().map(|(k, v)| (k.to_vec(), v.clone())).collect();
            if xattrs != n.xattrs {
                wrong.push(format!("{shown}: xattrs {xattrs:?}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
    }

    /// Whatever happened, told for a failure.
    pub fn history(&mut self) -> Vec<String> {
        if self.stop().is_err() {
            self.log.push("a committer panicked".into());
        }
        std::mem::take(&mut self.log)
    }
}
