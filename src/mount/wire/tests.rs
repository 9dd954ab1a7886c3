use super::*;
use crate::backing::BackingSpace;
use crate::fs::{Located, OpenHow, SetAttrRequest, When};
use crate::mount::answer::*;
use crate::mount::ops::{Caller, CopyRange, WriteAt};
use crate::types::{Attr, InodeId, Kind, Stamp};

const NODE: u64 = 5;

fn header(bytes: usize, opcode: u32) -> Vec<u8> {
    let mut h = Vec::new();
    for n in [bytes as u32, opcode] {
        h.extend(n.to_ne_bytes());
    }
    for n in [77u64, NODE] {
        h.extend(n.to_ne_bytes());
    }
    for n in [1000u32, 1001, 4242, 0] {
        h.extend(n.to_ne_bytes());
    }
    h.resize(128, 0xee);
    h
}

/// The text of a decoded request, whose fixed part may be followed by what an earlier request left.
fn call(opcode: u32, op: &[u8], payload: &[u8]) -> String {
    let mut area = op.to_vec();
    area.resize(128, 0xee);
    let h = header(IN_HEADER_BYTES + op.len() + payload.len(), opcode);
    let r = decode(&h, &area, payload);
    // Nothing shorter may be taken for whole, and nothing may panic.
    for n in 0..op.len() {
        let h = header(IN_HEADER_BYTES + n + payload.len(), opcode);
        let _ = decode(&h, &area, payload);
    }
    match r {
        Ok(r) => {
            assert_eq!(r.header.node, InodeId(NODE));
            assert_eq!(r.header.unique, 77);
            assert_eq!(r.header.by, Caller { uid: 1000, gid: 1001, tid: 4242 });
            format!("{:?}", r.call)
        }
        Err(Malformed) => "malformed".into(),
    }
}

fn fields(of: &[(u64, usize)]) -> Vec<u8> {
    of.iter().flat_map(|(n, bytes)| n.to_ne_bytes()[..*bytes].to_vec()).collect()
}

fn said(c: Call<'_>) -> String {
    format!("{c:?}")
}

#[test]
fn names_and_numbers_are_read() {
    assert_eq!(call(1, &[], b"a\0"), said(Call::Lookup { name: b"a" }));
    assert_eq!(call(1, &[], b"a"), "malformed");
    assert_eq!(call(1, &[], b""), "malformed");
    assert_eq!(call(3, &[0; 16], b""), said(Call::Getattr));
    assert_eq!(call(6, &[], b"n\0to\0"), said(Call::Symlink { name: b"n", target: b"to" }));
    assert_eq!(call(6, &[], b"n\0to"), "malformed");
    let mknod = fields(&[(0o20666, 4), (7, 4), (0o22, 4), (0, 4)]);
    assert_eq!(
        call(8, &mknod, b"n\0"),
        said(Call::Mknod { name: b"n", mode: 0o20666, umask: 0o22, rdev: 7 })
    );
    let mkdir = fields(&[(0o755, 4), (0o22, 4)]);
    assert_eq!(call(9, &mkdir, b"n\0"), said(Call::Mkdir { name: b"n", mode: 0o755, umask: 0o22 }));
    assert_eq!(call(9, &mkdir[..4], b"n\0"), "malformed");
    assert_eq!(call(10, &[], b"n\0"), said(Call::Remove { name: b"n", dir: false }));
    assert_eq!(call(11, &[], b"n\0"), said(Call::Remove { name: b"n", dir: true }));
    let to = InodeId(9);
    let flags = 0;
    assert_eq!(
        call(12, &fields(&[(9, 8)]), b"a\0b\0"),
        said(Call::Rename { name: b"a", to, to_name: b"b", flags })
    );
    let rename2 = fields(&[(9, 8), (2, 4), (0, 4)]);
    assert_eq!(call(45, &rename2, b"a\0b\0"), said(Call::Rename { name: b"a", to, to_name: b"b", flags: 2 }));
    assert_eq!(call(13, &fields(&[(9, 8)]), b"n\0"), said(Call::Link { ino: to, name: b"n" }));
    assert_eq!(call(14, &fields(&[(2, 4), (0, 4)]), b""), said(Call::Open { flags: 2 }));
    let create = fields(&[(2, 4), (0o100644, 4), (0o22, 4), (0, 4)]);
    assert_eq!(
        call(35, &create, b"n\0"),
        said(Call::Create { name: b"n", mode: 0o100644, umask: 0o22, flags: 2 })
    );
}

