//! The pool of segments: made ready ahead of need, taken by appends, recycled when retired.

mod limits;
#[cfg(all(test, feature = "testing"))]
mod tests;

pub use limits::{Class, PoolLimits};

use super::segment::{Owner, Phase, Segment};
use crate::format::segment::{RECORDS_AT, SegmentHeader, VERSION};
use crate::sys::disk::Disk;
use crate::types::{Lsn, SegmentId};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[derive(Default)]
struct Ready {
    free: Vec<Arc<Segment>>,
    /// The headroom as files: the device may be full long before the log is, and without them nothing could drain.
    spare: Vec<Arc<Segment>>,
    reserved: HashMap<Owner, Vec<Arc<Segment>>>,
    /// Bytes of all segment files.
    allocated: u64,
    /// Bytes of open, sealed and retiring ones.
    busy: u64,
    /// The same by owner, of those taken since the mount.
    held: HashMap<Owner, u64>,
    next_id: u32,
}

impl Ready {
    fn hold(&mut self, owner: Owner, bytes: u32) {
        self.busy += bytes as u64;
        *self.held.entry(owner).or_default() += bytes as u64;
    }
    fn let_go(&mut self, owner: Owner, bytes: u32) {
        self.busy -= bytes as u64;
        // What recovery took over nobody is charged with.
        if let Some(held) = self.held.get_mut(&owner) {
            *held = held.saturating_sub(bytes as u64);
            if *held == 0 {
                self.held.remove(&owner);
            }
        }
    }
}

/// Counts of the pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolCounts {
    pub free: u64,
    pub reserved: u64,
    pub reserved_bytes: u64,
    pub free_bytes: u64,
    pub busy_bytes: u64,
    pub allocated_bytes: u64,
}

/// All segments.
pub struct Pool {
    disk: Arc<dyn Disk>,
    log: u128,
    pub limits: PoolLimits,
    table: RwLock<BTreeMap<SegmentId, Arc<Segment>>>,
    ready: Mutex<Ready>,
    next_generation: AtomicU32,
    /// Segments taken that were ready, and those that a write had to wait for.
    pub hits: AtomicU64,
    pub misses: AtomicU64,
}

/// No segment may be taken now.
#[derive(Debug)]
pub enum TakeError {
    Full,
    Io(io::Error),
}

/// File name of a segment.
pub fn file_name(id: SegmentId) -> String {
    format!("{:08}.seg", id.0)
}

/// The segment a file name stands for.
pub fn parse_file_name(name: &str) -> Option<SegmentId> {
    let n = name.strip_suffix(".seg")?;
    if n.len() != 8 { None } else { n.parse().ok().map(SegmentId) }
}

