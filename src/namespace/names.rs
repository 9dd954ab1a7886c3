//! The names of one object: one as a rule, tens of thousands at times. Kept in order of arrival while
//! they are few; with an index by name when they are many, so that none of them is searched for.

use crate::format::mutation::EntryKey;
use smallvec::SmallVec;
use std::collections::HashMap;

/// More than these are indexed.
const FEW: usize = 32;

/// A set of names; see the module.
#[derive(Clone, Debug, Default)]
pub struct Names {
    list: SmallVec<[EntryKey; 1]>,
    /// Where each stands in `list`, if there are many.
    #[expect(clippy::box_collection, reason = "one word in each of the many objects that have one name")]
    index: Option<Box<HashMap<EntryKey, u32>>>,
}

impl Names {
    /// True if the name is among them.
    pub fn contains(&self, key: &EntryKey) -> bool {
        match &self.index {
            Some(index) => index.contains_key(key),
            None => self.list.contains(key),
        }
    }

    /// Adds a name that is not among them yet.
    pub fn add(&mut self, key: &EntryKey) {
        if self.contains(key) {
            return;
        }
        self.list.push(key.clone());
        let at = (self.list.len() - 1) as u32;
        match &mut self.index {
            Some(index) => drop(index.insert(key.clone(), at)),
            None if self.list.len() > FEW => {
                let index = self.list.iter().cloned().zip(0..).collect();
                self.index = Some(Box::new(index));
            }
            None => {}
        }
    }

    /// Takes a name out. Of many the last takes its place.
    pub fn remove(&mut self, key: &EntryKey) {
        let Some(index) = &mut self.index else {
            self.list.retain(|k| k != key);
            return;
        };
        let Some(at) = index.remove(key) else { return };
        self.list.swap_remove(at as usize);
        if let Some(moved) = self.list.get(at as usize) {
            index.insert(moved.clone(), at);
        }
        if self.list.len() <= FEW / 2 {
            self.index = None;
            self.list.shrink_to_fit();
        }
    }
}

impl std::ops::Deref for Names {
    type Target = [EntryKey];
    fn deref(&self) -> &[EntryKey] {
        &self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;
    use crate::types::InodeId;

    #[test]
    fn it_is_a_set_at_every_size() {
        let mut dice = Dice::new(7);
        let (mut names, mut model) = (Names::default(), std::collections::BTreeSet::new());
        for step in 0..20_000u64 {
            let n = dice.below(if step / 4000 % 2 == 0 { 200 } else { 12 });
            let key = EntryKey { parent: InodeId(n % 3 + 1), name: n.to_string().as_bytes().into() };
            if dice.below(2) == 0 {
                names.add(&key);
                model.insert(n);
            } else {
                names.remove(&key);
                model.remove(&n);
            }
            assert_eq!(names.contains(&key), model.contains(&n));
            assert_eq!(names.len(), model.len());
        }
        let mut seen: Vec<_> = names.iter().map(|k| k.name.to_vec()).collect();
        let mut want: Vec<_> = model.iter().map(|n| n.to_string().into_bytes()).collect();
        seen.sort();
        want.sort();
        assert_eq!(seen, want);
    }
}
