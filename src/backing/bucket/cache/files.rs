//! The files of the cache: each is filled from its start, then closed with a table, and removed as a whole, oldest
//! first; what was read again since it came is written anew into the file that is being filled. That is CLOCK, or
//! FIFO with reinsertion (Corbato 1968), on a log.

use super::format::{self, HEADER, LINE, Spot, TAIL};
use crate::sys::disk::{Disk, DiskFile};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Records known at most: 120 bytes of memory each.
const RECORDS_MAX: usize = 1 << 17;
/// Files at most, each of them open.
const FILES_MAX: usize = 320;
const FILE_MIN: u64 = 2 << 20;
const FILE_MAX: u64 = 64 << 20;

/// Where a record is.
#[derive(Clone, Copy, Debug)]
struct Known {
    file: u64,
    spot: Spot,
    /// It was read since it came.
    again: bool,
}

struct CacheFile {
    number: u64,
    file: Arc<dyn DiskFile>,
    spots: Vec<Spot>,
    bytes: u64,
    full: bool,
}

#[derive(Default)]
struct State {
    index: HashMap<u128, Known>,
    /// The oldest first; the last may be the one that is being filled.
    files: VecDeque<CacheFile>,
    bytes: u64,
}

/// See the module. One thread writes, any may read.
pub struct Files {
    disk: Arc<dyn Disk>,
    capacity: u64,
    /// Bytes of the device that are to stay free.
    floor: u64,
    state: Mutex<State>,
    pub damaged: AtomicU64,
}

fn name(number: u64) -> String {
    format!("{number:016x}.blk")
}

fn number_of(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".blk").filter(|h| h.len() == 16)?;
    u64::from_str_radix(hex, 16).ok()
}

/// What is in a file: by its table, else record by record up to the first that is none.
fn scan(number: u64, file: &dyn DiskFile) -> io::Result<(Vec<Spot>, bool)> {
    let len = file.len()?;
    let mut tail = [0; TAIL];
    if len >= TAIL as u64 {
        file.read_exact_at(&mut tail, len - TAIL as u64)?;
        if let Some((lines, sum)) = format::read_tail(number, &tail)
            && let Some(start) = (len - TAIL as u64).checked_sub((lines * LINE) as u64)
        {
            let mut bytes = vec![0; lines * LINE];
            file.read_exact_at(&mut bytes, start)?;
            if let Some(spots) = format::read_table(&bytes, sum, start) {
                return Ok((spots, true));
            }
        }
    }
    let (mut spots, mut at) = (Vec::new(), 0u64);
    while at + HEADER as u64 <= len && at <= u64::from(u32::MAX) {
        let mut h = [0; HEADER];
        file.read_exact_at(&mut h, at)?;
        let Some(s) = format::read_header(number, at as u32, &h) else { break };
        at = u64::from(s.at) + u64::from(s.len);
        if at > len {
            break;
        }
        spots.push(s);
    }
    Ok((spots, false))
}

impl Files {
    /// Takes up what an earlier mount left. What cannot be read of it is removed.
    pub fn open(disk: Arc<dyn Disk>, capacity: u64, floor: u64) -> io::Result<Files> {
        let mut state = State::default();
        for (file_name, _) in disk.list()? {
            let Some(number) = number_of(&file_name) else { continue };
            let found = disk.open(&file_name).and_then(|f| Ok((scan(number, &*f)?, f)));
            let ((spots, full), file) = match found {
                Ok(((spots, full), f)) if !spots.is_empty() => ((spots, full), f),
                _ => {
                    disk.remove(&file_name)?;
                    continue;
                }
            };
            for s in &spots {
                state.index.insert(s.name, Known { file: number, spot: *s, again: false });
            }
            let bytes = file.len()?;
            state.bytes += bytes;
            state.files.push_back(CacheFile { number, file, spots, bytes, full });
        }
        let files = Files { disk, capacity, floor, state: Mutex::new(state), damaged: AtomicU64::new(0) };
        // A file is never written to again, but for the table that it lacks.
        files.close_all();
        files.make_room(0, false)?;
        Ok(files)
    }

    fn file_bytes(&self) -> u64 {
        (self.capacity / 32).clamp(FILE_MIN, FILE_MAX)
    }

    /// Bytes on the device, and records.
    pub fn used(&self) -> (u64, usize) {
        let s = self.state.lock();
        (s.bytes, s.index.len())
    }

    /// Whether a record is there, as far as is known.
    pub fn has(&self, name: u128) -> bool {
        self.state.lock().index.contains_key(&name)
    }