impl Pool {
    pub(super) fn new(disk: Arc<dyn Disk>, log: u128, limits: PoolLimits, next_generation: u32) -> Pool {
        Pool {
            disk,
            log,
            limits,
            table: RwLock::default(),
            ready: Mutex::new(Ready { next_id: 1, ..Ready::default() }),
            next_generation: AtomicU32::new(next_generation),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Takes in a segment found at recovery: sealed while its records may be needed, else free.
    pub(super) fn adopt(&self, s: Segment, generation: u32, sealed: Option<(u32, Lsn)>) -> Arc<Segment> {
        s.generation.store(generation, Ordering::Release);
        if let Some((end, max_lsn)) = sealed {
            let mut st = s.state.lock();
            st.phase = Phase::Sealed;
            st.pos = end;
            st.max_lsn = max_lsn;
            drop(st);
            s.durable.store(end, Ordering::Release);
        }
        let s = Arc::new(s);
        let mut r = self.ready.lock();
        r.next_id = r.next_id.max(s.id.0 + 1);
        r.allocated += s.size as u64;
        if sealed.is_some() {
            r.busy += s.size as u64;
        } else {
            r.free.push(s.clone());
        }
        self.table.write().insert(s.id, s.clone());
        self.next_generation.fetch_max(generation + 1, Ordering::AcqRel);
        s
    }

    /// Where the segment files are.
    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Makes the names of segment files durable.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    /// The segment of this number.
    pub fn get(&self, id: SegmentId) -> Option<Arc<Segment>> {
        self.table.read().get(&id).cloned()
    }
    /// Share of the log in use, of what content of this owner may use.
    pub fn fill_for(&self, owner: Owner) -> f64 {
        let r = self.ready.lock();
        let mine = r.held.get(&owner).copied().unwrap_or(0);
        r.busy as f64 / self.limits.limit_for(Class::Data, mine, r.held.len()).max(1) as f64
    }
    /// Bytes of segments in use that an owner was given.
    pub fn held_by(&self, owner: Owner) -> u64 {
        self.ready.lock().held.get(&owner).copied().unwrap_or(0)
    }
    /// All segments.
    pub fn all(&self) -> Vec<Arc<Segment>> {
        self.table.read().values().cloned().collect()
    }
    /// The generation that the next opened segment gets.
    pub fn next_generation(&self) -> u32 {
        self.next_generation.load(Ordering::Acquire)
    }
    pub fn counts(&self) -> PoolCounts {
        let r = self.ready.lock();
        PoolCounts {
            free: (r.free.len() + r.spare.len()) as u64,
            reserved: r.reserved.values().map(|v| v.len() as u64).sum(),
            reserved_bytes: r.reserved.values().flatten().map(|s| s.size as u64).sum(),
            free_bytes: r.free.iter().chain(&r.spare).map(|s| s.size as u64).sum(),
            busy_bytes: r.busy,
            allocated_bytes: r.allocated,
        }
    }
    /// Reserved segments: owner, size, count.
    pub fn reserved(&self) -> Vec<(Owner, u32)> {
        let r = self.ready.lock();
        r.reserved.iter().flat_map(|(o, v)| v.iter().map(|s| (*o, s.size))).collect()
    }

    /// Rounds up to a segment size.
    pub fn size_class(&self, bytes: u64) -> u32 {
        let l = &self.limits;
        (bytes.min(l.segment_max as u64).max(l.segment_min as u64) as u32)
            .next_power_of_two()
            .min(l.segment_max)
    }

    /// The largest segment size within `bytes`.
    fn class_within(&self, bytes: u64) -> Option<u32> {
        let l = &self.limits;
        let most = bytes.min(l.segment_max as u64);
        (most >= l.segment_min as u64).then(|| 1u32 << most.ilog2()).filter(|&c| c >= l.segment_min)
    }

    /// A segment for `owner`, opened: its own reserved one, else a free one, else a new one made
    /// while the writer waits (a miss). `need` bytes of records must fit.
    pub(super) fn take(
        &self,
        owner: Owner,
        want: u32,
        need: u32,
        class: Class,
    ) -> Result<Arc<Segment>, TakeError> {
        let mut want = want.max(self.size_class(need as u64 + RECORDS_AT as u64));
        let fits_in = |bytes: u32| bytes as u64 >= need as u64 + RECORDS_AT as u64;
        let fits = |s: &Segment| fits_in(s.size);
        let found = {
            let mut r = self.ready.lock();
            let mine = r.held.get(&owner).copied().unwrap_or(0);
            let limit = self.limits.limit_for(class, mine, r.held.len());
            let room = limit.saturating_sub(r.busy);
            let allowed = |s: &Segment| fits(s) && s.size as u64 <= room;
            let mut got = pick(r.reserved.get_mut(&owner), want, &allowed);
            if got.is_none() {
                got = pick(Some(&mut r.free), want, &allowed);
            }
            if got.is_none() && r.allocated + want as u64 > self.limits.capacity {
                // Others' reservations yield before a writer is told that the log is full.
                let others: Vec<Owner> = r.reserved.keys().copied().collect();
                for o in others {
                    got = got.or_else(|| pick(r.reserved.get_mut(&o), want, &allowed));
                }
            }
            match &got {
                Some(s) => r.hold(owner, s.size),
                // Near the end smaller ones do: what fits is not refused.
                None => match self.class_within(room).filter(|&c| fits_in(c)) {
                    Some(class) => want = want.min(class),
                    None => return Err(TakeError::Full),
                },
            }
            got
        };
        let s = match found {
            Some(s) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                s
            }
            None => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                let s = match self.create(want, false) {
                    Err(TakeError::Full) => self.take_spare(class, &fits)?,
                    other => other?,
                };
                self.ready.lock().hold(owner, s.size);
                s
            }
        };
        if let Err(e) = self.open(&s, owner) {
            let mut r = self.ready.lock();
            r.let_go(owner, s.size);
            r.free.push(s);
            return Err(TakeError::Io(e));
        }
        Ok(s)
    }

