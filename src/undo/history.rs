//! All that is kept of a log, in the order of its records.

use crate::format::frame;
use crate::format::mutation::Mutation;
use crate::kept::read::{Kept, read};
use crate::kept::{DIR, parse_images, parse_segment, read_since};
use crate::sys::disk::{Disk, DiskFile, RealDisk};
use crate::types::{Lsn, SegmentId};
use crate::wal::pool::parse_file_name;
use crate::wal::scan::scan;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Kinds of records whose data are wanted with them: a symlink's target, extended attributes.
const WITH_DATA: [u8; 2] = [2, 11];

/// Where a record's data part lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAt {
    segment: usize,
    pub at: u32,
    pub len: u32,
    crc: u32,
    sound: bool,
}

/// A record.
#[derive(Clone, Debug)]
pub struct Rec {
    pub lsn: u64,
    pub wall_ns: i64,
    /// Process id of the client, 0 for the gateway; and its start, 0 while not known.
    pub pid: u32,
    pub start: u64,
    pub change: Mutation,
    /// The data part of a creation or of extended attributes.
    pub data: Vec<u8>,
    pub content: DataAt,
}

/// What the backing held of an object before one store of it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name of its file.
    pub file: String,
    pub kept: Kept,
}

struct Segment {
    id: SegmentId,
    generation: u32,
    /// Its name in the log, and among what is kept.
    live: Option<String>,
    kept: Option<String>,
}

/// What is kept, whole since `floor_ns`.
pub struct History {
    /// By number.
    pub recs: Vec<Rec>,
    /// The oldest first.
    pub images: Vec<Image>,
    /// Moments from here on can be told, in nanoseconds since 1970.
    pub floor_ns: i64,
    /// What is wrong with what is kept, a line each.
    pub notes: Vec<String>,
    segments: Vec<Segment>,
    log: RealDisk,
    kept: RealDisk,
}

/// Reads what is kept in a log's directory, without changing it, up to the record `upto`. Errors: one line for people.
pub fn load(log_dir: &Path, upto: Lsn, now_ns: i64) -> Result<History, String> {
    let path = log_dir.join(DIR);
    let failed = |e: io::Error| format!("{}: {e}", path.display());
    let Some((since, _)) = read_since(&path) else {
        return Err(format!(
            "nothing is kept in {}: mount with --keep-log to be able to undo",
            log_dir.display()
        ));
    };
    let log = RealDisk::open(log_dir).map_err(|e| format!("{}: {e}", log_dir.display()))?;
    let kept = RealDisk::open(&path).map_err(failed)?;
    let mut h = History {
        recs: Vec::new(),
        images: Vec::new(),
        floor_ns: since.wall_ns,
        notes: Vec::new(),
        segments: Vec::new(),
        log,
        kept,
    };
    // The log first: what retires meanwhile is found among what is kept.
    let live = h.log.list().map_err(|e| format!("{}: {e}", log_dir.display()))?;
    for (name, _) in live {
        if let Some(id) = parse_file_name(&name)
            && let Ok(file) = h.log.open(&name)
        {
            h.take_segment(&*file, id, Some(name), None);
        }
    }
    let files = h.kept.list().map_err(failed)?;
    for (name, _) in &files {
        if let Some((id, _, _)) = parse_segment(name)
            && let Ok(file) = h.kept.open(name)
        {
            h.take_segment(&*file, SegmentId(id), None, Some(name.clone()));
        }
    }
    h.recs.sort_by_key(|r| r.lsn);
    h.recs.dedup_by_key(|r| r.lsn);
    h.look_for_gaps(since.lsn, upto.0, now_ns);
    h.recs.retain(|r| !matches!(r.change, Mutation::Closed));
    let mut images: Vec<(u64, &String)> =
        files.iter().filter_map(|f| Some((parse_images(&f.0)?, &f.0))).collect();
    images.sort();
    h.take_images(&images, now_ns);
    Ok(h)
}

impl History {
    fn take_segment(
        &mut self,
        file: &dyn DiskFile,
        id: SegmentId,
        live: Option<String>,
        kept: Option<String>,
    ) {
        let shown = kept.clone().or(live.clone()).unwrap_or_default();
        let s = match scan(file, id, None, 0, &|k| WITH_DATA.contains(&k)) {
            Ok(s) => s,
            Err(e) => return self.notes.push(format!("{shown} cannot be read and is skipped: {e}")),
        };
        let Some(head) = s.header else {
            if kept.is_some() {
                self.notes.push(format!("{shown} is damaged and is skipped"));
            }
            return;
        };
        let lost = s.damage.iter().filter(|d| !d.mended).count();
        if lost > 0 && kept.is_some() {
            self.notes.push(format!("{shown} is damaged in {lost} places, which are skipped"));
        }
        let segment = self.segments.len();
        self.segments.push(Segment { id, generation: head.generation, live, kept });
        for f in s.records {
            let Ok(change) = Mutation::decode(f.header.kind, &f.body) else { continue };
            let content = DataAt {
                segment,
                at: f.record_at + f.header.data_at() as u32,
                len: f.header.data_bytes,
                crc: f.header.data_crc,
                sound: f.data_sound,
            };
            // What the writeback says of itself tells nothing, but its number counts.
            let change = match change {
                Mutation::Intent { .. } | Mutation::Placed { .. } | Mutation::Updating { .. } => {
                    Mutation::Closed
                }
                other => other,
            };
            let (lsn, wall_ns) = (f.header.lsn.0, f.header.wall_ns);
            let (pid, start) = (f.header.pid, f.header.start);
            self.recs.push(Rec { lsn, wall_ns, pid, start, change, data: f.data, content });
        }
    }

