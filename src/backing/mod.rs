//! F2: the backing, the remote data store, behind one narrow trait. `directory` is a plain
//! directory, `bucket` one of an S3-compatible store; what is in them is plain files and plain objects. No policy
//! here: ordering, retry and receipts are `writeback/`'s.

pub mod bucket;
pub mod directory;
pub mod fence;
pub mod lease;
pub mod timed;

use crate::sys::limiter::Limiter;
use crate::types::{Attr, BackingId, Kind, Name, Stamp};
use std::io;
use std::sync::Arc;

/// A path beneath the backing's root: `/`-joined names, no leading slash, empty for the root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackingPath(pub Vec<u8>);

impl BackingPath {
    /// The root.
    pub fn root() -> Self {
        BackingPath(Vec::new())
    }
    /// `self/name`.
    pub fn join(&self, name: &[u8]) -> Self {
        let mut v = Vec::with_capacity(self.0.len() + 1 + name.len());
        v.extend_from_slice(&self.0);
        if !v.is_empty() {
            v.push(b'/');
        }
        v.extend_from_slice(name);
        BackingPath(v)
    }
}

impl std::fmt::Display for BackingPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// What the backing says of an object. `attr.size` and `attr.mtime` with `id` are its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackingStat {
    pub id: BackingId,
    pub attr: Attr,
}

/// One entry of a listing; `.`, `..` and the gateway's own `.forelog` at the root are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingEntry {
    pub name: Name,
    pub id: BackingId,
    pub kind: Kind,
}

/// Space of the store, as `statfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackingSpace {
    pub block_bytes: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_bytes_max: u32,
}

/// A read cache on the log's device, and what it did since the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    pub entries: u64,
    /// Blocks and metadata that were there.
    pub hits: u64,
    /// Blocks that had to be fetched.
    pub misses: u64,
    /// Entries found damaged, and not used.
    pub damaged: u64,
}

/// What a store takes. A change beyond is refused when a program asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of names and values that the extended attributes of one object may have in all; 0: none.
    pub xattr_bytes_max: usize,
    /// Size of the largest file.
    pub file_bytes_max: u64,
    /// Names that one file may have; 1: no hard links.
    pub links_max: u32,
    /// Bytes of one name.
    pub name_bytes_max: usize,
    /// Whether it has symlinks.
    pub symlinks: bool,
    /// Whether it has fifos, sockets and device nodes.
    pub special: bool,
    /// Whether it has POSIX access lists.
    pub access_lists: bool,
    pub names: Names,
}

/// Which names a store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Bytes of a whole path beneath the root, and of the slash behind a directory's.
    pub path_bytes_max: usize,
    /// Only UTF-8.
    pub text: bool,
    pub backslash: bool,
    /// Characters below a space.
    pub control: bool,
}

impl Names {
    /// All that the kernel can ask for.
    pub const ALL: Names = Names { path_bytes_max: usize::MAX, text: false, backslash: true, control: true };

    /// Whether a name can be one here, whatever directory it is in.
    pub fn takes(&self, name: &[u8]) -> bool {
        (!self.text || std::str::from_utf8(name).is_ok())
            && (self.backslash || !name.contains(&b'\\'))
            && (self.control || !name.iter().any(|b| *b < b' ' || *b == 0x7f))
    }
}

impl Limits {
    /// Most names of one file in any store (ext4's limit).
    pub const LINKS_MAX: u32 = 65_000;
    /// A store that takes what the kernel can ask for, but no extended attributes.
    pub const NONE: Limits = Limits {
        xattr_bytes_max: 0,
        file_bytes_max: i64::MAX as u64,
        links_max: Limits::LINKS_MAX,
        name_bytes_max: crate::types::NAME_BYTES_MAX,
        symlinks: true,
        special: true,
        access_lists: false,
        names: Names::ALL,
    };
}

/// An extended attribute.
pub type Xattr = (Name, Vec<u8>);

/// An object to be made.
#[derive(Clone, Debug)]
pub struct NewObject {
    pub attr: Attr,
    /// Target of a symlink, else empty.
    pub target: Vec<u8>,
    pub xattrs: Vec<Xattr>,
    /// Where it will be installed, as far as can be told: a store that cannot rename begins there.
    pub at: Option<BackingPath>,
}