    /// A part of the headroom, for a record that may have it.
    fn take_spare(&self, class: Class, fits: &dyn Fn(&Segment) -> bool) -> Result<Arc<Segment>, TakeError> {
        let mut r = self.ready.lock();
        let kept = match class {
            Class::Data => usize::MAX,
            Class::Meta => self.limits.spares() / 2,
            Class::System => 0,
        };
        if r.spare.len() <= kept {
            return Err(TakeError::Full);
        }
        let at = r.spare.iter().position(|s| fits(s)).ok_or(TakeError::Full)?;
        Ok(r.spare.swap_remove(at))
    }

    /// Makes the headroom's files that are missing. Errors: the device has no room for them.
    pub fn fill_spare(&self) -> io::Result<()> {
        loop {
            let mut r = self.ready.lock();
            if r.spare.len() >= self.limits.spares() {
                return Ok(());
            }
            let small = r.free.iter().position(|s| s.size == self.limits.segment_min);
            if let Some(at) = small {
                let s = r.free.swap_remove(at);
                r.spare.push(s);
                continue;
            }
            drop(r);
            match self.create(self.limits.segment_min, true) {
                Ok(s) => self.ready.lock().spare.push(s),
                Err(TakeError::Full) => return Err(io::ErrorKind::StorageFull.into()),
                Err(TakeError::Io(e)) => return Err(e),
            }
        }
    }

    /// Identity of the log.
    pub fn log(&self) -> u128 {
        self.log
    }

    /// Gives a free segment its next generation and writes its header.
    fn open(&self, s: &Segment, owner: Owner) -> io::Result<()> {
        let generation = self.next_generation.fetch_add(1, Ordering::AcqRel);
        let head =
            SegmentHeader { id: s.id, generation, size: s.size as u64, log: self.log, version: VERSION };
        s.file().write_all_at(&[&head.encode()], 0)?;
        let mut st = s.state.lock();
        s.generation.store(generation, Ordering::Release);
        s.version.store(VERSION, Ordering::Release);
        // The header itself is not durable yet: the first sync covers it with the first records.
        s.durable.store(RECORDS_AT as u32, Ordering::Release);
        st.phase = Phase::Open;
        st.owner = owner;
        st.pos = RECORDS_AT as u32;
        st.max_lsn = Lsn::NONE;
        st.first_ns = 0;
        st.deps.clear();
        Ok(())
    }

