use super::history::{History, Rec};
use super::*;
use crate::format::kept::Old;
use crate::format::mutation::{AttrSet, EntryKey, Mutation};
use crate::kept::read::{Kept, OldRange};
use crate::types::{Attr, ByteRange, InodeId, Kind, Stamp};
use std::collections::{HashMap, HashSet};

fn key(parent: u64, name: &str) -> EntryKey {
    EntryKey { parent: InodeId(parent), name: name.as_bytes().into() }
}

fn attr(kind: Kind, size: u64, mode: u32) -> Attr {
    let t = Stamp { secs: 5, nanos: 0 };
    Attr { kind, mode, uid: 0, gid: 0, rdev: 0, nlink: 1, size, blocks: 0, atime: t, mtime: t, ctime: t }
}

/// A history in which each record comes a second after the one before; the first has number 1 and comes at second 1.
fn history(changes: Vec<(Mutation, u32)>) -> History {
    let recs = changes.into_iter().enumerate().map(|(n, (change, len))| {
        let lsn = n as u64 + 1;
        Rec {
            lsn,
            wall_ns: lsn as i64 * 1_000_000_000,
            pid: 7,
            start: 1,
            change,
            data: Vec::new(),
            content: DataAt::of(len),
        }
    });
    History::of(recs.collect(), Vec::new())
}

fn write(ino: u64, offset: u64, len: u32) -> (Mutation, u32) {
    (Mutation::Write { ino: InodeId(ino), offset, clear_suid: false }, len)
}

fn resize(ino: u64, size: u64) -> (Mutation, u32) {
    (Mutation::SetAttr { ino: InodeId(ino), set: AttrSet { size: Some(size), ..AttrSet::default() } }, 0)
}

fn at(h: &History, second: f64) -> Past<'_> {
    Past::new(h, (second * 1e9) as i64).unwrap()
}

fn image(data: u64, size: u64, ranges: &[(u64, u64)]) -> Image {
    let old = Old {
        ino: 9,
        data,
        meta: data,
        wall_ns: 0,
        since_ns: 0,
        attr: attr(Kind::File, size, 0o640),
        target: Vec::new(),
        xattrs: Vec::new(),
    };
    let ranges = ranges
        .iter()
        .map(|&(offset, len)| OldRange { offset, len, data: Some((offset + 1000, 1)) })
        .collect();
    Image { file: format!("{data}.old"), kept: Kept::Old { old: Box::new(old), ranges } }
}

/// Each byte as a letter: `.` zero, `n` as it is now, `1`... the record, `A` the first old content and so on.
fn shown(h: &History, c: &Content) -> String {
    let Content::Pieces { size, pieces } = c else { return "same".into() };
    let mut out = vec!['?'; *size as usize];
    for Piece { range: ByteRange { start, end }, source } in pieces {
        let letter = match source {
            Source::Zero => '.',
            Source::Now => 'n',
            Source::Record { data, .. } => {
                let n = h.recs.iter().position(|r| r.content == *data).unwrap();
                (b'1' + n as u8) as char
            }
            Source::Old { file, at, skip, .. } => {
                assert_eq!(at + skip, start + 1000);
                (b'A' + h.images.iter().position(|i| i.file == *file).unwrap() as u8) as char
            }
        };
        out[*start as usize..*end as usize].fill(letter);
    }
    out.into_iter().collect()
}

#[test]
fn names_are_found_backwards() {
    let h = history(vec![
        (Mutation::Create { at: key(1, "a"), ino: InodeId(10), attr: attr(Kind::File, 0, 0o644) }, 0),
        (
            Mutation::Rename {
                from: key(1, "a"),
                to: key(1, "b"),
                ino: InodeId(10),
                replaced: Some(InodeId(11)),
            },
            0,
        ),
        (Mutation::Unlink { at: key(1, "b"), ino: InodeId(10) }, 0),
        (Mutation::Exchange { a: key(1, "c"), b: key(2, "d"), ino_a: InodeId(12), ino_b: InodeId(13) }, 0),
    ]);
    let name = |second: f64, dir: u64, n: &str| at(&h, second).name(InodeId(dir), n.as_bytes());
    assert_eq!([name(0.5, 1, "a"), name(0.5, 1, "b")], [Some(None), Some(Some(InodeId(11)))]);
    assert_eq!([name(1.5, 1, "a"), name(1.5, 1, "b")], [Some(Some(InodeId(10))), Some(Some(InodeId(11)))]);
    assert_eq!([name(2.5, 1, "a"), name(2.5, 1, "b")], [None, Some(Some(InodeId(10)))]);
    assert_eq!([name(3.5, 1, "c"), name(3.5, 2, "d")], [Some(Some(InodeId(12))), Some(Some(InodeId(13)))]);
    assert_eq!(name(4.5, 1, "c"), None);
    let p = at(&h, 0.5);
    assert_eq!(p.moved(InodeId(12)), Some(Some(&key(2, "d"))));
    assert_eq!(p.moved(InodeId(10)), Some(None));
    assert_eq!(p.moved(InodeId(99)), None);
}

