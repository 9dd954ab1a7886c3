//! What is remembered of listings: the names that readers are in the midst of, and the time of each listed directory
//! in the backing. The kernel keeps listings without asking; a directory that something else changed in the
//! backing has another time there, and the kernel is told to forget what it kept.

use super::readdir::Listing;
use super::{Fs, Told};
use crate::types::{InodeId, Stamp};
use crate::volume::{Cell, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

/// Listings kept for readers that go on in them; who finds none there makes a new one.
const KEPT: usize = 32;

/// Directories watched, and how many of them are looked at in one step: all of them in about a minute.
const WATCHED: usize = 16 << 10;
const AT_ONCE: usize = 64;

/// The backing's times are no finer than a tick of its clock: a directory that was changed so lately may
/// change again with the same time.
const TICK_NS: i64 = 50_000_000;

/// The latest listings, oldest first.
#[derive(Default)]
pub(super) struct Listings(Mutex<Vec<(InodeId, Arc<Listing>)>>);

impl Listings {
    pub fn get(&self, ino: InodeId) -> Option<Arc<Listing>> {
        self.0.lock().iter().find(|k| k.0 == ino).map(|k| k.1.clone())
    }

    pub fn keep(&self, ino: InodeId, l: Arc<Listing>) {
        let mut kept = self.0.lock();
        kept.retain(|k| k.0 != ino);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((ino, l));
    }
}

/// Times of listed directories in the backing; `None`: too young to be told from a later one.
#[derive(Default)]
struct Table {
    times: BTreeMap<InodeId, Option<Stamp>>,
    /// Last one looked at.
    at: Option<InodeId>,
    /// Those that there was no more room for.
    dropped: Vec<InodeId>,
}

#[derive(Default)]
pub(super) struct Watch(Mutex<Table>);

impl Fs {
    /// Notes the time of a directory in the backing, before its names are asked for.
    pub(super) fn watch(&self, dir: &Arc<Cell>) -> Result<()> {
        if !self.listings_may_be_kept() {
            return Ok(());
        }
        let time = self.time_in_backing(dir)?;
        let mut t = self.watch.0.lock();
        t.times.insert(dir.id, time);
        if t.times.len() > WATCHED
            && let Some((ino, _)) = t.times.pop_first()
        {
            t.dropped.push(ino);
        }
        Ok(())
    }

    fn time_in_backing(&self, dir: &Arc<Cell>) -> Result<Option<Stamp>> {
        let Some(stat) = self.volume.stat_in_backing(dir)? else { return Ok(None) };
        let young = Stamp::from_ns(self.volume.clock.wall_ns() - TICK_NS);
        let m = stat.attr.mtime;
        Ok(((m.secs, m.nanos) < (young.secs, young.nanos)).then_some(m))
    }

    /// Looks at the next directories, and has the kernel forget the listings of those that changed. Not on a thread
    /// that serves requests: the kernel waits for readers.
    pub fn look_for_changes(&self) {
        let (part, dropped) = {
            let mut t = self.watch.0.lock();
            let part: Vec<_> = t
                .times
                .range((t.at.map_or(Unbounded, Excluded), Unbounded))
                .take(AT_ONCE)
                .map(|(&i, &s)| (i, s))
                .collect();
            t.at = part.last().filter(|_| part.len() == AT_ONCE).map(|p| p.0);
            (part, std::mem::take(&mut t.dropped))
        };
        dropped.into_iter().for_each(|ino| self.tell(ino, Told::Listing));
        for (ino, time) in part {
            let now = match self.volume.cell(ino) {
                // The kernel has given it back, and its listing with it.
                None => {
                    self.watch.0.lock().times.remove(&ino);
                    continue;
                }
                Some(cell) => self.time_in_backing(&cell).unwrap_or(None),
            };
            if now.is_none() || now != time {
                self.watch.0.lock().times.remove(&ino);
                self.tell(ino, Told::Listing);
            }
        }
    }
}
