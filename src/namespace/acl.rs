//! POSIX access lists, as `system.posix_acl_access` and `system.posix_acl_default` hold them: a header of four
//! bytes (version 2) and entries of eight (tag u16, permissions u16, id u32), little endian (the kernel's
//! `include/uapi/linux/posix_acl_xattr.h`). The rules are those of acl(5) and of the kernel's `fs/posix_acl.c`.

use crate::types::Name;

/// Who may do what to an object.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// What is made in a directory gets this.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;
const NOBODY: u32 = u32::MAX;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

impl Acl {
    /// `None` for what is no valid list: the entries in their order, each kind that must be there once, a mask
    /// where there are named users or groups.
    pub fn parse(bytes: &[u8]) -> Option<Acl> {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*head) != VERSION || rest.is_empty() || rest.len() % 8 != 0 {
            return None;
        }
        let entry = |b: &[u8]| {
            let (t, p) = (u16::from_le_bytes([b[0], b[1]]), u16::from_le_bytes([b[2], b[3]]));
            Entry { tag: t, perm: p, id: u32::from_le_bytes([b[4], b[5], b[6], b[7]]) }
        };
        let all: Vec<Entry> = rest.chunks_exact(8).map(entry).collect();
        let count = |tag| all.iter().filter(|e| e.tag == tag).count();
        let named = |e: &&Entry| e.tag == USER || e.tag == GROUP;
        let known = |e: &Entry| {
            matches!(e.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER)
                && e.perm & !7 == 0
                && !(named(&e) && e.id == NOBODY)
        };
        let valid = all.iter().all(known)
            && all.is_sorted_by_key(|e| e.tag)
            && [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|t| count(t) == 1)
            && count(MASK) <= 1
            && (count(MASK) == 1 || !all.iter().any(|e| named(&e)));
        valid.then_some(Acl(all))
    }

    /// As an attribute's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for e in &self.0 {
            let id = if matches!(e.tag, USER | GROUP) { e.id } else { NOBODY };
            out.extend(e.tag.to_le_bytes());
            out.extend(e.perm.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    fn at(&self, tag: u16) -> Option<&Entry> {
        self.0.iter().find(|e| e.tag == tag)
    }

    /// The entry that the group bits of a mode stand for.
    fn group_tag(&self) -> u16 {
        if self.at(MASK).is_some() { MASK } else { GROUP_OBJ }
    }

    /// Says no more than a mode does.
    pub fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The mode that goes with it; other bits as in `mode`.
    pub fn mode(&self, mode: u32) -> u32 {
        let perm = |tag| self.at(tag).map_or(0, |e| u32::from(e.perm));
        mode & !0o777 | perm(USER_OBJ) << 6 | perm(self.group_tag()) << 3 | perm(OTHER)
    }

    /// Brings it in line with a mode that was set.
    pub fn set_mode(&mut self, mode: u32) {
        let group = self.group_tag();
        for e in &mut self.0 {
            match e.tag {
                USER_OBJ => e.perm = (mode >> 6 & 7) as u16,
                OTHER => e.perm = (mode & 7) as u16,
                t if t == group => e.perm = (mode >> 3 & 7) as u16,
                _ => {}
            }
        }
    }

    /// The list of an object that is made with `mode` in a directory with this default list, and its mode.
    pub fn inherited(&self, mode: u32) -> (Acl, u32) {
        let mut acl = self.clone();
        let group = acl.group_tag();
        for e in &mut acl.0 {
            match e.tag {
                USER_OBJ => e.perm &= (mode >> 6 & 7) as u16,
                OTHER => e.perm &= (mode & 7) as u16,
                t if t == group => e.perm &= (mode >> 3 & 7) as u16,
                _ => {}
            }
        }
        let mode = acl.mode(mode);
        (acl, mode)
    }
}

/// The list of this name among the attributes.
pub fn find(set: &[(Name, Vec<u8>)], name: &[u8]) -> Option<Acl> {
    set.iter().find(|(n, _)| &**n == name).and_then(|(_, v)| Acl::parse(v))
}

/// Brings the access list among the attributes, if there is one, in line with `mode`. True if it changed.
pub fn follow(set: &mut [(Name, Vec<u8>)], mode: u32) -> bool {
    let Some((_, v)) = set.iter_mut().find(|(n, _)| &**n == ACCESS) else { return false };
    let Some(mut acl) = Acl::parse(v) else { return false };
    acl.set_mode(mode);
    let new = acl.encode();
    let changed = *v != new;
    *v = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect())
    }

    fn named() -> Acl {
        acl(&[
            (USER_OBJ, 7, NOBODY),
            (USER, 6, 5),
            (GROUP_OBJ, 4, NOBODY),
            (MASK, 6, NOBODY),
            (OTHER, 0, NOBODY),
        ])
    }

    #[test]
    fn the_mask_is_the_group_of_the_mode() {
        assert_eq!(named().mode(0o2000), 0o2760);
        let mut a = named();
        a.set_mode(0o640);
        assert_eq!((a.mode(0), a.at(GROUP_OBJ).unwrap().perm, a.at(MASK).unwrap().perm), (0o640, 4, 4));
        assert_eq!(named().inherited(0o666).1, 0o660);
        assert_eq!(named().inherited(0o600).1, 0o600);
    }

    #[test]
    fn only_valid_lists_are_taken() {
        let good = named().encode();
        assert_eq!(Acl::parse(&good), Some(named()));
        assert!(acl(&[(USER_OBJ, 7, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)]).is_minimal());
        for bad in [
            acl(&[(USER_OBJ, 7, NOBODY), (GROUP_OBJ, 4, NOBODY)]),
            acl(&[(USER_OBJ, 7, NOBODY), (USER, 6, 5), (GROUP_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)]),
            acl(&[(GROUP_OBJ, 7, NOBODY), (USER_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)]),
            acl(&[(USER_OBJ, 9, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)]),
            acl(&[(USER_OBJ, 7, 0), (USER_OBJ, 7, 0), (GROUP_OBJ, 4, 0), (OTHER, 0, 0)]),
        ] {
            assert_eq!(Acl::parse(&bad.encode()), None, "{bad:?}");
        }
        for n in 0..good.len() {
            assert_eq!(Acl::parse(&good[..n]), None);
        }
    }
}