/// A piece of content for a file being made or changed.
pub enum Piece<'a> {
    /// Bytes at an offset.
    Data { offset: u64, bytes: &'a [u8] },
    /// A range to read as zeros (a hole where the store can).
    Zero { offset: u64, len: u64 },
}

impl BackingStat {
    /// Whether a file has the modification time and size that it had, as far as the store keeps times.
    pub fn is_as_seen(&self, (mtime, size): (Stamp, u64)) -> bool {
        self.attr.size == size && mtime.is_kept_as(self.attr.mtime)
    }
}

/// A pull of content: calls the sink with pieces in ascending order. An error of the sink or of the
/// source ends it.
pub type Content<'a> = &'a mut dyn FnMut(&mut dyn FnMut(Piece<'_>) -> io::Result<()>) -> io::Result<()>;

/// Which attributes to set on an existing object; `None` leaves one alone.
#[derive(Clone, Debug, Default)]
pub struct AttrChange {
    pub mode: Option<u32>,
    pub owner: Option<(u32, u32)>,
    pub times: Option<(Stamp, Stamp)>,
    /// The full wanted set of extended attributes.
    pub xattrs: Option<Vec<Xattr>>,
}

/// A change of an existing file's content, in place. First cut to `keep`, then write the content,
/// then set the final size.
pub struct Update<'a> {
    /// Bytes beyond this are not to survive: the file is cut here first if it is longer.
    pub keep: u64,
    pub size: u64,
    pub content: Content<'a>,
    /// What is set with `set_attr` next: a store that changes files as a whole does so at once.
    pub then: &'a AttrChange,
}

/// What a gateway says in the backing: that a log may hold changes for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub name: String,
    pub text: String,
    /// Where it is, for people.
    pub place: String,
}

/// The backing is ours while this lives. Dropped without `release`, it looks as after a death.
pub trait HeldLease: Send {
    /// Number of the log whose changes go to the backing.
    fn set_log(&self, _tag: u64) {}
    /// Sees that it is still ours, before the last changes.
    fn renew(&self) {}
    /// Gives the backing back; nothing is changed there any more.
    fn release(&mut self) -> io::Result<()>;
}

/// An open object for reads; stays valid when the object is renamed in the backing.
pub trait BackingFile: Send + Sync {
    /// Reads at `offset`; short only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Fills `buf` with what is at hand in memory, without waiting; false: `read_at` has to be asked.
    fn read_ready(&self, _buf: &mut [u8], _offset: u64) -> bool {
        false
    }
    /// Next data at or after `offset`: `Ok(None)` when only a hole is left.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// Next hole at or after `offset` (the end of the file counts as one).
    fn next_hole(&self, offset: u64) -> io::Result<u64>;
}

/// The store behind the mount. All paths are taken beneath its root, no symlink is ever followed.
///
/// New objects are *staged* under a name of ours (`.forelog/tmp/<name>`), made durable by `sync`,
/// then *installed* by an atomic rename, so that no reader of the store sees half a file.
pub trait Backing: Send + Sync {
    /// For messages: `/dir` or `s3://bucket/prefix`.
    fn describe(&self) -> String;
    /// True if a call may take as long as a network does: such calls are kept off the session threads.
    fn remote(&self) -> bool {
        true
    }

