//! What the writeback is moving in the backing, and moved of late. A look at the backing takes as long as the store does,
//! and nobody waits for another's: it takes a ticket before, and what it learned is believed only if no name on
//! its way was moved since. A move makes only those wait who ask for what it moves.

use crate::format::mutation::EntryKey;
use crate::namespace::Places;
use crate::sys::clock;
use crate::types::{InodeId, Name};
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// Moves that are remembered; who began to look before the oldest of them looks again.
const REMEMBERED: usize = 16 << 10;

/// When a look at the backing began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

struct Move {
    /// Its number among the moves' beginnings and ends: of its beginning while it goes on.
    at: u64,
    keys: Vec<EntryKey>,
    /// Somebody waited for its end in vain.
    hangs: bool,
}

#[derive(Default)]
struct State {
    last: u64,
    under_way: Vec<Move>,
    ended: VecDeque<Move>,
    /// The latest end that is not remembered any more.
    forgotten: u64,
}

/// See the module. Its lock is a leaf, taken after that of the places.
#[derive(Default)]
pub struct Moves {
    state: Mutex<State>,
    end: Condvar,
}

/// A move that goes on as long as this is held.
pub struct Moving<'a> {
    moves: &'a Moves,
    at: u64,
}

impl State {
    fn since(&self, ticket: Ticket) -> impl Iterator<Item = &Move> {
        let ended = self.ended.iter().rev().take_while(move |m| m.at > ticket.0);
        self.under_way.iter().chain(ended)
    }

    /// Whether the way to `key` is what it was, as far as is remembered. Not if its directory left memory.
    fn is_untouched(&self, ticket: Ticket, places: &Places, key: &EntryKey) -> bool {
        let Some(way) = places.way(key) else { return false };
        self.forgotten <= ticket.0 && !self.since(ticket).any(|m| is_on(m, &way))
    }
}

/// A name that nothing has, in a directory: on its way is what is on the way of all names there.
pub fn inside(dir: InodeId) -> EntryKey {
    EntryKey { parent: dir, name: b""[..].into() }
}

fn is_on(m: &Move, way: &[&EntryKey]) -> bool {
    m.keys.iter().any(|k| way.contains(&k))
}

