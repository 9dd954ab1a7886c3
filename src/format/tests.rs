use super::checkpoint::{self, Checkpoint};
use super::frame::{self, Header, Place};
use super::mutation::{AttrSet, EntryKey, Mutation};
use super::segment::{SegmentHeader, UNTAGGED, VERSION};
use crate::types::*;

fn attr() -> Attr {
    Attr {
        kind: Kind::File,
        mode: 0o4755,
        uid: 1,
        gid: 2,
        rdev: 3,
        nlink: 4,
        size: 5,
        blocks: 6,
        atime: Stamp { secs: -7, nanos: 8 },
        mtime: Stamp { secs: 9, nanos: 999_999_999 },
        ctime: Stamp { secs: 1 << 40, nanos: 0 },
    }
}

fn key(name: &[u8]) -> EntryKey {
    EntryKey { parent: InodeId(77), name: name.into() }
}

fn all() -> Vec<Mutation> {
    let ino = InodeId(42);
    let id = BackingId(9);
    vec![
        Mutation::Adopt { ino, id, at: key(b"x\n"), attr: attr() },
        Mutation::Create { at: key(&[0xff; 255]), ino, attr: attr() },
        Mutation::Link { at: key(b"l"), ino },
        Mutation::Unlink { at: key(b"u"), ino },
        Mutation::Rmdir { at: key(b"d"), ino },
        Mutation::Whiteout {
            from: key(b"a"),
            to: key(b"b"),
            ino,
            replaced: None,
            white: InodeId(9),
            attr: attr(),
        },
        Mutation::Rename { from: key(b"a"), to: key(b"b"), ino, replaced: Some(InodeId(3)) },
        Mutation::Exchange { a: key(b"a"), b: key(b"b"), ino_a: ino, ino_b: InodeId(3) },
        Mutation::Write { ino, offset: 1 << 40, clear_suid: true },
        Mutation::SetAttr {
            ino,
            set: AttrSet {
                mode: Some(0o600),
                uid: None,
                gid: Some(0),
                size: Some(u64::MAX),
                atime: None,
                mtime: Some(Stamp { secs: 1, nanos: 2 }),
                ctime: Some(Stamp::default()),
            },
        },
        Mutation::Zero { ino, offset: 1, len: 2, size: 3 },
        Mutation::SetXattrs { ino },
        Mutation::Settled { ino },
        Mutation::Intent { ino, id, at: key(b"i") },
        Mutation::Stored { ino, data: Lsn(1), meta: Lsn(2), size: 3, seen: None },
        Mutation::Stored {
            ino,
            data: Lsn(1),
            meta: Lsn(2),
            size: 3,
            seen: Some(Stamp { secs: -4, nanos: 5 }),
        },
        Mutation::Updating { ino },
        Mutation::Placed { at: key(b"e"), as_of: Lsn(8), holds: Some((ino, id)) },
        Mutation::Closed,
    ]
}

#[test]
fn mutations_survive_the_round_trip_and_any_cut() {
    for m in all() {
        let mut v = Vec::new();
        m.encode(&mut v);
        assert_eq!(Mutation::decode(m.kind(), &v).as_ref(), Ok(&m));
        for n in 0..v.len() {
            assert!(Mutation::decode(m.kind(), &v[..n]).is_err(), "{m:?} cut at {n}");
        }
    }
    assert!(Mutation::decode(200, &[]).is_err());
}

#[test]
fn names_that_cannot_be_are_refused() {
    for bad in [&b"a/b"[..], b"a\0", &[1; 256]] {
        let mut v = Vec::new();
        Mutation::Link { at: key(bad), ino: InodeId(1) }.encode(&mut v);
        assert!(Mutation::decode(3, &v).is_err());
    }
}

const PLACE: Place = Place { version: VERSION, log: 11, segment: SegmentId(5), at: 8192 };

fn header() -> Header {
    Header {
        lsn: Lsn(0x0102030405060708),
        generation: 7,
        pid: 4321,
        start: 99,
        kind: 8,
        predecessors: 1,
        meta_bytes: 25,
        data_bytes: 3,
        data_crc: frame::data_crc(SegmentId(5), 7, b"abc"),
        durable: 4096,
        wall_ns: -1,
    }
}