    /// True if an open file outlives that something else replaces or removes it.
    fn open_files_last(&self) -> bool {
        true
    }
    /// True if each call ends by itself after a bounded time.
    fn bounded(&self) -> bool {
        false
    }
    /// Requests made of the store, by kind; empty where they are not counted.
    fn requests(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// What its read cache did; all zero where there is none.
    fn cache(&self) -> CacheFigures {
        CacheFigures::default()
    }

    /// Gives it the rate that content may go there at. False: it does not heed it, so whoever gives it content must.
    fn pace(&self, _limiter: &Arc<Limiter>) -> bool {
        false
    }
    /// Answers of the store so far; 0 where they are not counted.
    fn answers(&self) -> u64 {
        0
    }

    /// What the store takes, as `prepare` found it.
    fn limits(&self) -> Limits {
        Limits::NONE
    }

    // -- reads
    /// `lstat`. `NotFound` when there is no such object.
    fn stat(&self, path: &BackingPath) -> io::Result<BackingStat>;
    /// Calls `each` for every entry.
    fn list(&self, path: &BackingPath, each: &mut dyn FnMut(BackingEntry)) -> io::Result<()>;
    /// Opens a regular file for reads.
    fn open(&self, path: &BackingPath) -> io::Result<Arc<dyn BackingFile>>;
    /// Target of a symlink.
    fn readlink(&self, path: &BackingPath) -> io::Result<Vec<u8>>;
    /// All extended attributes of an object; empty where the store has none.
    fn xattrs(&self, path: &BackingPath) -> io::Result<Vec<Xattr>>;
    /// Space left.
    fn space(&self) -> io::Result<BackingSpace>;

    // -- making new objects
    /// Makes `.forelog/tmp/<name>` with the content, owner, mode, times, xattrs of `object`; replaces a
    /// leftover of that name. For a file `content` is pulled and its size is `object.attr.size`.
    fn stage(&self, name: &str, object: &NewObject, content: Content<'_>) -> io::Result<BackingStat>;
    /// Makes `.forelog/tmp/<name>` a further hard link of the object at `from`.
    fn stage_link(&self, name: &str, from: &BackingPath) -> io::Result<()>;
    /// Renames `.forelog/tmp/<name>` to `to`, replacing a non-directory or empty directory there.
    fn install(&self, name: &str, to: &BackingPath) -> io::Result<()>;

    // -- changing and removing
    /// Changes a file in place. Not durable until `sync`.
    fn update(&self, path: &BackingPath, update: Update<'_>) -> io::Result<()>;
    /// Sets attributes.
    fn set_attr(&self, path: &BackingPath, kind: Kind, change: &AttrChange) -> io::Result<()>;
    /// Renames, replacing what is there.
    fn rename(&self, from: &BackingPath, to: &BackingPath) -> io::Result<()>;
    /// Moves an object away to `.forelog/park/<name>`: it lives on while something still reads it.
    fn park(&self, from: &BackingPath, name: &str) -> io::Result<()>;
    /// Removes a non-directory.
    fn unlink(&self, path: &BackingPath) -> io::Result<()>;
    /// Removes an empty directory.
    fn rmdir(&self, path: &BackingPath) -> io::Result<()>;

    // -- durability
    /// Returns once all objects staged or changed at `files` (staged ones as `.forelog/tmp/<name>`) and the
    /// entries of the directories `dirs` are on the store's stable storage. Many at once may be synced as a whole.
    fn sync(&self, files: &[BackingPath], dirs: &[BackingPath]) -> io::Result<()>;

    /// What the store refused since and has not taken yet, while it took other things; all of it is tried again by
    /// later calls of `sync`.
    fn refused(&self) -> Vec<(BackingPath, io::Error)> {
        Vec::new()
    }

    // -- housekeeping
    /// Makes `.forelog/`, for the lease, and changes nothing in it: another gateway may be at work there.
    fn make_house(&self) -> io::Result<()> {
        Ok(())
    }
    /// Whether a gateway was here and may not have ended cleanly.
    fn has_house(&self) -> io::Result<bool> {
        Ok(true)
    }
    /// Takes the lease, or says in one line who has it.
    fn lease(&self, how: lease::Taking) -> Result<Box<dyn HeldLease>, String>;
    /// What keeps us from writing once the lease is another's; none where there is no lease.
    fn fence(&self) -> Option<&fence::Fence> {
        None
    }
    /// Sees, before a batch of changes, that the lease is ours.
    fn begin(&self) -> io::Result<()> {
        Ok(())
    }
    /// Makes `.forelog/` ready for a mount, with the lease in hand, and removes leftovers in `tmp/`.
    fn prepare(&self) -> io::Result<()>;
    /// Names in `.forelog/park`.
    fn parked(&self) -> io::Result<Vec<String>>;
    /// Removes everything of ours but the lease, after a complete drain.
    fn clean(&self) -> io::Result<()>;
    /// Notes of all logs, in `.forelog/logs`.
    fn notes(&self) -> io::Result<Vec<Note>>;
    /// Puts a note there, or replaces it.
    fn put_note(&self, name: &str, text: &str) -> io::Result<()>;
    /// Takes one away; fine if it is not there.
    fn drop_note(&self, name: &str) -> io::Result<()>;
}

/// Path of a staged object.
pub fn staged_path(name: &str) -> BackingPath {
    BackingPath(format!(".forelog/tmp/{name}").into_bytes())
}

/// Path of a parked object.
pub fn parked_path(name: &str) -> BackingPath {
    BackingPath(format!(".forelog/park/{name}").into_bytes())
}
