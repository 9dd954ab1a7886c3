//! What a program removed or moved does not come back when the backing goes back on it: by a power cut of its own after
//! a sync that failed, with a checkpoint of ours in between.

use forelog::backing::Backing;
use forelog::fs::{Clients, Fs, New, Who};
use forelog::history::History;
use forelog::sys::clock::Clock;
use forelog::sys::disk::Disk;
use forelog::testing::{ManualClock, MemBacking, Plug, SimDisk};
use forelog::types::{InodeId, Kind, ProgramId};
use forelog::volume::Volume;
use forelog::writeback::{Settings, Shared, Writeback};
use std::sync::Arc;
use std::time::Duration;

pub struct Machine {
    pub plug: Arc<Plug>,
    disk: Arc<SimDisk>,
    pub backing: Arc<MemBacking>,
    clock: Arc<ManualClock>,
}

pub struct Mount {
    pub fs: Arc<Fs>,
    writeback: Writeback,
    shared: Arc<Shared>,
    committers: Vec<std::thread::JoinHandle<()>>,
}

impl Machine {
    pub fn new() -> Machine {
        let plug = Arc::new(Plug::new());
        Machine {
            disk: Arc::new(SimDisk::new(plug.clone(), 128 << 20)),
            backing: Arc::new(MemBacking::new(plug.clone())),
            plug,
            clock: Arc::default(),
        }
    }

    pub fn mount(&self) -> Mount {
        self.backing.prepare().expect("the backing is ready");
        let opened = Volume::open(
            self.disk.clone() as Arc<dyn Disk>,
            self.backing.clone() as Arc<dyn Backing>,
            self.clock.clone() as Arc<dyn Clock>,
            crate::world::LIMITS,
            "boot",
            7,
        );
        let volume = opened.expect("the log opens").volume;
        let shared = Shared::new(Settings {
            age: Duration::from_secs(30),
            upload_limit: None,
            hours: None,
            outside: 0,
        });
        Mount {
            committers: volume.wal.start_committers(1).expect("threads"),
            writeback: Writeback::new(volume.clone(), shared.clone()),
            fs: Arc::new(Fs::new(volume, Arc::new(History::new()), Arc::new(Clients::default()), false)),
            shared,
        }
    }

    pub fn names(&self) -> Vec<String> {
        let all = self.backing.all().into_keys();
        let ours = |p: &Vec<u8>| p.starts_with(b".forelog") || p.is_empty();
        all.filter(|p| !ours(p)).map(|p| String::from_utf8_lossy(&p).into_owned()).collect()
    }

    /// One batch of all that waits.
    pub fn step(&self, m: &mut Mount) {
        let _draining = m.shared.drain();
        m.writeback.step();
        self.clock.advance(Duration::from_secs(40));
    }

    pub fn drain(&self, m: &mut Mount) {
        let _draining = m.shared.drain();
        for _ in 0..20 {
            m.writeback.step();
            self.clock.advance(Duration::from_secs(40));
        }
    }
}

pub fn who(fs: &Fs) -> Who {
    Who { uid: 0, gid: 0, client: fs.clients.get_or_make(1, || (ProgramId(1), "p".into())) }
}

/// Makes a file of that mode and moves it over another.
pub fn replace(fs: &Fs, name: &str, mode: u32) {
    let new = New { kind: Kind::File, mode, umask: 0, rdev: 0, target: b"" };
    let made = fs.make(&who(fs), InodeId::ROOT, b"tmp", &new).expect("it is made").ino;
    fs.volume.forget(made, 1);
    let (a, b) = ((InodeId::ROOT, &b"tmp"[..]), (InodeId::ROOT, name.as_bytes()));
    fs.rename(&who(fs), a, b, 0).expect("it is moved");
}

impl Mount {
    pub fn make(&self, dir: InodeId, name: &str, kind: Kind) -> InodeId {
        let new = New { kind, mode: 0o755, umask: 0, rdev: 0, target: b"" };
        let made = self.fs.make(&who(&self.fs), dir, name.as_bytes(), &new).expect("it is made").ino;
        self.fs.volume.forget(made, 1);
        made
    }

    fn remove(&self, dir: InodeId, name: &str, is_dir: bool) {
        self.fs.remove(&who(&self.fs), dir, name.as_bytes(), is_dir).expect("it is removed");
    }

    fn rename(&self, from: &str, to: &str) {
        let (a, b) = ((InodeId::ROOT, from.as_bytes()), (InodeId::ROOT, to.as_bytes()));
        self.fs.rename(&who(&self.fs), a, b, 0).expect("it is moved");
    }

    fn find(&self, name: &str) -> InodeId {
        self.fs.lookup(InodeId::ROOT, name.as_bytes()).expect("an answer").expect("it is there").ino
    }

    fn has(&self, name: &str) -> bool {
        self.fs.lookup(InodeId::ROOT, name.as_bytes()).expect("an answer").is_some()
    }

    pub fn die(self) {
        self.fs.volume.wal.stop_committers();
        self.committers.into_iter().for_each(|c| c.join().expect("a committer ends"));
    }
}

/// `undone`: whether the power cut took the changes of the backing back.
fn removals(undone: bool) {
    let machine = Machine::new();
    let mut m = machine.mount();
    for name in ["gone", "moved", "over", "under", "kept"] {
        m.make(InodeId::ROOT, name, Kind::File);
    }
    let dir = m.make(InodeId::ROOT, "dir", Kind::Dir);
    m.make(dir, "in-dir", Kind::File);
    let tree = m.make(InodeId::ROOT, "tree", Kind::Dir);
    m.make(tree, "in-tree", Kind::File);
    machine.drain(&mut m);
    let before = machine.backing.all();
    assert_eq!(
        machine.names(),
        ["dir", "dir/in-dir", "gone", "kept", "moved", "over", "tree", "tree/in-tree", "under"]
    );
    m.remove(InodeId::ROOT, "gone", false);
    m.rename("moved", "away");
    m.rename("over", "under");
    m.rename("tree", "wood");
    // Stored, it may have left memory.
    let dir = m.find("dir");
    m.remove(dir, "in-dir", false);
    m.remove(InodeId::ROOT, "dir", true);
    machine.backing.fail_dir_syncs(true);
    machine.drain(&mut m);
    let after = ["away", "kept", "under", "wood", "wood/in-tree"];
    assert_eq!(machine.names(), after, "the backing did it and does not vouch for it");
    m.fs.volume.checkpoint().expect("a checkpoint");
    m.die();
    machine.backing.fail_dir_syncs(false);
    if undone {
        machine.backing.put_back(before);
    }
    let mut m = machine.mount();
    for _ in 0..2 {
        for name in ["gone", "moved", "over", "dir", "tree"] {
            assert!(!m.has(name), "{name} is back");
        }
        for name in ["away", "under", "wood", "kept"] {
            assert!(m.has(name), "{name} is gone");
        }
        machine.drain(&mut m);
    }
    assert_eq!(machine.names(), after);
    assert!(m.fs.volume.dirty.is_empty());
    m.die();
}

#[test]
fn what_was_removed_stays_removed_when_the_backing_goes_back_on_it() {
    removals(true);
}

#[test]
fn what_was_removed_stays_removed_when_the_backing_kept_to_it() {
    removals(false);
}