#[test]
fn a_frame_is_read_back_and_every_flipped_bit_is_seen() {
    let meta = [9u8; 25];
    let head = header().encode(&PLACE, &meta);
    let mut bytes = head.to_vec();
    bytes.extend_from_slice(&meta);
    bytes.extend_from_slice(b"abc");
    bytes.resize(header().frame_bytes(), 0);
    assert_eq!(Header::decode(&PLACE, 7, &bytes), Ok(header()));
    assert!(Header::decode(&Place { segment: SegmentId(6), ..PLACE }, 7, &bytes).is_err(), "another segment");
    assert!(Header::decode(&Place { at: 8256, ..PLACE }, 7, &bytes).is_err(), "another place");
    assert!(Header::decode(&Place { log: 12, ..PLACE }, 7, &bytes).is_err(), "another log");
    assert!(Header::decode(&Place { version: UNTAGGED, ..PLACE }, 7, &bytes).is_err(), "another version");
    assert!(Header::decode(&PLACE, 8, &bytes).is_err(), "another generation");
    for bit in 0..(64 + 25) * 8 {
        let mut b = bytes.clone();
        b[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::decode(&PLACE, 7, &b).is_err(), "bit {bit}");
    }
    for n in 0..bytes.len() - 64 {
        assert!(Header::decode(&PLACE, 7, &bytes[..n]).is_err() || n >= 92, "cut {n}");
    }
}

/// The golden bytes of docs/FORMAT.md: if this fails, the format changed and needs a new version.
#[test]
fn golden_header_bytes() {
    let hex = |place: &Place| -> String {
        header().encode(place, &[9u8; 25]).iter().map(|b| format!("{b:02x}")).collect()
    };
    let (new, old) = (hex(&PLACE), hex(&Place { version: UNTAGGED, ..PLACE }));
    assert_eq!((&new[..8], &old[..8]), ("464c7232", "464c7231"));
    // An untagged one differs in its magic and its tag alone.
    assert_eq!((&new[8..112], &old[112..]), (&old[8..112], "0000000000000000"));
    assert_eq!(
        &new[16..],
        concat!(
            "080706050403020107000000e11000006300000000000000",
            "08011900030000009b5f752000100000ffffffffffffffff42820032fcfc4132"
        )
    );
    let s =
        SegmentHeader { id: SegmentId(1), generation: 2, size: 1 << 22, log: 3, version: VERSION }.encode();
    assert_eq!(&s[..24], b"FORELOGS\x03\0\0\0\x01\0\0\0\x02\0\0\0\0\0\x40\0");
}

#[test]
fn segment_headers_are_checked() {
    let h =
        SegmentHeader { id: SegmentId(3), generation: 9, size: 1 << 20, log: 1 << 100, version: UNTAGGED };
    let v = h.encode();
    assert_eq!(SegmentHeader::decode(&v), Ok(h));
    for bit in 0..v.len() * 8 {
        let mut b = v.clone();
        b[bit / 8] ^= 1 << (bit % 8);
        assert!(SegmentHeader::decode(&b).is_err());
    }
}

#[test]
fn checkpoints_are_checked_whole() {
    let c = Checkpoint { log: 5, lsn: 9, backing: "/b".into(), ..Default::default() };
    let v = checkpoint::encode(&c).expect("encodes");
    assert_eq!(checkpoint::decode(&v), Ok(c));
    for n in 0..v.len() {
        assert!(checkpoint::decode(&v[..n]).is_err());
        let mut b = v.clone();
        b[n] ^= 0x40;
        assert!(checkpoint::decode(&b).is_err(), "byte {n}");
    }
    let mut newer = v.clone();
    newer[8] = checkpoint::VERSION as u8 + 1;
    // Each version added a list at the end, which is empty here.
    for version in 2..checkpoint::VERSION {
        let missing = (checkpoint::VERSION - version) as usize;
        let mut older = v[..v.len() - missing].to_vec();
        older[8..12].copy_from_slice(&version.to_le_bytes());
        let (len, sum) = ((older.len() - 24) as u64, crate::format::checksum::crc(&older[24..]));
        older[16..24].copy_from_slice(&len.to_le_bytes());
        older[12..16].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(checkpoint::decode(&older), checkpoint::decode(&v));
    }
    let e = checkpoint::decode(&newer).expect_err("newer");
    assert!(e.to_string().contains("newer"));
}