#[test]
fn reads_and_writes_are_read() {
    let read = |off: u64| fields(&[(3, 8), (off, 8), (4096, 4), (0, 4), (0, 8), (0, 4), (0, 4)]);
    assert_eq!(call(15, &read(8192), b""), said(Call::Read { offset: 8192, size: 4096 }));
    assert_eq!(call(15, &read(1 << 63), b""), "malformed");
    assert_eq!(call(28, &read(1 << 63), b""), said(Call::Readdir { offset: 1 << 63, size: 4096 }));
    assert_eq!(call(44, &read(7), b""), said(Call::Readdirplus { offset: 7, size: 4096 }));
    let write = |n: u64, flags: u64| fields(&[(3, 8), (512, 8), (n, 4), (flags, 4), (0, 8), (1, 4), (0, 4)]);
    let at = WriteAt { fh: 3, offset: 512, cached: false, kill: true };
    assert_eq!(call(16, &write(5, 4), b"hello"), said(Call::Write(at)));
    let at = WriteAt { cached: true, kill: false, ..at };
    assert_eq!(call(16, &write(5, 3), b"hello"), said(Call::Write(at)));
    assert_eq!(call(16, &write(6, 0), b"hello"), "malformed");
    assert_eq!(call(16, &write(4, 0), b"hello"), "malformed");
    assert_eq!(call(16, &write(5, 0)[..39], b"hello"), said(Call::Write(WriteAt { cached: false, ..at })));
    assert_eq!(call(16, &write(5, 0)[..20], b"hello"), "malformed");
    assert_eq!(call(18, &fields(&[(3, 8), (0, 8), (0, 8)]), b""), said(Call::Release { fh: 3 }));
    assert_eq!(call(20, &[0; 16], b""), said(Call::Fsync));
    assert_eq!(call(30, &[0; 16], b""), said(Call::Fsync));
    assert_eq!(call(50, &[0; 8], b""), said(Call::Syncfs));
    assert_eq!(call(38, &[], b""), said(Call::Destroy));
    let lseek = fields(&[(3, 8), (u64::MAX, 8), (4, 4), (0, 4)]);
    assert_eq!(call(46, &lseek, b""), said(Call::Lseek { offset: -1, whence: 4 }));
    let fallocate = fields(&[(3, 8), (10, 8), (20, 8), (3, 4), (0, 4)]);
    assert_eq!(call(43, &fallocate, b""), said(Call::Fallocate { offset: 10, len: 20, mode: 3 }));
    let copy = fields(&[(1, 8), (10, 8), (9, 8), (2, 8), (20, 8), (30, 8), (0, 8)]);
    let range = CopyRange { from: (InodeId(NODE), 10), to: (InodeId(9), 20), len: 30 };
    assert_eq!(call(47, &copy, b""), said(Call::CopyRange(range)));
}

