//! Power cuts: the simulated disk loses, tears and reorders what was not synced. Three programs, each with a directory
//! and a client of its own. Of each the tree must be one that it had: not older than its last fsync, and with nothing
//! missing in the middle of what it did.

use crate::model::Model;
use crate::programs::{Past, Programs};
use crate::world::LIMITS;
use forelog::backing::Backing;
use forelog::fs::{Clients, Fs, New, Who};
use forelog::history::History;
use forelog::sys::clock::Clock;
use forelog::sys::disk::Disk;
use forelog::testing::{Dice, ManualClock, MemBacking, Plug, SimDisk};
use forelog::types::{InodeId, Kind, ProgramId};
use forelog::volume::Volume;
use forelog::writeback::{Settings, Shared, Writeback};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

const PROGRAMS: u64 = 3;

struct Machine {
    plug: Arc<Plug>,
    disk: Arc<SimDisk>,
    backing: Arc<MemBacking>,
    clock: Arc<ManualClock>,
    boots: u64,
    dice: Dice,
    /// Percent of syncs of the log's disk that fail.
    bad_syncs: u64,
}

struct Gateway {
    volume: Arc<Volume>,
    shared: Arc<Shared>,
    writeback: Writeback,
    committers: Vec<JoinHandle<()>>,
    programs: Vec<Programs>,
}

impl Gateway {
    fn stop(self) -> Result<Vec<Programs>, String> {
        self.volume.wal.stop_committers();
        for c in self.committers {
            c.join().map_err(|_| "a committer panicked")?;
        }
        Ok(self.programs)
    }
}

impl Machine {
    fn new(seed: u64, bad_syncs: u64) -> Machine {
        let plug = Arc::new(Plug::new());
        Machine {
            disk: Arc::new(SimDisk::new(plug.clone(), 64 << 20)),
            backing: Arc::new(MemBacking::new(plug.clone())),
            clock: Arc::new(ManualClock::default()),
            plug,
            boots: 0,
            bad_syncs,
            dice: Dice::new(seed),
        }
    }

    /// Mounts after a boot, at times with another cut on the way.
    fn mount(&mut self, models: Vec<Model>) -> Result<Gateway, String> {
        loop {
            self.boots += 1;
            if self.boots > 1 && self.dice.chance(20) {
                self.plug.pull_after(self.dice.below(30));
            }
            self.backing.prepare().ok();
            let opened = Volume::open(
                self.disk.clone() as Arc<dyn Disk>,
                self.backing.clone() as Arc<dyn Backing>,
                self.clock.clone() as Arc<dyn Clock>,
                LIMITS,
                &format!("boot {}", self.boots),
                7,
            );
            let died = self.plug.is_dead();
            if died {
                drop(opened);
                self.disk.cut_power(&mut self.dice);
                self.plug.restore();
                continue;
            }
            self.plug.restore();
            let volume = opened?.volume;
            let committers = volume.wal.start_committers(1).map_err(|e| e.to_string())?;
            let fs = Arc::new(Fs::new(
                volume.clone(),
                Arc::new(History::new()),
                Arc::new(Clients::default()),
                false,
            ));
            let shared = Shared::new(Settings {
                age: Duration::from_secs(3),
                upload_limit: None,
                hours: None,
                outside: 0,
            });
            let mut g = Gateway {
                writeback: Writeback::new(volume.clone(), shared.clone()),
                volume,
                shared,
                committers,
                programs: Vec::new(),
            };
            for (k, model) in models.iter().enumerate() {
                g.programs.push(self.program(&fs, k as u64, model.clone())?);
            }
            return Ok(g);
        }
    }

    fn program(&mut self, fs: &Arc<Fs>, k: u64, model: Model) -> Result<Programs, String> {
        let client = fs.clients.get_or_make(100 + k as u32, || (ProgramId(k as u32), format!("p{k}")));
        let who = Who { uid: 0, gid: 0, client };
        let name = format!("d{k}");
        let root = match fs.lookup(InodeId::ROOT, name.as_bytes()).map_err(|e| format!("{name}: {e:?}"))? {
            Some(l) => l.ino,
            None => {
                let new = New { kind: Kind::Dir, mode: 0o755, umask: 0, rdev: 0, target: b"" };
                fs.make(&who, InodeId::ROOT, name.as_bytes(), &new).map_err(|e| format!("{name}: {e:?}"))?.ino
            }
        };
        let mut p = Programs::new(fs.clone(), model, Dice::new(self.dice.number()));
        (p.root, p.who) = (root, vec![who.clone(), who.clone(), who]);
        p.past = Some(Past::of(&p.model));
        Ok(p)
    }