    /// A record's content. A damaged one is forgotten.
    pub fn get(&self, name: u128) -> Option<Vec<u8>> {
        let (known, file) = {
            let mut s = self.state.lock();
            let k = s.index.get_mut(&name)?;
            k.again = true;
            let k = *k;
            let Ok(at) = s.files.binary_search_by_key(&k.file, |f| f.number) else {
                s.index.remove(&name);
                return None;
            };
            (k, s.files[at].file.clone())
        };
        let mut content = vec![0; known.spot.len as usize];
        let read = file.read_exact_at(&mut content, u64::from(known.spot.at));
        if read.is_ok() && format::content_crc(name, &content) == known.spot.crc {
            return Some(content);
        }
        if self.damaged.fetch_add(1, Ordering::Relaxed) == 0 {
            log::warn!(
                "a block of the read cache is damaged; it is read from the bucket again; is the log's disk failing?"
            );
        }
        let mut s = self.state.lock();
        if s.index.get(&name).is_some_and(|k| k.spot == known.spot && k.file == known.file) {
            s.index.remove(&name);
        }
        None
    }

    /// Keeps a content under a name. Errors: it is not kept.
    pub fn put(&self, name: u128, content: &[u8]) -> io::Result<()> {
        if self.has(name) || content.len() as u64 > u64::from(format::CONTENT_MAX).min(self.file_bytes() / 2)
        {
            return Ok(());
        }
        let need = (HEADER + content.len()) as u64;
        if !self.space_for(need)? {
            return Ok(());
        }
        self.append(name, content, need, true)
    }

    /// Gives way where the device runs short. False: there is no room even so.
    pub fn space_for(&self, need: u64) -> io::Result<bool> {
        loop {
            if self.disk.free_bytes()? >= self.floor + need {
                return Ok(true);
            }
            if !self.remove_oldest(false)? {
                return Ok(false);
            }
        }
    }

    fn append(&self, name: u128, content: &[u8], need: u64, may_evict: bool) -> io::Result<()> {
        let limit = self.file_bytes();
        let (number, file, at) = loop {
            let open = {
                let s = self.state.lock();
                let fits = |f: &&CacheFile| {
                    let table = ((f.spots.len() + 1) * LINE + TAIL) as u64;
                    !f.full && f.spots.len() < RECORDS_MAX / 16 && f.bytes + need + table <= limit
                };
                s.files.back().filter(fits).map(|f| (f.number, f.file.clone(), f.bytes))
            };
            if let Some(open) = open {
                break open;
            }
            self.close_all();
            self.start()?;
            if may_evict {
                // What is written anew goes into the new file, and may fill it.
                self.make_room(limit, true)?;
            }
        };
        let header = format::header(number, name, content);
        if let Err(e) = file.write_all_at(&[&header, content], at) {
            // Half a record may be there, and none can follow it.
            self.close_all();
            return Err(e);
        }
        let crc = format::content_crc(name, content);
        let spot = Spot { name, at: at as u32 + HEADER as u32, len: content.len() as u32, crc };
        let mut s = self.state.lock();
        s.bytes += need;
        if let Some(f) = s.files.back_mut() {
            f.bytes += need;
            f.spots.push(spot);
        }
        s.index.insert(name, Known { file: number, spot, again: false });
        Ok(())
    }

    fn start(&self) -> io::Result<()> {
        let number = self.state.lock().files.back().map_or(0, |f| f.number) + 1;
        let file = self.disk.create(&name(number), 0)?;
        let made = CacheFile { number, file, spots: Vec::new(), bytes: 0, full: false };
        self.state.lock().files.push_back(made);
        Ok(())
    }

    /// Ends the file that is being filled.
    pub fn close_all(&self) {
        let open: Vec<(u64, Arc<dyn DiskFile>, Vec<u8>)> = {
            let mut s = self.state.lock();
            let tables = s.files.iter_mut().filter(|f| !f.full).map(|f| {
                f.full = true;
                (f.number, f.file.clone(), format::table(f.number, &f.spots))
            });
            tables.collect()
        };
        for (number, file, table) in open {
            // At its very end, whatever is there. Without one the file is read record by record.
            let wrote = file.len().and_then(|end| file.write_all_at(&[&table], end).map(|()| end));
            let Ok(end) = wrote else { continue };
            let mut s = self.state.lock();
            if let Ok(i) = s.files.binary_search_by_key(&number, |f| f.number) {
                let now = end + table.len() as u64;
                s.bytes = s.bytes - s.files[i].bytes + now;
                s.files[i].bytes = now;
            }
        }
    }

    /// Removes the oldest until so many bytes have room.
    fn make_room(&self, bytes: u64, keep: bool) -> io::Result<()> {
        let most = self.capacity.saturating_sub(self.file_bytes());
        loop {
            let over = {
                let s = self.state.lock();
                s.bytes + bytes > most || s.index.len() > RECORDS_MAX || s.files.len() > FILES_MAX
            };
            if !over || !self.remove_oldest(keep)? {
                return Ok(());
            }
        }
    }

