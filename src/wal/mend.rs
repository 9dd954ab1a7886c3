//! What clears a latched segment (law 4). After a failed sync the kernel may have marked the pages clean though the
//! device does not have them (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020): another
//! sync of the same file would tell of success and mean nothing. So all of the segment is written to another file,
//! that one is synced, read back from the device and compared, and only then it takes the other's place.

use super::Wal;
use super::pool::file_name;
use super::scan::{Damage, scan_bytes};
use super::segment::{Phase, Segment};
use crate::sys::disk::{Disk, DiskFile};
use crate::types::SegmentId;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What became of a latched segment.
#[derive(Debug)]
pub struct Mended {
    pub segment: SegmentId,
    /// Records that could not be read any more, of those that never were durable.
    pub lost: Vec<Damage>,
}

/// File name under which a segment is written anew.
fn temporary_name(id: SegmentId) -> String {
    format!("{:08}.new", id.0)
}

/// Name of the empty file that tells the next mount of a latched segment.
fn mark_name(id: SegmentId) -> String {
    format!("{:08}.bad", id.0)
}

/// Whether a file is what an unfinished mending left behind.
pub fn is_temporary(name: &str) -> bool {
    name.strip_suffix(".new").is_some_and(|n| n.len() == 8 && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Leaves word for the next mount: it would sync the file with success, whatever the device has.
pub(super) fn mark(disk: &dyn Disk, id: SegmentId) {
    let left = match disk.create(&mark_name(id), 0) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
        Ok(_) => disk.sync_dir(),
    };
    if let Err(e) = left {
        log::warn!("marking log segment {} as not synced failed: {e}", id.0);
    }
}

/// The segment is sound, or nothing needs it.
pub fn unmark(disk: &dyn Disk, id: SegmentId) -> io::Result<()> {
    remove(disk, &mark_name(id))
}

/// Removes a file that may be gone already.
pub fn remove(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes a segment file durable that another gateway left: by a sync, unless one of it has failed, then or
/// now. Returns the file that holds it from here on.
pub fn settle(
    disk: &dyn Disk,
    id: SegmentId,
    file: &Arc<dyn DiskFile>,
    marked: bool,
) -> io::Result<Arc<dyn DiskFile>> {
    if !marked {
        match file.sync_data() {
            Ok(()) => return Ok(file.clone()),
            Err(e) => {
                mark(disk, id);
                log::error!("syncing log segment {} failed: {e}; writing it to another file", id.0);
            }
        }
    }
    let mut bytes = vec![0; file.len()? as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let new = write_anew(disk, &temporary_name(id), bytes.len() as u64, &bytes)?;
    disk.rename(&temporary_name(id), &file_name(id))?;
    disk.sync_dir()?;
    unmark(disk, id)?;
    log::warn!("log segment {} was written to another file and verified", id.0);
    Ok(new)
}

/// The segments that are marked.
pub fn marked(names: &[(String, u64)]) -> Vec<SegmentId> {
    names.iter().filter_map(|(n, _)| n.strip_suffix(".bad")?.parse().ok().map(SegmentId)).collect()
}

/// A synced, verified file.
fn write_anew(disk: &dyn Disk, name: &str, size: u64, bytes: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
    remove(disk, name)?;
    let file = disk.create(name, size)?;
    let whole = || -> io::Result<()> {
        file.write_all_at(&[bytes], 0)?;
        file.sync_data()?;
        file.drop_cache()?;
        let mut back = vec![0; bytes.len()];
        file.read_exact_at(&mut back, 0)?;
        if back == bytes {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the device does not give back what was written"))
    };
    if let Err(e) = whole() {
        if let Err(e2) = disk.remove(name) {
            log::warn!("removing {name} failed: {e2}; the next mount does it");
        }
        return Err(e);
    }
    Ok(file)
}

impl Wal {
    /// Writes every latched segment anew. Returns those that are sound again. Errors: the last one; what it
    /// concerns stays latched, for another try. One caller at a time.
    pub fn mend(&self) -> (Vec<Mended>, Option<(SegmentId, io::Error)>) {
        let (mut mended, mut failed) = (Vec::new(), None);
        for seg in self.pool.all().into_iter().filter(|s| s.latched().is_some()) {
            match self.mend_one(&seg) {
                Ok(lost) => mended.push(Mended { segment: seg.id, lost }),
                Err(e) => failed = Some((seg.id, e)),
            }
        }
        (mended, failed)
    }

    fn mend_one(&self, seg: &Arc<Segment>) -> io::Result<Vec<Damage>> {
        // Nobody appends to it any more, now that it is latched.
        self.seal(seg);
        let (generation, end) = {
            let st = seg.state.lock();
            if matches!(st.phase, Phase::Free | Phase::Retiring) {
                // Nothing in it is needed; the next one who opens it hears what its file says then.
                self.unlatch(seg);
                return Ok(Vec::new());
            }
            (seg.generation(), st.pos)
        };
        let mut bytes = vec![0; end as usize];
        seg.file().read_exact_at(&mut bytes, 0)?;
        let lost = scan_bytes(&bytes, seg.id, Some((generation, end)), self.pool.log(), &|_| false).damage;
        let (name, temporary) = (file_name(seg.id), temporary_name(seg.id));
        let disk = self.pool.disk();
        let size = seg.size as u64;
        let file = match write_anew(disk, &temporary, size, &bytes) {
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                // What only stands ready gives way.
                self.pool.trim(0);
                write_anew(disk, &temporary, size, &bytes)?
            }
            other => other?,
        };
        let st = seg.state.lock();
        if st.phase != Phase::Sealed || seg.generation() != generation {
            drop(st);
            // It was retired meanwhile: all of it was durable after all.
            return disk.remove(&temporary).map(|()| Vec::new());
        }
        disk.rename(&temporary, &name)?;
        *seg.file.write() = file;
        // The next sync of it makes the name durable.
        seg.unnamed.store(true, Ordering::Release);
        self.unlatch(seg);
        self.committer.rewritten.fetch_add(1, Ordering::Relaxed);
        Ok(lost)
    }

    fn unlatch(&self, seg: &Segment) {
        if seg.latched.swap(0, Ordering::AcqRel) != 0 {
            self.committer.latched.fetch_sub(1, Ordering::AcqRel);
        }
        // Its name may not be durable yet; the next mount may do it all again for nothing.
        if let Err(e) = unmark(self.pool.disk(), seg.id) {
            log::warn!("removing the mark of log segment {} failed: {e}", seg.id.0);
        }
    }
}
