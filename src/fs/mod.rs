//! F4: the filesystem, one POSIX verb a file. Takes values, returns values: nothing here knows FUSE.
//!
//! A verb checks everything before it appends; a refusal has changed nothing, so a verb that may
//! not wait here (`WouldBlock`, `Full`) is simply run again where it may.

mod acl;
pub mod clients;
mod create;
pub mod error;
mod fallocate;
mod handles;
mod io;
mod link;
mod lookup;
pub mod meter;
mod readdir;
mod remove;
mod rename;
mod setattr;
mod space;
mod watch;
mod xattr;

pub use clients::{Client, Clients};
pub use create::New;
pub use handles::Handle;
pub use io::OpenHow;
pub use readdir::{DirItem, Listing};
pub use setattr::{SetAttrRequest, When};
pub use space::Pressure;
pub use xattr::{STATE, STATE_BYTES_MAX};

use crate::backing::Limits;
use crate::backing::fence::Standing;
use crate::format::mutation::EntryKey;
use crate::history::{History, Sample};
use crate::sys::patience;
use crate::types::{Attr, How, InodeId, Kind, Name};
use crate::volume::{Cell, Error, Result, Volume, valid_name, without_suid};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

/// How long a sync waits for a store to say whose it is.
const LOOK_LIMIT: std::time::Duration = std::time::Duration::from_secs(2);

/// What the kernel is to forget of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Its attributes.
    Attributes,
    /// And the names of the directory that it kept.
    Listing,
}

/// Says where an inode is on its way to the backing.
pub type TellState = Box<dyn Fn(InodeId) -> String + Send + Sync>;

/// Tells the kernel.
pub type Tell = Box<dyn Fn(InodeId, Told) + Send + Sync>;

/// Who asks: the credentials the kernel vouches for, and the client for placement.
#[derive(Clone)]
pub struct Who {
    pub uid: u32,
    pub gid: u32,
    pub client: Arc<Client>,
}

/// An inode and its attributes.
#[derive(Clone, Copy, Debug)]
pub struct Located {
    pub ino: InodeId,
    pub attr: Attr,
}

/// The mounted filesystem.
pub struct Fs {
    pub volume: Arc<Volume>,
    pub history: Arc<History>,
    pub clients: Arc<Clients>,
    handles: handles::Handles,
    pub pressure: space::Pressure,
    pub read_only: bool,
    /// What the backing takes.
    limits: Limits,
    /// How the kernel is told that what it keeps of an inode is stale.
    pub kernel: OnceLock<Tell>,
    /// What the attribute `user.forelog.state` says.
    pub state: OnceLock<TellState>,
    listings: watch::Listings,
    watch: watch::Watch,
    pub meter: meter::Meter,
    /// Closes of handles through which something was written.
    pub closes_after_write: AtomicU64,
}

impl Fs {
    pub fn new(volume: Arc<Volume>, history: Arc<History>, clients: Arc<Clients>, read_only: bool) -> Fs {
        Fs {
            limits: volume.backing.limits(),
            volume,
            history,
            clients,
            handles: handles::Handles::default(),
            pressure: space::Pressure::default(),
            read_only,
            kernel: OnceLock::new(),
            state: OnceLock::new(),
            listings: watch::Listings::default(),
            watch: watch::Watch::default(),
            meter: meter::Meter::default(),
            closes_after_write: AtomicU64::new(0),
        }
    }

    /// The inode of a number the kernel holds.
    fn cell(&self, ino: InodeId) -> Result<Arc<Cell>> {
        self.volume.cell(ino).ok_or(Error::Stale)
    }

    fn key(&self, parent: InodeId, name: &[u8]) -> Result<EntryKey> {
        valid_name(parent, name)?;
        if name.len() > self.limits.name_bytes_max {
            return Err(Error::NameTooLong);
        }
        let names = self.limits.names;
        if !names.takes(name) {
            return Err(Error::Invalid);
        }
        // With the slash of a directory's.
        if names.path_bytes_max < usize::MAX
            && self.volume.path_bytes(parent) + name.len() + 1 > names.path_bytes_max
        {
            return Err(Error::NameTooLong);
        }
        Ok(EntryKey { parent, name: name.into() })
    }

    /// Errors: `Stale` once another gateway took the backing over: what is written now would never get there.
    fn writable(&self) -> Result<()> {
        match self.read_only {
            true => Err(Error::ReadOnly),
            false => self.still_ours(),
        }
    }

    fn still_ours(&self) -> Result<()> {
        if self.volume.is_lost() { Err(Error::Stale) } else { Ok(()) }
    }

    /// As it must be for a sync to be told as done: after this process was stopped for long somebody has to look first.
    /// Errors: `Stale`; `WouldBlock` where it may not wait.
    pub fn surely_ours(&self) -> Result<()> {
        if let Some(f) = self.volume.backing.fence().filter(|f| f.standing() == Standing::Unsure) {
            if !patience::may_wait() {
                return Err(Error::WouldBlock);
            }
            f.look_again(LOOK_LIMIT);
        }
        self.still_ours()
    }

    fn located(&self, cell: &Arc<Cell>) -> Located {
        Located { ino: cell.id, attr: cell.read().node.attr }
    }

    /// A write took the set-id bits away, which the kernel left to us and does not look at again by itself.
    fn set_id_gone(&self, ino: InodeId) {
        self.tell(ino, Told::Attributes);
    }

    fn tell(&self, ino: InodeId, what: Told) {
        if let Some(tell) = self.kernel.get() {
            tell(ino, what);
        }
    }

    /// Notes an event in the write pattern history.
    fn sample(&self, who: &Who, ino: InodeId, how: How, bytes: u32) {
        self.history.record(Sample {
            at_ns: self.volume.clock.monotonic_ns(),
            client: who.client.slot.id,
            program: who.client.program,
            bytes,
            inode: ino,
            how,
        });
    }

    /// Open handles, for the question whether an unmount would find the volume busy.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    /// The kernel gave back references.
    pub fn forget(&self, ino: InodeId, n: u64) {
        self.volume.forget(ino, n);
    }

    /// True when no name is in a directory. May ask the backing.
    fn is_empty(&self, dir: &Arc<Cell>) -> Result<bool> {
        let (complete, gone): (bool, Vec<Name>) = {
            let i = dir.read();
            let Some(d) = &i.node.dir else { return Err(Error::NotDirectory) };
            if d.entries.values().any(|e| e.target.is_some()) {
                return Ok(false);
            }
            (d.complete, d.entries.keys().cloned().collect())
        };
        if complete {
            return Ok(true);
        }
        let mut found = false;
        let moved = self.list_backing(dir.id, &mut |e| found |= !gone.contains(&e.name))?;
        for name in moved.iter().flatten().filter(|n| !gone.contains(n)) {
            found = found || self.volume.resolve(dir, name)?.is_some();
        }
        Ok(!found)
    }
}

/// Whether an object of this kind may be open for reads and writes.
fn is_file(cell: &Arc<Cell>) -> Result<()> {
    match cell.read().node.attr.kind {
        Kind::File => Ok(()),
        Kind::Dir => Err(Error::IsDirectory),
        _ => Err(Error::Invalid),
    }
}

/// Whether a write by someone without the right takes bits of the mode away.
fn has_set_id(attr: &Attr) -> bool {
    without_suid(attr.mode) != attr.mode
}