    /// Each number was given to one record. Those up to `explained` may be missing: what that means is known.
    pub(super) fn look_for_gaps(&mut self, explained: u64, upto: u64, now_ns: i64) {
        let last = self.recs.last().map_or(0, |r| r.lsn);
        if last < upto && upto > explained {
            self.raise(now_ns, "the newest records are missing");
            return;
        }
        let mut above = (last + 1, now_ns);
        for n in (0..self.recs.len()).rev() {
            let (lsn, wall) = (self.recs[n].lsn, self.recs[n].wall_ns);
            if lsn + 1 < above.0 && above.0 - 1 > explained {
                return self.raise(above.1, "records are missing");
            }
            above = (lsn, wall);
        }
        if !self.recs.is_empty() && above.0 > explained + 1 {
            self.raise(above.1, "records are missing");
        }
    }

    fn raise(&mut self, to_ns: i64, why: &str) {
        if to_ns > self.floor_ns {
            self.floor_ns = to_ns;
            self.notes.push(format!("{why}: earlier moments cannot be restored"));
        }
    }

    fn take_images(&mut self, files: &[(u64, &String)], now_ns: i64) {
        let mut before: Option<(u64, bool)> = None;
        for (n, (number, name)) in files.iter().enumerate() {
            let images = match self.kept.open(name).and_then(|f| read(&*f)) {
                Ok(i) if i.began_ns != 0 => i,
                // Just begun, with nothing in it yet.
                Ok(_) if n + 1 == files.len() => continue,
                Ok(_) => {
                    before = Some((*number, false));
                    continue;
                }
                Err(e) => {
                    self.notes.push(format!("{name} cannot be read and is skipped: {e}"));
                    before = Some((*number, false));
                    continue;
                }
            };
            match before {
                None => self.floor_ns = self.floor_ns.max(images.began_ns),
                Some((b, whole)) if b + 1 != *number || !whole => {
                    self.raise(images.began_ns, "a file of old contents is damaged or missing");
                }
                Some(_) => {}
            }
            before = Some((*number, images.whole));
            let file = (*name).clone();
            self.images.extend(images.all.into_iter().map(|kept| Image { file: file.clone(), kept }));
        }
        if before.is_none_or(|b| !b.1 && files.last().is_some_and(|f| f.0 != b.0)) {
            self.raise(now_ns, "the files of old contents are damaged or missing");
        }
    }

    /// Part of a record's data, verified. Errors: it is damaged or given up.
    pub fn bytes(&self, d: &DataAt, skip: u32, len: u32) -> io::Result<Vec<u8>> {
        let s = &self.segments[d.segment];
        let bad = || {
            io::Error::new(io::ErrorKind::InvalidData, "a kept record is damaged or was given up meanwhile")
        };
        if !d.sound {
            return Err(bad());
        }
        let mut data = vec![0; d.len as usize];
        let read = |f: Arc<dyn DiskFile>, data: &mut [u8]| {
            f.read_exact_at(data, d.at as u64).is_ok() && frame::data_crc(s.id, s.generation, data) == d.crc
        };
        let live = s.live.as_ref().and_then(|n| self.log.open(n).ok());
        let kept = || {
            let found = || {
                let names = self.kept.list().ok()?;
                let is = |n: &String| parse_segment(n).is_some_and(|p| (p.0, p.1) == (s.id.0, s.generation));
                names.into_iter().map(|f| f.0).find(is)
            };
            self.kept.open(&s.kept.clone().or_else(found)?).ok()
        };
        let ok = live.is_some_and(|f| read(f, &mut data)) || kept().is_some_and(|f| read(f, &mut data));
        match data.get(skip as usize..(skip + len) as usize) {
            Some(part) if ok => Ok(part.to_vec()),
            _ => Err(bad()),
        }
    }

    /// A whole piece of an old content, verified.
    pub fn old_bytes(&self, file: &str, at: u64, len: u64, crc: u32) -> io::Result<Vec<u8>> {
        let mut data = vec![0; len as usize];
        self.kept.open(file)?.read_exact_at(&mut data, at)?;
        match crate::format::kept::is_sound(crc, &data) {
            true => Ok(data),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "a kept old content is damaged")),
        }
    }
}

#[cfg(test)]
impl DataAt {
    /// Of a record of so many bytes, which cannot be read.
    pub(super) fn of(len: u32) -> DataAt {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let at = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        DataAt { segment: 0, at, len, crc: 0, sound: true }
    }
}

#[cfg(test)]
impl History {
    /// Without any bytes.
    pub(super) fn of(recs: Vec<Rec>, images: Vec<Image>) -> History {
        let disk = || RealDisk::open(Path::new("/")).expect("there is a root");
        History {
            recs,
            images,
            floor_ns: 0,
            notes: Vec::new(),
            segments: Vec::new(),
            log: disk(),
            kept: disk(),
        }
    }
}
