//! The plug of a simulated machine: every call of the disk and of the backing passes here. Pulled, all
//! calls fail; trouble makes single calls fail; a visitor may act between two calls.

use super::dice::Dice;
use parking_lot::Mutex;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// What passes the plug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A call of the log's disk that changes or syncs something.
    Disk,
    /// A call of the backing.
    Backing,
    /// What the backing answered to a look is on its way.
    Answer,
}

type Visitor = Box<dyn FnMut(Trouble) -> io::Result<()> + Send>;

/// See the module.
#[derive(Default)]
pub struct Plug {
    dead: AtomicBool,
    /// Calls until it is pulled; negative: never.
    fuse: AtomicI64,
    calls: AtomicU64,
    visitor: Mutex<Option<Visitor>>,
    /// Percent of syncs that fail, and of those that lie.
    bad_syncs: Mutex<Option<(u64, u64, Dice)>>,
}

/// What a sync of the disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// All is brought to the device.
    Done,
    /// An error, and some of what was written never arrives.
    Fails,
    /// Success is told, and some of what was written never arrives.
    Lies,
}

impl Fate {
    /// Whether this write arrives on the device.
    pub fn brings(self, bytes: &[u8]) -> bool {
        self == Fate::Done || bytes.iter().map(|b| *b as usize).sum::<usize>() % 2 == 0
    }
    /// What the caller is told.
    pub fn answer(self) -> io::Result<()> {
        if self == Fate::Fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}

impl Plug {
    /// A plug that stays in.
    pub fn new() -> Plug {
        Plug { fuse: AtomicI64::new(-1), ..Plug::default() }
    }
    /// The machine dies at the call after `calls` more.
    pub fn pull_after(&self, calls: u64) {
        self.fuse.store(calls as i64, Ordering::Release);
    }
    /// The machine dies now.
    pub fn pull(&self) {
        self.dead.store(true, Ordering::Release);
    }
    /// Power again.
    pub fn restore(&self) {
        self.fuse.store(-1, Ordering::Release);
        self.dead.store(false, Ordering::Release);
    }
    /// True once it was pulled.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
    /// Calls that passed.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
    /// Someone who is called before each call, outside all locks of the doubles, and may fail it.
    pub fn set_visitor(&self, v: Option<Visitor>) {
        *self.visitor.lock() = v;
    }

    /// Percentages of syncs that fail and that lie; `None`: all are good.
    pub fn set_bad_syncs(&self, percent: Option<(u64, u64, Dice)>) {
        *self.bad_syncs.lock() = percent;
    }

    /// Decides on one sync.
    pub fn fate_of_a_sync(&self) -> Fate {
        let mut bad = self.bad_syncs.lock();
        let Some((fail, lie, dice)) = &mut *bad else { return Fate::Done };
        match dice.below(100) {
            n if n < *fail => Fate::Fails,
            n if n < *fail + *lie => Fate::Lies,
            _ => Fate::Done,
        }
    }

    fn visit(&self, what: Trouble) -> io::Result<()> {
        // Taken out, so that what the visitor does passes freely.
        let Some(mut v) = self.visitor.lock().take() else { return Ok(()) };
        let r = v(what);
        self.visitor.lock().get_or_insert(v);
        r
    }

    /// An answer passes on its way back: by then it may be an old one.
    pub fn answer<T>(&self, answer: T) -> T {
        // What it was asked for is known; only a call can fail.
        self.visit(Trouble::Answer).ok();
        answer
    }

    /// Passes one call.
    pub fn pass(&self, what: Trouble) -> io::Result<()> {
        self.visit(what)?;
        if self.is_dead() {
            return Err(io::Error::other("the simulated machine is dead"));
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.fuse.load(Ordering::Acquire) >= 0 && self.fuse.fetch_sub(1, Ordering::AcqRel) == 0 {
            self.pull();
            return Err(io::Error::other("the simulated machine died"));
        }
        Ok(())
    }
}
