//! Committing a change: predecessors, append, apply.

use super::Volume;
use super::apply::{At, Content};
use super::error::{Error, Result};
use super::table::{Cell, Inode, Locked};
use crate::format::mutation::{EntryKey, Mutation};
use crate::types::{InodeId, Kind, Lsn, Pos};
use crate::wal::{AppendError, Class, ClientSlot, Record};
use parking_lot::RwLockReadGuard;
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The right to commit: no checkpoint is taken while it is held.
pub struct Change<'a> {
    volume: &'a Volume,
    who: &'a ClientSlot,
    _gate: RwLockReadGuard<'a, ()>,
}

/// Bytes that go with a mutation.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    pub bytes: &'a [u8],
    /// Taking only a first part is fine.
    pub may_split: bool,
}

impl Data<'_> {
    /// No bytes.
    pub const NONE: Data<'static> = Data { bytes: &[], may_split: false };
}

type Preds = SmallVec<[Pos; 8]>;

impl Volume {
    /// Begins a change on behalf of a client.
    pub fn change<'a>(&'a self, who: &'a ClientSlot) -> Change<'a> {
        Change { volume: self, who, _gate: self.gate.read() }
    }
}

impl Change<'_> {
    /// Says in the log who `cell` is, and each directory above its names in the backing, unless it does
    /// so already. Call before locking it. Returns whether something was said.
    pub fn track(&self, cell: &Arc<Cell>) -> Result<bool> {
        let v = self.volume;
        let mut chain: Vec<Arc<Cell>> = Vec::new();
        let mut work = vec![cell.clone()];
        while let Some(c) = work.pop() {
            let known = c.tracked.load(Ordering::Acquire) || c.id == InodeId::ROOT;
            if known || chain.iter().any(|x| x.id == c.id) {
                continue;
            }
            let above: Vec<InodeId> = v.places.read().names(c.id).iter().map(|k| k.parent).collect();
            work.extend(above.into_iter().filter_map(|p| v.table.get(p)));
            chain.push(c);
        }
        for c in chain.iter().rev() {
            self.adopt(c)?;
        }
        Ok(!chain.is_empty())
    }

    fn adopt(&self, cell: &Arc<Cell>) -> Result<()> {
        let v = self.volume;
        loop {
            let found = cell.found.load(Ordering::Acquire);
            let (id, names) = {
                let places = v.places.read();
                (places.id(cell.id), places.names(cell.id).to_vec())
            };
            let Some(id) = id else { return Ok(()) };
            let above: Preds =
                names.iter().filter_map(|k| v.table.get(k.parent)).map(|p| p.read().node.links).collect();
            let mut locked = Locked::new(&[cell]);
            if cell.tracked.load(Ordering::Acquire) {
                return Ok(());
            }
            let Some(attr) = locked.get(cell.id).map(|i| i.node.attr) else { return Ok(()) };
            let preds: Preds = above.into_iter().filter(|p| p.lsn != Lsn::NONE).collect();
            for at in names {
                let m = Mutation::Adopt { ino: cell.id, id, at, attr };
                self.append(&mut locked, &m, &preds, Data::NONE, Class::Meta)?;
            }
            cell.tracked.store(true, Ordering::Release);
            // A name that was found meanwhile is not among those.
            if cell.found.load(Ordering::Acquire) == found {
                return Ok(());
            }
            cell.tracked.store(false, Ordering::Release);
        }
    }

    /// Appends a checked mutation and applies it. Errors: the log is full or failed; then nothing
    /// has changed. Returns how many bytes of `data` went with it.
    pub fn commit(
        &self,
        locked: &mut Locked<'_>,
        m: &Mutation,
        data: Data<'_>,
        class: Class,
    ) -> Result<usize> {
        let preds = predecessors(locked, m);
        self.append(locked, m, &preds, data, class)
    }

    fn append(
        &self,
        locked: &mut Locked<'_>,
        m: &Mutation,
        preds: &[Pos],
        data: Data<'_>,
        class: Class,
    ) -> Result<usize> {
        let v = self.volume;
        if matches!(m, Mutation::Create { .. } | Mutation::Whiteout { .. }) && v.crowding() >= 1.0 {
            return Err(Error::Full);
        }
        let wall_ns = v.clock.wall_ns();
        let mut body = Vec::with_capacity(96);
        m.encode(&mut body);
        let rec = Record {
            kind: m.kind(),
            body: &body,
            predecessors: preds,
            data: data.bytes,
            class,
            may_split: data.may_split,
            wall_ns,
        };
        let done = v.wal.append(self.who, &rec).map_err(|e| match e {
            AppendError::Full => Error::Full,
            AppendError::Io(e) => Error::Log(e),
        })?;
        let content = matches!(m, Mutation::Write { .. }).then(|| Content {
            segment: done.segment.clone(),
            record_at: done.record_at,
            data_at: done.data_at,
            len: done.taken as u64,
            sound: true,
        });
        v.apply(locked, m, &At { pos: done.pos, wall_ns, content }, data.bytes);
        Ok(done.taken)
    }
}