#[test]
fn contents_of_a_file_that_was_made_within_the_history() {
    let h = history(vec![
        (Mutation::Create { at: key(1, "a"), ino: InodeId(9), attr: attr(Kind::File, 0, 0o644) }, 0),
        write(9, 2, 4),
        write(9, 4, 4),
        resize(9, 5),
        resize(9, 7),
        (Mutation::Zero { ino: InodeId(9), offset: 0, len: 3, size: 0 }, 0),
        (Mutation::Unlink { at: key(1, "a"), ino: InodeId(9) }, 0),
    ]);
    let content = |second: f64| shown(&h, &at(&h, second).content(InodeId(9), false).unwrap());
    for (second, want) in
        [(1.5, ""), (2.5, "..2222"), (3.5, "..223333"), (4.5, "..223"), (5.5, "..223.."), (6.5, "...23..")]
    {
        assert_eq!(content(second), want, "{second}");
    }
    let a = at(&h, 3.5).attr(InodeId(9), None).unwrap();
    assert_eq!((a.size, a.mode, a.mtime.secs), (8, 0o644, 3));
}

#[test]
fn contents_of_an_older_file_need_old_contents() {
    let mut h = history(vec![write(9, 0, 2), write(9, 4, 2), resize(9, 3), write(9, 8, 2)]);
    // Nothing kept: nothing is made up.
    at(&h, 0.5).content(InodeId(9), true).unwrap_err();
    // Stored after the second record, and after the fourth.
    h.images = vec![image(2, 8, &[(0, 2), (4, 2)]), image(4, 8, &[(3, 5)])];
    let content = |h: &History, second: f64| at(h, second).content(InodeId(9), true).map(|c| shown(h, &c));
    assert_eq!(content(&h, 0.5).unwrap(), "AAnBAABB");
    assert_eq!(content(&h, 1.5).unwrap(), "11nBAABB");
    // The base is now what was before the second store; records that it has already change nothing in it.
    assert_eq!(content(&h, 2.5).unwrap(), "11nB22BB");
    assert_eq!(content(&h, 3.5).unwrap(), "11n");
    assert_eq!(content(&h, 4.5).unwrap(), "same");
    let a = at(&h, 0.5).attr(InodeId(9), None).unwrap();
    assert_eq!((a.size, a.mode, a.mtime.secs), (8, 0o640, 5));
    // Where one could not be kept in between, it may have been any of the bytes.
    h.images[1].kept = Kept::Lost { ino: 9, data: 4, meta: 4, wall_ns: 0, why: "too large".into() };
    assert!(content(&h, 0.5).unwrap_err().contains("too large"));
    // Changes from before the history may be missing.
    h.images = vec![image(2, 8, &[(0, 2), (4, 2)])];
    h.floor_ns = 400_000_000;
    content(&h, 0.5).unwrap_err();
    assert!(Past::new(&h, 1).is_err());
}

#[test]
fn gaps_end_the_window() {
    let made = || history(vec![write(9, 0, 1), write(9, 0, 1), write(9, 0, 1), write(9, 0, 1)]);
    let floor = |gone: &[u64], explained: u64, upto: u64| {
        let mut h = made();
        h.recs.retain(|r| !gone.contains(&r.lsn));
        h.look_for_gaps(explained, upto, 99_000_000_000);
        h.floor_ns / 1_000_000_000
    };
    assert_eq!(floor(&[], 0, 4), 0);
    assert_eq!(floor(&[2], 0, 4), 3);
    assert_eq!(floor(&[1, 2], 2, 4), 0, "explained");
    assert_eq!(floor(&[1, 3], 2, 4), 4);
    assert_eq!(floor(&[4], 0, 4), 99);
    assert_eq!(floor(&[1, 2, 3, 4], 4, 4), 0, "all expired, nothing changed since");
}

#[test]
fn versions_group_writes_and_follow_renames() {
    let mut h = history(vec![
        (Mutation::Create { at: key(1, "a"), ino: InodeId(9), attr: attr(Kind::File, 0, 0o644) }, 0),
        write(9, 0, 10),
        write(9, 10, 10),
        (Mutation::Rename { from: key(1, "a"), to: key(1, "b"), ino: InodeId(9), replaced: None }, 0),
        write(9, 0, 10),
    ]);
    h.recs[4].wall_ns += 10_000_000_000;
    let of = candidates(&h, &HashSet::from([InodeId(1)]), b"a");
    assert_eq!(of, HashSet::from([InodeId(9)]));
    let v = versions(&h, &of, &HashMap::new());
    let told: Vec<_> = v.iter().map(|v| (v.what, v.size, v.bytes, &v.name[..])).collect();
    assert_eq!(
        told,
        [
            (What::Written, Some(20), 10, &b"b"[..]),
            (What::Renamed, Some(20), 0, &b"b"[..]),
            (What::Written, Some(20), 20, &b"a"[..]),
            (What::Created, Some(0), 0, &b"a"[..]),
        ]
    );
    assert_eq!(v[1].from.as_deref(), Some(&b"a"[..]));
}