    /// Removes the oldest file; with `keep`, what was read again is written anew, up to half of it. False: there is
    /// none but the one that is being filled.
    fn remove_oldest(&self, keep: bool) -> io::Result<bool> {
        let (number, bytes, spots) = {
            let s = self.state.lock();
            match s.files.front() {
                Some(f) if f.full => (f.number, f.bytes, f.spots.clone()),
                _ => return Ok(false),
            }
        };
        let mut left = if keep { bytes / 2 } else { 0 };
        for spot in spots {
            let again = {
                let mut s = self.state.lock();
                let ours = s.index.get(&spot.name).filter(|k| k.file == number && k.spot == spot);
                let again = ours.is_some_and(|k| k.again);
                if ours.is_some() && !(again && left >= u64::from(spot.len)) {
                    s.index.remove(&spot.name);
                }
                again && left >= u64::from(spot.len)
            };
            if !again {
                continue;
            }
            left -= u64::from(spot.len);
            if let Some(content) = self.get(spot.name) {
                self.append(spot.name, &content, (HEADER + content.len()) as u64, false)?;
            }
        }
        {
            let mut s = self.state.lock();
            s.files.retain(|f| f.number != number);
            s.bytes -= bytes;
        }
        self.disk.remove(&name(number))?;
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod tests {
    use super::*;
    use crate::sys::disk::RealDisk;
    use std::os::unix::fs::FileExt;

    const MIB: u64 = 1 << 20;

    fn open(dir: &std::path::Path, capacity: u64) -> Files {
        Files::open(Arc::new(RealDisk::open(dir).unwrap()), capacity, 0).unwrap()
    }

    fn content(n: u128) -> Vec<u8> {
        (0..200_000u32).map(|i| (i as u8).wrapping_mul(n as u8 | 1) ^ n as u8).collect()
    }

    fn on_disk(dir: &std::path::Path) -> u64 {
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn what_was_put_is_there_after_a_clean_end_and_after_a_death() {
        for clean in [true, false] {
            let t = tempfile::tempdir().unwrap();
            let f = open(t.path(), 64 * MIB);
            (0..30).for_each(|n| f.put(n, &content(n)).unwrap());
            if clean {
                f.close_all();
            }
            drop(f);
            for _ in 0..2 {
                let f = open(t.path(), 64 * MIB);
                (0..30).for_each(|n| assert_eq!(f.get(n).unwrap(), content(n), "{n}, clean {clean}"));
                assert_eq!(f.used(), (on_disk(t.path()), 30));
            }
        }
    }

    #[test]
    fn it_stays_within_its_bound_and_keeps_what_is_read_again() {
        let t = tempfile::tempdir().unwrap();
        let f = open(t.path(), 32 * MIB);
        for n in 0..1000 {
            f.put(n, &content(n)).unwrap();
            if n >= 3 {
                assert_eq!(f.get(3).unwrap(), content(3), "after {n}");
            }
            assert!(on_disk(t.path()) <= 32 * MIB, "after {n}: {}", on_disk(t.path()));
        }
        assert_eq!(f.used().0, on_disk(t.path()));
        assert!(f.get(0).is_none() && f.get(500).is_none());
        (900..1000).for_each(|n| assert_eq!(f.get(n).unwrap(), content(n)));
        // A smaller one from now on.
        drop(f);
        let f = open(t.path(), 16 * MIB);
        assert!(on_disk(t.path()) <= 16 * MIB);
        assert!(f.get(999).is_some());
    }

    #[test]
    fn damage_is_never_served() {
        let t = tempfile::tempdir().unwrap();
        let f = open(t.path(), 64 * MIB);
        (0..4).for_each(|n| f.put(n, &content(n)).unwrap());
        let path = t.path().join(name(1));
        let raw = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        raw.write_at(&[0xff; 7], 200_000 + 1000).unwrap();
        assert!(f.get(1).is_none());
        assert_eq!(f.get(0).unwrap(), content(0));
        assert!(!f.has(1), "it is forgotten");
        f.put(1, &content(1)).unwrap();
        assert_eq!(f.get(1).unwrap(), content(1), "and may come again");
        f.close_all();
        drop(f);
        // A torn table: record by record.
        let len = raw.metadata().unwrap().len();
        raw.set_len(len - 5).unwrap();
        let f = open(t.path(), 64 * MIB);
        assert_eq!((f.get(0).unwrap(), f.get(1).unwrap()), (content(0), content(1)));
        drop(f);
        // Cut or overwritten anywhere: what is given is right.
        for cut in (1..23).rev().map(|n| len * n / 23) {
            raw.set_len(cut).unwrap();
            raw.set_len(len).unwrap();
            let f = open(t.path(), 64 * MIB);
            for n in 0..4 {
                assert!(f.get(n).is_none_or(|c| c == content(n)), "{n} cut at {cut}");
            }
        }
    }

    #[test]
    fn it_gives_way_where_the_device_runs_short() {
        let t = tempfile::tempdir().unwrap();
        let f = open(t.path(), 64 * MIB);
        (0..20).for_each(|n| f.put(n, &content(n)).unwrap());
        f.close_all();
        let f = Files { floor: u64::MAX / 2, ..f };
        f.put(21, &content(21)).unwrap();
        assert_eq!((on_disk(t.path()), f.used()), (0, (0, 0)));
        assert!(f.get(1).is_none());
    }
}
