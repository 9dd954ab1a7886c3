use super::*;
use crate::format::kept::Old;
use crate::sys::clock;
use crate::types::{Attr, Kind, Stamp};

fn attr() -> Attr {
    let t = Stamp::default();
    Attr {
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        nlink: 1,
        size: 9,
        blocks: 0,
        atime: t,
        mtime: t,
        ctime: t,
    }
}

fn old(ino: u64) -> Old {
    Old {
        ino,
        data: 5,
        meta: 6,
        wall_ns: 1,
        since_ns: 0,
        attr: attr(),
        target: Vec::new(),
        xattrs: Vec::new(),
    }
}

fn store(dir: &Path, room: u64, boot: &str) -> Arc<Store> {
    let s = Store::open(dir, Duration::from_secs(60), room, clock::real(), boot).unwrap();
    s.begin(Lsn(3)).unwrap();
    s
}

fn images(dir: &Path) -> Vec<read::Kept> {
    let d = RealDisk::open(&dir.join(DIR)).unwrap();
    let names = d.list().unwrap().into_iter().filter(|f| parse_images(&f.0).is_some());
    names.flat_map(|f| read::read(&*d.open(&f.0).unwrap()).unwrap().all).collect()
}

#[test]
fn segments_leave_the_log_and_make_room_again() {
    let t = tempfile::tempdir().unwrap();
    let log = RealDisk::open(t.path()).unwrap();
    let s = store(t.path(), 10_000, "b");
    for n in 1..=3u32 {
        let name = format!("{n:08}.seg");
        log.create(&name, 1 << 20).unwrap();
        assert!(s.take(&log, &name, 7, 4096, Lsn(n as u64 * 10)));
        assert!(log.open(&name).is_err());
    }
    // Three times 4096 do not fit: the first is gone, and it is said from when on all is there.
    let f = s.figures();
    assert_eq!((f.segments, f.given_up), (2, 1));
    let (since, boot) = read_since(&t.path().join(DIR)).unwrap();
    assert_eq!((since.lsn, boot.as_str()), (10, "b"));
    assert!(since.wall_ns > 0);
    assert!(s.give_up(1) >= 4096);
    assert_eq!(parse_segment("00000003-0000000007-00000000000000000030.seg"), Some((3, 7, Lsn(30))));
    assert_eq!(parse_segment("00000003.seg"), None);
    drop(s);
    discard(t.path()).unwrap();
    assert!(!files::is_dir(&t.path().join(DIR)));
}

#[test]
fn old_contents_are_read_back_and_a_torn_one_is_not() {
    let t = tempfile::tempdir().unwrap();
    let s = store(t.path(), 1 << 20, "b");
    s.keep_old(old(7), &mut |sink| {
        sink(OldPiece::Bytes { offset: 0, bytes: b"hello" })?;
        sink(OldPiece::Hole { offset: 5, len: 4 })
    });
    s.keep_old(old(8), &mut |sink| {
        sink(OldPiece::Bytes { offset: 0, bytes: b"xx" })?;
        Err(io::Error::other("the backing is gone"))
    });
    let all = images(t.path());
    let read::Kept::Old { old, ranges } = &all[0] else { panic!("{all:?}") };
    assert_eq!((old.ino, ranges.len(), ranges[0].len, ranges[1].data), (7, 2, 5, None));
    assert!(matches!(&all[1], read::Kept::Lost { ino: 8, why, .. } if why.contains("gone")), "{all:?}");
    assert_eq!(all.len(), 2);
    // A death in the middle of the third, then another mount of the same boot.
    let name = images_name(1);
    let f = s.dir.open(&name).unwrap();
    let whole = read::read(&*f).unwrap().end;
    f.write_all_at(&[b"FLk1 torn"], whole).unwrap();
    drop(s);
    let s = store(t.path(), 1 << 20, "b");
    assert_eq!(images(t.path()).len(), 2);
    assert_eq!(files::size(&t.path().join(DIR).join(&name)).unwrap(), Some(whole));
    drop(s);
    // A power cut may have taken some of it: nothing counts.
    drop(store(t.path(), 1 << 20, "other boot"));
    assert!(images(t.path()).is_empty());
    // In good order it lasts.
    let s = store(t.path(), 1 << 20, "other boot");
    s.lost(9, 1, 1, "too large");
    s.close();
    drop(s);
    drop(store(t.path(), 1 << 20, "third boot"));
    assert_eq!(images(t.path()).len(), 1);
}