    /// Programs and the writeback at work until the power goes.
    fn live(&mut self, g: &mut Gateway) -> Result<(), String> {
        g.volume.sync_log().map_err(|e| format!("{e:?}"))?;
        if self.bad_syncs > 0 {
            self.plug.set_bad_syncs(Some((self.bad_syncs, 0, Dice::new(self.dice.number()))));
        }
        self.plug.pull_after(20 + self.dice.below(600));
        for _ in 0..400 {
            let turn = self.dice.below(100);
            let r = match turn {
                0..=79 => g.programs[self.dice.below(PROGRAMS) as usize].step(),
                // It may fail, and stays latched then.
                80..=89 if self.bad_syncs > 0 => g.volume.mend().map(drop).or(Ok(())),
                80..=89 => g.programs[self.dice.below(PROGRAMS) as usize].step(),
                90..=96 => {
                    let _drain = self.dice.chance(40).then(|| g.shared.drain());
                    g.writeback.step();
                    Ok(())
                }
                _ => match g.volume.sync_log() {
                    // What the commit interval does.
                    Ok(()) => {
                        g.programs.iter_mut().filter_map(|p| p.past.as_mut()).for_each(Past::synced);
                        Ok(())
                    }
                    Err(_) if self.bad_syncs > 0 => Ok(()),
                    Err(e) => Err(format!("{e:?}")),
                },
            };
            self.clock.advance(Duration::from_millis(50));
            if self.plug.is_dead() {
                return Ok(());
            }
            r?;
        }
        self.plug.pull();
        Ok(())
    }
}

/// Which of its states a program's tree is in now.
fn settle(p: &mut Programs, past: Past) -> Result<Model, String> {
    let mut nearest: Option<(usize, String)> = None;
    for (i, (_, state)) in past.states.iter().enumerate().skip(past.durable) {
        p.model = state.clone();
        match p.verify() {
            Ok(()) => return Ok(state.clone()),
            Err(e) if nearest.as_ref().is_none_or(|n| e.lines().count() < n.1.lines().count()) => {
                nearest = Some((i, e));
            }
            Err(_) => {}
        }
    }
    let (i, why) = nearest.unwrap_or_default();
    let told: Vec<String> =
        past.states.iter().enumerate().skip(past.durable).map(|(i, s)| format!("{i} {}", s.0)).collect();
    let told = told.join("\n  ");
    let (n, durable) = (past.states.len(), past.durable);
    Err(format!(
        "none of {n} states, {durable} of them passed for certain; nearest is {i}:\n  {why}\n  {told}"
    ))
}

/// FORELOG_KEEP=DIR: the log as the cut left it, for `forelog dump`.
fn keep(disk: &SimDisk, cut: u64) -> Result<(), String> {
    let Some(dir) = std::env::var_os("FORELOG_KEEP") else { return Ok(()) };
    let dir = std::path::Path::new(&dir).join(cut.to_string());
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    for (name, len) in disk.list().map_err(|e| e.to_string())? {
        let mut bytes = vec![0; len as usize];
        let file = disk.open(&name).map_err(|e| e.to_string())?;
        file.read_exact_at(&mut bytes, 0).map_err(|e| e.to_string())?;
        std::fs::write(dir.join(&name), bytes).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// What a history saw.
#[derive(Clone, Copy, Default)]
pub struct Seen {
    pub cuts: u64,
    pub failed_syncs: u64,
    pub rewritten: u64,
}

/// A history with some power cuts. `bad_syncs`: percent of syncs of the log's disk that fail.
pub fn one(seed: u64, bad_syncs: u64) -> Result<Seen, String> {
    let mut m = Machine::new(seed, bad_syncs);
    let mut seen = Seen::default();
    let mut models = vec![Model::default(); PROGRAMS as usize];
    let mut g = m.mount(models.clone())?;
    let cuts = 2 + m.dice.below(4);
    for n in 0..cuts {
        m.live(&mut g)?;
        m.plug.set_bad_syncs(None);
        seen.cuts += 1;
        seen.failed_syncs += g.programs.iter().map(|p| p.failed_syncs).sum::<u64>();
        seen.rewritten += g.volume.wal.committer.rewritten.load(Ordering::Relaxed);
        let old = g.stop()?;
        m.disk.cut_power(&mut m.dice);
        m.plug.restore();
        keep(&m.disk, n)?;
        g = m.mount(models.clone())?;
        models.clear();
        for (k, (p, was)) in g.programs.iter_mut().zip(old).enumerate() {
            let past = was.past.ok_or("no past")?;
            let model = settle(p, past).map_err(|e| format!("cut {n}, program {k}: {e}"))?;
            p.past = Some(Past::of(&model));
            p.model = model.clone();
            models.push(model);
        }
    }
    let _drain = g.shared.drain();
    for _ in 0..200 {
        g.writeback.step();
        m.clock.advance(Duration::from_secs(40));
    }
    if !g.volume.dirty.is_empty() {
        let why = g.shared.last_error.lock().clone();
        return Err(format!("the drain does not end: {} left, {why:?}", g.volume.dirty.len()));
    }
    for (k, p) in g.programs.iter_mut().enumerate() {
        p.verify().map_err(|e| format!("program {k} after the drain: {e}"))?;
    }
    g.stop()?;
    Ok(seen)
}