    /// Makes a new segment file. `ready`: zero-filled and synced, ahead of need; else only allocated,
    /// since a writer waits for it.
    fn create(&self, size: u32, ready: bool) -> Result<Arc<Segment>, TakeError> {
        let wanted = self.ready.lock().allocated + size as u64 + self.disk.kept_bytes();
        if wanted > self.limits.capacity {
            self.disk.give_up(wanted - self.limits.capacity);
        }
        let (id, drop_first) = {
            let mut r = self.ready.lock();
            let mut drop_first = Vec::new();
            while r.allocated + size as u64 > self.limits.capacity {
                // Free files of other sizes give way; what is reserved only to a writer that waits.
                let mut got = r.free.pop();
                if got.is_none() && !ready {
                    got = r.reserved.values_mut().find_map(Vec::pop);
                }
                let Some(s) = got else { break };
                r.allocated -= s.size as u64;
                drop_first.push(s);
            }
            if r.allocated + size as u64 > self.limits.capacity {
                r.allocated += drop_first.iter().map(|s| s.size as u64).sum::<u64>();
                r.free.extend(drop_first);
                return Err(TakeError::Full);
            }
            r.allocated += size as u64;
            r.next_id += 1;
            (SegmentId(r.next_id - 1), drop_first)
        };
        for s in drop_first {
            self.remove(&s);
        }
        let made = self.make_file(id, size, ready).or_else(|e| match e.kind() {
            io::ErrorKind::StorageFull if self.disk.give_up(size as u64) >= size as u64 => {
                self.make_file(id, size, ready)
            }
            _ => Err(e),
        });
        match made {
            Ok(s) => {
                self.table.write().insert(id, s.clone());
                Ok(s)
            }
            // The device is full before the log is: the same to a writer, who waits for what is drained.
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                self.ready.lock().allocated -= size as u64;
                Err(TakeError::Full)
            }
            Err(e) => {
                self.ready.lock().allocated -= size as u64;
                if let Err(e2) = self.disk.remove(&file_name(id))
                    && e2.kind() != io::ErrorKind::NotFound
                {
                    log::warn!("removing the unfinished segment {} failed: {e2}", file_name(id));
                }
                Err(TakeError::Io(e))
            }
        }
    }

    fn make_file(&self, id: SegmentId, size: u32, ready: bool) -> io::Result<Arc<Segment>> {
        let file = self.disk.create(&file_name(id), size as u64)?;
        if ready {
            file.fill_zero(size as u64)?;
            file.sync_data()?;
            self.disk.sync_dir()?;
        }
        let s = Segment::new(id, size, file);
        s.unnamed.store(!ready, Ordering::Release);
        Ok(Arc::new(s))
    }

    fn remove(&self, s: &Segment) {
        self.table.write().remove(&s.id);
        if let Err(e) = self.disk.remove(&file_name(s.id)) {
            log::warn!("removing the free segment {} failed: {e}", file_name(s.id));
        }
    }

    /// Makes one segment ready for `owner`; true if it had to be made anew. Slow: never on a writer's way. Errors: no
    /// space.
    pub fn reserve(&self, owner: Owner, size: u32) -> io::Result<bool> {
        let size = self.size_class(size as u64);
        let free = {
            let mut r = self.ready.lock();
            r.free.iter().position(|s| s.size == size).map(|i| r.free.swap_remove(i))
        };
        let made = free.is_none();
        let s = match free {
            Some(s) => s,
            None => match self.create(size, true) {
                Ok(s) => s,
                Err(TakeError::Full) => return Err(io::Error::from(io::ErrorKind::StorageFull)),
                Err(TakeError::Io(e)) => return Err(e),
            },
        };
        self.ready.lock().reserved.entry(owner).or_default().push(s);
        Ok(made)
    }

    /// Gives one reserved segment of `owner` back to the pool.
    pub fn release(&self, owner: Owner, size: u32) {
        let mut r = self.ready.lock();
        let Some(v) = r.reserved.get_mut(&owner) else { return };
        let Some(i) = v.iter().position(|s| s.size == size) else { return };
        let s = v.swap_remove(i);
        if v.is_empty() {
            r.reserved.remove(&owner);
        }
        r.free.push(s);
    }

    /// A retired segment comes back, once no reader can hold it.
    pub(super) fn recycled(&self, s: Arc<Segment>) {
        let (owner, end, last) = {
            let mut st = s.state.lock();
            st.phase = Phase::Free;
            (st.owner, st.pos, st.max_lsn)
        };
        // For undo its file leaves the log with its records; another is made when there is need for one.
        let kept = last != Lsn::NONE && self.disk.keep(&file_name(s.id), s.generation(), end, last);
        if kept {
            self.table.write().remove(&s.id);
        }
        let mut r = self.ready.lock();
        r.let_go(owner, s.size);
        if kept {
            r.allocated -= s.size as u64;
            return;
        }
        if s.size == self.limits.segment_min && r.spare.len() < self.limits.spares() {
            r.spare.push(s);
        } else {
            r.free.push(s);
        }
    }

    /// Deletes free segments beyond `keep` bytes, largest first.
    pub fn trim(&self, keep: u64) {
        let gone = {
            let mut r = self.ready.lock();
            r.free.sort_by_key(|s| s.size);
            let mut free: u64 = r.free.iter().map(|s| s.size as u64).sum();
            let mut gone = Vec::new();
            while free > keep {
                let Some(s) = r.free.pop() else { break };
                free -= s.size as u64;
                r.allocated -= s.size as u64;
                gone.push(s);
            }
            gone
        };
        for s in gone {
            self.remove(&s);
        }
    }
}

/// Takes the best fit: the wanted size, else the smallest larger, else the largest smaller.
fn pick(
    from: Option<&mut Vec<Arc<Segment>>>,
    want: u32,
    allowed: &dyn Fn(&Segment) -> bool,
) -> Option<Arc<Segment>> {
    let v = from?;
    let best = v
        .iter()
        .enumerate()
        .filter(|(_, s)| allowed(s))
        .min_by_key(|(_, s)| if s.size >= want { (0, s.size) } else { (1, u32::MAX - s.size) })?
        .0;
    Some(v.swap_remove(best))
}