#[test]
fn attributes_are_read() {
    let setxattr = fields(&[(3, 4), (1, 4)]);
    assert_eq!(
        call(21, &setxattr, b"user.a\0xyz"),
        said(Call::Setxattr { name: b"user.a", value: b"xyz", flags: 1 })
    );
    assert_eq!(call(21, &setxattr, b"user.a\0xy"), "malformed");
    let sized = fields(&[(64, 4), (0, 4)]);
    assert_eq!(call(22, &sized, b"user.a\0"), said(Call::Getxattr { name: b"user.a", size: 64 }));
    assert_eq!(call(23, &sized, b""), said(Call::Listxattr { size: 64 }));
    assert_eq!(call(24, &[], b"user.a\0"), said(Call::Removexattr { name: b"user.a" }));
    let mut all = fields(&[(0, 4), (0, 4), (3, 8), (4096, 8), (0, 8)]);
    for secs in [-2i64, 20, 30] {
        all.extend(secs.to_ne_bytes());
    }
    for n in [1u32, 2, 3, 0o4755, 0, 1000, 1001, 0] {
        all.extend(n.to_ne_bytes());
    }
    assert_eq!(all.len(), 88);
    assert_eq!(call(4, &all, b""), said(Call::Setattr(SetAttrRequest::default())));
    all[..4].copy_from_slice(&0x43fu32.to_ne_bytes());
    let at = |secs, nanos| Stamp { secs, nanos };
    let want = SetAttrRequest {
        mode: Some(0o4755),
        uid: Some(1000),
        gid: Some(1001),
        size: Some(4096),
        atime: Some(When::At(at(-2, 1))),
        mtime: Some(When::At(at(20, 2))),
        ctime: Some(at(30, 3)),
    };
    assert_eq!(call(4, &all, b""), said(Call::Setattr(want)));
    all[..4].copy_from_slice(&0x1b0u32.to_ne_bytes());
    let now = SetAttrRequest { atime: Some(When::Now), mtime: Some(When::Now), ..SetAttrRequest::default() };
    assert_eq!(call(4, &all, b""), said(Call::Setattr(now)));
    assert_eq!(call(4, &all[..84], b""), "malformed");
}

#[test]
fn what_is_not_served_is_told_from_what_cannot_be_read() {
    for opcode in [0, 2, 26, 31, 34, 36, 37, 40, 51, 52, 53, 4096, u32::MAX] {
        assert_eq!(call(opcode, &[0; 40], b"x"), said(Call::Other), "{opcode}");
    }
    assert_eq!(call(39, &fields(&[(3, 8), (2, 4)]), b""), said(Call::Ioctl { unrestricted: true }));
    assert_eq!(call(1, &[0; 129], b"a\0"), "malformed");
    assert!(decode(&header(39, 1), &[0; 128], b"").is_err());
    assert!(decode(&header(41, 1), &[0; 128], b"a\0").is_err());
    assert!(decode(&header(42, 1)[..39], &[0; 128], b"a\0").is_err());
    assert!(decode(&[], &[], b"").is_err());
}

fn located() -> Located {
    let at = |secs, nanos| Stamp { secs, nanos };
    let attr = Attr {
        kind: Kind::Dir,
        mode: 0o2755,
        uid: 1,
        gid: 2,
        rdev: 3,
        nlink: 4,
        size: 5,
        blocks: 6,
        atime: at(-1, 7),
        mtime: at(8, 9),
        ctime: at(10, 11),
    };
    Located { ino: InodeId(9), attr }
}

fn encoded(e: &dyn Encode) -> Vec<u8> {
    let mut room = [0xee; 256];
    let mut out = Out::new(&mut room);
    e.encode(&mut out);
    let len = out.end().expect("it fits");
    room[..len].to_vec()
}

const ATTR: [u64; 11] =
    [9, 5, 6, u64::MAX, 8, 10, 7 | 9 << 32, 11 | 0o42755 << 32, 4 | 1 << 32, 2 | 3 << 32, 4096];

fn words(of: &[u64]) -> Vec<u8> {
    of.iter().flat_map(|n| n.to_le_bytes()).collect()
}

