//! Program names as small numbers. What is persisted is always the name.

use crate::types::ProgramId;
use dashmap::DashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Names kept; later ones are all called [`Programs::OTHER`].
pub const PROGRAMS_MAX: u32 = 4096;

/// The interner. Names are `/proc/PID/comm`, at most 15 bytes in practice.
pub struct Programs {
    ids: DashMap<Box<str>, ProgramId>,
    names: DashMap<ProgramId, Arc<str>>,
    next: AtomicU32,
    /// Programs and who started them, not yet told.
    parents: Mutex<Vec<(ProgramId, ProgramId)>>,
}

/// Most that wait to be told.
const PARENTS_MAX: usize = 1024;

impl Default for Programs {
    fn default() -> Self {
        Self::new()
    }
}

impl Programs {
    /// The name of whatever found no room, and of writers that could not be resolved.
    pub const OTHER: ProgramId = ProgramId(0);

    /// Holds `other` only.
    pub fn new() -> Self {
        let programs = Programs {
            ids: DashMap::new(),
            names: DashMap::new(),
            next: AtomicU32::new(1),
            parents: Mutex::default(),
        };
        programs.ids.insert("other".into(), Self::OTHER);
        programs.names.insert(Self::OTHER, "other".into());
        programs
    }

    /// The number of a name, made on first sight.
    pub fn intern(&self, name: &str) -> ProgramId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        if self.next.load(Ordering::Relaxed) >= PROGRAMS_MAX {
            return Self::OTHER;
        }
        *self.ids.entry(name.into()).or_insert_with(|| {
            let id = ProgramId(self.next.fetch_add(1, Ordering::Relaxed));
            self.names.insert(id, name.into());
            id
        })
    }

    /// The name of a number; `other` for one that was never given out.
    pub fn name(&self, id: ProgramId) -> Arc<str> {
        self.names.get(&id).map_or_else(|| Arc::from("other"), |n| n.clone())
    }

    /// `program` was started by `parent`.
    pub fn note_parent(&self, program: ProgramId, parent: ProgramId) {
        let mut parents = self.parents.lock();
        if parents.len() < PARENTS_MAX && !parents.contains(&(program, parent)) {
            parents.push((program, parent));
        }
    }

    /// Who started whom, as noted since the last call.
    pub fn take_parents(&self) -> Vec<(ProgramId, ProgramId)> {
        std::mem::take(&mut *self.parents.lock())
    }

    /// Names known.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Never: `other` is always there.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interns_once_and_is_bounded() {
        let p = Programs::new();
        let git = p.intern("git");
        assert_eq!(p.intern("git"), git);
        assert_eq!(&*p.name(git), "git");
        assert_eq!(&*p.name(ProgramId(77)), "other");
        (0..2 * PROGRAMS_MAX).for_each(|n| {
            p.intern(&n.to_string());
        });
        assert_eq!(p.len(), PROGRAMS_MAX as usize);
        assert_eq!(p.intern("one too many"), Programs::OTHER);
        assert_eq!(p.intern("git"), git);
    }
}