impl Moves {
    /// Something is about to be done to what stands under these names of the backing. To be held until the places say it too.
    pub fn begin(&self, keys: &[&EntryKey]) -> Moving<'_> {
        let mut s = self.state.lock();
        s.last += 1;
        let at = s.last;
        s.under_way.push(Move { at, keys: keys.iter().map(|k| (*k).clone()).collect(), hangs: false });
        Moving { moves: self, at }
    }

    /// Whether something is being moved now.
    pub fn any(&self) -> bool {
        !self.state.lock().under_way.is_empty()
    }

    /// A ticket for a look at `key`, once nothing on its way is being moved. Waits for that `most`, or a `moment` where
    /// someone did so in vain. `None`: it is being moved still.
    pub fn ticket(
        &self,
        places: &RwLock<Places>,
        key: &EntryKey,
        most: Duration,
        moment: Duration,
    ) -> Option<Ticket> {
        let began = clock::boot_ns();
        loop {
            let held = places.read();
            let mut s = self.state.lock();
            let last = s.last;
            let way = held.way(key).unwrap_or_default();
            let Some(m) = s.under_way.iter_mut().find(|m| is_on(m, &way)) else {
                return Some(Ticket(last));
            };
            drop(way);
            drop(held);
            let waited = Duration::from_nanos(clock::boot_ns().saturating_sub(began));
            let left = if m.hangs { most.min(moment) } else { most }.saturating_sub(waited);
            if left.is_zero() {
                m.hangs |= waited >= most && most > moment;
                return None;
            }
            self.end.wait_for(&mut s, left);
        }
    }

    /// Whether what was learned of `key` since `ticket` holds. To be asked under the lock by which that is taken in.
    pub fn holds(&self, ticket: Ticket, places: &Places, key: &EntryKey) -> bool {
        self.state.lock().is_untouched(ticket, places, key)
    }

    /// The names in a directory that were moved since `ticket`, or are: what a listing says of them is not to be believed.
    /// `None`: nor is the rest of it, since the directory was.
    pub fn below(&self, ticket: Ticket, places: &Places, dir: InodeId) -> Option<HashSet<Name>> {
        let s = self.state.lock();
        if !s.is_untouched(ticket, places, &inside(dir)) {
            return None;
        }
        let here = |k: &&EntryKey| k.parent == dir;
        Some(s.since(ticket).flat_map(|m| &m.keys).filter(here).map(|k| k.name.clone()).collect())
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        let mut s = self.moves.state.lock();
        s.last += 1;
        let last = s.last;
        if let Some(i) = s.under_way.iter().position(|m| m.at == self.at) {
            let m = s.under_way.swap_remove(i);
            s.ended.push_back(Move { at: last, ..m });
        }
        if s.ended.len() > REMEMBERED
            && let Some(oldest) = s.ended.pop_front()
        {
            s.forgotten = oldest.at;
        }
        drop(s);
        self.moves.end.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::BackingId;

    const MOMENT: Duration = Duration::from_millis(1);

    fn key(parent: u64, name: &str) -> EntryKey {
        EntryKey { parent: InodeId(parent), name: name.as_bytes().into() }
    }

    /// A directory `a` (10) with a directory `b` (11) in it, and a directory `c` (12).
    fn places() -> RwLock<Places> {
        let mut p = Places::new(BackingId(2));
        p.set(InodeId(10), BackingId(10), &key(1, "a"));
        p.set(InodeId(11), BackingId(11), &key(10, "b"));
        p.set(InodeId(12), BackingId(12), &key(1, "c"));
        RwLock::new(p)
    }

    fn ticket(m: &Moves, p: &RwLock<Places>, key: &EntryKey) -> Option<Ticket> {
        m.ticket(p, key, MOMENT, MOMENT)
    }

    #[test]
    fn only_who_asks_for_what_is_moved_waits() {
        let (m, p) = (Moves::default(), places());
        let moving = m.begin(&[&key(1, "a"), &key(12, "a")]);
        for moved in [key(1, "a"), key(10, "x"), key(11, "x"), key(12, "a"), inside(InodeId(11))] {
            assert_eq!(ticket(&m, &p, &moved), None, "{moved:?}");
        }
        for other in [key(1, "x"), key(12, "x"), inside(InodeId(12)), inside(InodeId::ROOT)] {
            assert!(ticket(&m, &p, &other).is_some(), "{other:?}");
        }
        drop(moving);
        assert!(ticket(&m, &p, &key(11, "x")).is_some());
    }

    #[test]
    fn what_was_learned_while_something_on_its_way_was_moved_does_not_hold() {
        let (m, p) = (Moves::default(), places());
        let deep = key(11, "x");
        let asked = ticket(&m, &p, &deep).unwrap();
        drop(m.begin(&[&key(12, "x"), &key(1, "x"), &key(11, "y")]));
        assert!(m.holds(asked, &p.read(), &deep));
        let moving = m.begin(&[&key(1, "a"), &key(12, "d")]);
        assert!(!m.holds(asked, &p.read(), &deep), "while it is moved");
        {
            let mut p = p.write();
            p.set(InodeId(10), BackingId(10), &key(12, "d"));
            p.unset(&key(1, "a"));
        }
        assert!(!m.holds(asked, &p.read(), &deep), "it stands elsewhere by now");
        drop(moving);
        assert!(!m.holds(asked, &p.read(), &deep), "after it");
        let anew = ticket(&m, &p, &deep).unwrap();
        assert!(m.holds(anew, &p.read(), &deep));
    }

    #[test]
    fn a_listing_is_not_believed_in_names_that_were_moved_meanwhile() {
        let (m, p) = (Moves::default(), places());
        let (in_a, in_c) = (inside(InodeId(10)), inside(InodeId(12)));
        let (asked, other) = (ticket(&m, &p, &in_a).unwrap(), ticket(&m, &p, &in_c).unwrap());
        drop(m.begin(&[&key(10, "gone")]));
        let _moving = m.begin(&[&key(10, "from"), &key(1, "to")]);
        let names = |ticket, dir| m.below(ticket, &p.read(), InodeId(dir));
        let of = |names: [&str; 2]| Some(names.map(|n| n.as_bytes().into()).into());
        assert_eq!(names(asked, 10), of(["gone", "from"]));
        assert_eq!(names(other, 12), Some(HashSet::new()));
        let _itself = m.begin(&[&key(1, "a")]);
        assert_eq!(names(asked, 10), None);
        p.write().unset(&key(1, "c"));
        assert_eq!(names(other, 12), None, "it left memory");
    }

    #[test]
    fn who_began_to_look_before_all_that_is_remembered_looks_again() {
        let (m, p) = (Moves::default(), places());
        let asked = ticket(&m, &p, &key(1, "x")).unwrap();
        for _ in 0..REMEMBERED {
            drop(m.begin(&[&key(12, "y")]));
        }
        assert!(m.holds(asked, &p.read(), &key(1, "x")));
        drop(m.begin(&[&key(12, "y")]));
        assert!(!m.holds(asked, &p.read(), &key(1, "x")));
    }

    #[test]
    fn one_waits_for_all_until_a_move_that_hangs_ends() {
        let (m, p) = (Moves::default(), places());
        let hour = Duration::from_secs(3600);
        let moving = m.begin(&[&key(1, "a")]);
        assert_eq!(m.ticket(&p, &key(1, "a"), Duration::from_millis(20), MOMENT), None);
        // It would take an hour.
        assert_eq!(m.ticket(&p, &key(10, "x"), hour, MOMENT), None);
        std::thread::scope(|s| {
            let waits = s.spawn(|| {
                let _other = m.begin(&[&key(12, "y")]);
                m.ticket(&p, &key(12, "x"), hour, MOMENT)
            });
            assert!(waits.join().unwrap().is_some());
        });
        drop(moving);
        let _next = m.begin(&[&key(12, "y")]);
        assert!(m.ticket(&p, &key(1, "a"), hour, MOMENT).is_some());
    }
}