#[test]
#[cfg(target_endian = "little")]
fn answers_are_laid_out_as_the_kernel_reads_them() {
    let entry = [&words(&[9, 0, 86_400, 86_400, 0])[..], &words(&ATTR)].concat();
    assert_eq!(encoded(&Entry(Some(located()))), entry);
    assert_eq!(entry.len(), ENTRY_OUT_BYTES);
    let absent = encoded(&Entry(None));
    assert_eq!(absent[..40], words(&[0, 0, 86_400, 86_400, 0]));
    assert_eq!(absent[40..], [0; ATTR_BYTES]);
    assert_eq!(encoded(&Attributes(located())), [&words(&[86_400, 0])[..], &words(&ATTR)].concat());
    let opened = |writes| Opened { fh: 3, how: OpenHow { writes, sync: false }, keeps_pages: true };
    assert_eq!(encoded(&opened(true)), words(&[3, 2]));
    assert_eq!(encoded(&opened(false)), words(&[3, 2 | 32]));
    assert_eq!(encoded(&opened(true)).len(), OPEN_OUT_BYTES);
    assert_eq!(encoded(&Created(located(), opened(true))), [&entry[..], &words(&[3, 2])].concat());
    assert_eq!(encoded(&Written(4096)), words(&[4096]));
    assert_eq!(encoded(&Offset(1 << 40)), words(&[1 << 40]));
    assert_eq!(encoded(&Attribute::Length(7)), words(&[7]));
    assert_eq!(encoded(&Attribute::Value(b"abc".to_vec())), b"abc");
    assert_eq!(encoded(&Bytes(b"abc".to_vec().into())), b"abc");
    assert_eq!(encoded(&()), b"");
    let s = BackingSpace {
        blocks: 1,
        blocks_free: 2,
        blocks_available: 3,
        files: 4,
        files_free: 5,
        block_bytes: 512,
        name_bytes_max: 300,
    };
    let space = encoded(&Space(s));
    assert_eq!(space, words(&[1, 2, 3, 4, 5, 512 | 255 << 32, 512, 0, 0, 0]));
    assert_eq!(space.len(), KSTATFS_BYTES);
}

#[test]
fn an_answer_that_does_not_fit_says_so() {
    let mut room = [0; 127];
    let mut out = Out::new(&mut room);
    Entry(Some(located())).encode(&mut out);
    assert_eq!(out.end(), None);
    let mut room = [0; 2];
    let mut out = Out::new(&mut room);
    Bytes(vec![1; 3].into()).encode(&mut out);
    assert_eq!(out.end(), None);
}

#[test]
#[cfg(target_endian = "little")]
fn names_fill_an_answer_up_to_what_was_asked_for() {
    let mut room = [0xee; 256];
    let mut names = Names::new(&mut room, 0, 64);
    assert!(names.push(InodeId(7), 11, Kind::File, b"ab"));
    assert!(names.push(InodeId(8), 12, Kind::Dir, b"12345678"));
    assert!(!names.push(InodeId(8), 12, Kind::Dir, b""), "24 more do not fit into 64");
    assert_eq!(names.at(), 64);
    let want =
        [&words(&[7, 11, 2 | 8 << 32])[..], b"ab\0\0\0\0\0\0", &words(&[8, 12, 8 | 4 << 32]), b"12345678"]
            .concat();
    assert_eq!(room[..64], want);
    let mut names = Names::new(&mut room, 0, u32::MAX);
    assert!(names.push_plus(5, b"n", &located()));
    assert_eq!(names.at(), ENTRY_OUT_BYTES + DIRENT_BYTES + 8);
    assert!(!names.push_plus(5, b"n", &located()));
    let at = names.at();
    assert_eq!(room[..128], encoded(&Entry(Some(located()))));
    assert_eq!(room[128..at], [&words(&[9, 5, 1 | 4 << 32])[..], b"n\0\0\0\0\0\0\0"].concat());
    let mut more = Names::new(&mut room, at, u32::MAX);
    assert!(more.push(InodeId(1), 1, Kind::File, b"x"));
}