/// What must survive if this record does (docs/ARCHITECTURE.md, "Order across segments"). The client's
/// own previous record is added by the log.
fn predecessors(locked: &Locked<'_>, m: &Mutation) -> Preds {
    let mut out = Preds::new();
    let entry = |out: &mut Preds, k: &EntryKey| {
        if let Some(p) = locked.get(k.parent) {
            out.push(p.node.links);
            if let Some(e) = p.node.dir.as_ref().and_then(|d| d.entries.get(&k.name)) {
                out.push(e.pos);
            }
        }
    };
    let links = |out: &mut Preds, ino: InodeId| {
        if let Some(i) = locked.get(ino) {
            out.push(i.node.links);
        }
    };
    // An emptied directory goes only if all that left it is gone.
    let emptied = |out: &mut Preds, ino: InodeId| {
        if let Some(d) = locked.get(ino).and_then(|i: &Inode| i.node.dir.as_ref()) {
            out.extend(d.positions());
        }
    };
    let last = |out: &mut Preds, ino: InodeId| {
        if let Some(i) = locked.get(ino) {
            out.push(i.node.last);
        }
    };
    match m {
        Mutation::Create { at, .. } => entry(&mut out, at),
        Mutation::Link { at, ino } | Mutation::Unlink { at, ino } => {
            entry(&mut out, at);
            links(&mut out, *ino);
        }
        Mutation::Rmdir { at, ino } => {
            entry(&mut out, at);
            links(&mut out, *ino);
            emptied(&mut out, *ino);
        }
        Mutation::Rename { from, to, ino, replaced } | Mutation::Whiteout { from, to, ino, replaced, .. } => {
            entry(&mut out, from);
            entry(&mut out, to);
            links(&mut out, *ino);
            // Old or new, never half: what it installs must be whole.
            if locked.get(*ino).is_some_and(|i| i.node.attr.kind != Kind::Dir) {
                last(&mut out, *ino);
            }
            if let Some(r) = replaced {
                links(&mut out, *r);
                emptied(&mut out, *r);
            }
        }
        Mutation::Exchange { a, b, ino_a, ino_b } => {
            for (k, i) in [(a, ino_a), (b, ino_b)] {
                entry(&mut out, k);
                links(&mut out, *i);
                last(&mut out, *i);
            }
        }
        Mutation::Write { ino, .. }
        | Mutation::SetAttr { ino, .. }
        | Mutation::Zero { ino, .. }
        | Mutation::SetXattrs { ino }
        | Mutation::Settled { ino } => last(&mut out, *ino),
        Mutation::Adopt { .. }
        | Mutation::Intent { .. }
        | Mutation::Stored { .. }
        | Mutation::Updating { .. }
        | Mutation::Placed { .. }
        | Mutation::Closed => {}
    }
    out.retain(|p| p.lsn != Lsn::NONE);
    out
}
