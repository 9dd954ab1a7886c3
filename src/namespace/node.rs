//! One inode as programs see it.

use super::dir::Dir;
use crate::format::mutation::EntryKey;
use crate::types::{Attr, InodeId, Kind, Lsn, Name, Pos, Stamp};
use smallvec::SmallVec;

/// An inode. `NONE` in a `*_lsn` means that the backing agrees on that part.
#[derive(Clone, Debug)]
pub struct Node {
    pub id: InodeId,
    pub attr: Attr,
    /// Target of a symlink that was made here.
    pub target: Option<Box<[u8]>>,
    /// The whole set of extended attributes, once known.
    pub xattrs: Option<Vec<(Name, Vec<u8>)>>,
    pub dir: Option<Box<Dir>>,
    /// Names by which programs reach it, as far as known.
    pub parents: SmallVec<[EntryKey; 1]>,
    pub meta_lsn: Lsn,
    pub data_lsn: Lsn,
    pub xattrs_lsn: Lsn,
    /// The truncation of a file whose new content is not whole yet.
    pub rewriting: Lsn,
    /// Latest record of its content and attributes, and of its place in the namespace.
    pub last: Pos,
    pub links: Pos,
    /// When the oldest unstored change was made, wall clock.
    pub dirty_since_ns: i64,
    /// Bytes of the backing's file that are still part of this one.
    pub base_end: u64,
    /// Modification time and size of its file in the backing, as they were seen last; `None`: not known.
    pub seen: Option<(Stamp, u64)>,
    /// Cuts that the backing does not have: (record, size), sizes ascending with time undone.
    pub cuts: SmallVec<[(Lsn, u64); 1]>,
    /// It stands in the writeback's queue.
    pub queued: bool,
}

impl Node {
    /// A clean node with these attributes.
    pub fn new(id: InodeId, attr: Attr) -> Node {
        Node {
            id,
            attr,
            target: None,
            xattrs: None,
            dir: (attr.kind == Kind::Dir).then(Box::default),
            parents: SmallVec::new(),
            meta_lsn: Lsn::NONE,
            data_lsn: Lsn::NONE,
            xattrs_lsn: Lsn::NONE,
            rewriting: Lsn::NONE,
            last: Pos::default(),
            links: Pos::default(),
            dirty_since_ns: 0,
            base_end: if attr.kind == Kind::File { attr.size } else { 0 },
            seen: None,
            cuts: SmallVec::new(),
            queued: false,
        }
    }

    /// As `new`, of what the backing has with these attributes.
    pub fn found(id: InodeId, attr: Attr) -> Node {
        let seen = (attr.kind == Kind::File).then_some((attr.mtime, attr.size));
        Node { seen, ..Node::new(id, attr) }
    }

    /// Something of it is not in the backing.
    pub fn is_dirty(&self) -> bool {
        self.meta_lsn != Lsn::NONE
            || self.data_lsn != Lsn::NONE
            || self.xattrs_lsn != Lsn::NONE
            || self.dir.as_ref().is_some_and(|d| d.dirty > 0)
    }

    /// No name leads to it any more.
    pub fn is_dead(&self) -> bool {
        self.attr.nlink == 0
    }

    /// The content was cut at `size` by the record `lsn`.
    pub fn cut(&mut self, lsn: Lsn, size: u64) {
        self.base_end = self.base_end.min(size);
        // An earlier, larger cut says nothing that this one does not.
        self.cuts.retain(|c| c.1 < size);
        self.cuts.push((lsn, size));
    }

    /// The backing's file is now `size` bytes long with all changes up to `upto`.
    pub fn content_stored(&mut self, upto: Lsn, size: u64) {
        self.cuts.retain(|c| c.0 > upto);
        self.base_end = self.cuts.iter().map(|c| c.1).fold(size, u64::min);
        if self.data_lsn <= upto {
            self.data_lsn = Lsn::NONE;
        }
    }
}
