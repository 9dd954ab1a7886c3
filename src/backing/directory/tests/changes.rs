use super::*;
use crate::backing::{AttrChange, Update, staged_path};
use crate::types::Name;
use std::os::unix::fs::{MetadataExt, symlink};

fn update(b: &DirectoryBacking, path: &str, keep: u64, size: u64, pieces: &[(u64, &[u8])]) {
    let mut content = |sink: Sink<'_>| {
        pieces.iter().try_for_each(|(offset, bytes)| sink(Piece::Data { offset: *offset, bytes }))
    };
    b.update(&p(path), Update { keep, size, content: &mut content, then: &AttrChange::default() }).unwrap();
}

#[test]
fn updates_in_place() {
    let x = place();
    x.put("f", &file(0o444, 10), b"0123456789");
    let ino = std::fs::metadata(x.at("f")).unwrap().ino();
    update(&x.b, "f", 4, 8, &[(1, b"AB"), (6, b"Z")]);
    assert_eq!(std::fs::read(x.at("f")).unwrap(), b"0AB3\0\0Z\0");
    update(&x.b, "f", u64::MAX, 3, &[]);
    assert_eq!(std::fs::read(x.at("f")).unwrap(), b"0AB");
    let meta = std::fs::metadata(x.at("f")).unwrap();
    assert_eq!((meta.ino(), meta.mode() & 0o7777), (ino, 0o444));
    x.b.sync(&[p("f")], &[]).unwrap();
}

#[test]
fn zeros_are_punched_within_and_free_beyond() {
    let x = place();
    x.put("f", &file(0o600, 1 << 20), &[9; 1 << 20]);
    let before = x.b.stat(&p("f")).unwrap().attr.blocks;
    let mut content = |sink: Sink<'_>| {
        sink(Piece::Zero { offset: 100, len: 500_000 })?;
        sink(Piece::Zero { offset: (1 << 20) - 5, len: u64::MAX })
    };
    let up = Update { keep: u64::MAX, size: 4 << 20, content: &mut content, then: &AttrChange::default() };
    x.b.update(&p("f"), up).unwrap();
    let got = std::fs::read(x.at("f")).unwrap();
    assert_eq!(got.len(), 4 << 20);
    let nine = |i: usize| i < 100 || (500_100..(1 << 20) - 5).contains(&i);
    assert!(got.iter().enumerate().all(|(i, b)| (*b == 9) == nine(i)));
    assert!(x.b.stat(&p("f")).unwrap().attr.blocks < before);
}

#[test]
fn only_a_regular_file_is_updated() {
    let x = place();
    x.put("real", &file(0o600, 1), b"x");
    symlink("real", x.at("s")).unwrap();
    x.put("d", &object(Kind::Dir, 0o700, 0), b"");
    for (name, want) in [("s", libc::ELOOP), ("d", libc::EISDIR), ("none", libc::ENOENT)] {
        let up = Update { keep: 0, size: 0, content: &mut nothing, then: &AttrChange::default() };
        assert_eq!(errno(x.b.update(&p(name), up)), Some(want), "{name}");
    }
    assert_eq!(std::fs::read(x.at("real")).unwrap(), b"x");
}

#[test]
fn attributes_are_set_in_the_order_that_keeps_them() {
    let x = place();
    x.put("f", &file(0o4755, 1), b"x");
    let t = Stamp { secs: -3, nanos: 4 };
    let mut change = AttrChange { times: Some((t, t)), ..AttrChange::default() };
    change.xattrs = Some(vec![(Name::from(&b"user.a"[..]), b"1".to_vec())]);
    match errno(x.b.set_attr(&p("f"), Kind::File, &change)) {
        Some(libc::EOPNOTSUPP) => change.xattrs = None,
        other => assert_eq!(other, None),
    }
    if is_root() {
        change.owner = Some((100, 200));
    }
    if let Some(set) = &mut change.xattrs {
        *set = vec![(Name::from(&b"user.b"[..]), b"2".to_vec())];
    }
    x.b.set_attr(&p("f"), Kind::File, &change).unwrap();
    let st = x.b.stat(&p("f")).unwrap().attr;
    assert_eq!((st.mode, st.atime, st.mtime), (0o4755, t, t));
    assert!(!is_root() || (st.uid, st.gid) == (100, 200));
    let user = |(n, _): &(Name, Vec<u8>)| n.starts_with(b"user.");
    let now: Vec<_> = x.b.xattrs(&p("f")).unwrap().into_iter().filter(user).collect();
    assert_eq!(now, change.xattrs.unwrap_or_default());
    // A symlink's own; its mode is nobody's to set.
    symlink("f", x.at("s")).unwrap();
    let t2 = Stamp { secs: 9, nanos: 8 };
    let change = AttrChange { mode: Some(0o600), times: Some((t2, t2)), ..AttrChange::default() };
    x.b.set_attr(&p("s"), Kind::Symlink, &change).unwrap();
    assert_eq!(x.b.stat(&p("s")).unwrap().attr.mtime, t2);
    assert_eq!(x.b.stat(&p("f")).unwrap().attr.mode, 0o4755);
    // What is there now is not what was meant.
    assert_eq!(errno(x.b.set_attr(&p("s"), Kind::File, &change)), Some(libc::ESTALE));
}

#[test]
fn renames_and_removals() {
    let x = place();
    x.put("d", &object(Kind::Dir, 0o755, 0), b"");
    x.put("d/f", &file(0o600, 1), b"x");
    x.b.rename(&p("d"), &p("e")).unwrap();
    x.b.rename(&p("e/f"), &p("e/f")).unwrap();
    std::fs::hard_link(x.at("e/f"), x.at("g")).unwrap();
    // Two links of one object: the old name goes all the same.
    x.b.rename(&p("e/f"), &p("g")).unwrap();
    assert_eq!(x.names(""), BTreeSet::from([b"e".to_vec(), b"g".to_vec()]));
    assert!(x.names("e").is_empty());
    assert_eq!(errno(x.b.unlink(&p("e"))), Some(libc::EISDIR));
    assert_eq!(errno(x.b.rmdir(&p("g"))), Some(libc::ENOTDIR));
    x.b.rmdir(&p("e")).unwrap();
    x.b.unlink(&p("g")).unwrap();
    assert_eq!(errno(x.b.unlink(&p("g"))), Some(libc::ENOENT));
    assert_eq!(errno(x.b.rmdir(&p(""))), Some(libc::EBUSY));
}

#[test]
fn nothing_leads_out_of_the_root() {
    let x = place();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"s").unwrap();
    let before = std::fs::metadata(outside.path()).unwrap().permissions();
    symlink(outside.path(), x.at("out")).unwrap();
    symlink("/etc", x.at("etc")).unwrap();
    symlink(outside.path().join("secret"), x.at("secret")).unwrap();
    x.b.stage("n", &file(0o600, 1), &mut bytes(b"x")).unwrap();
    x.put("mine", &file(0o600, 1), b"x");
    let change = AttrChange { mode: Some(0o777), ..AttrChange::default() };
    for bad in ["out/secret", "etc/passwd", "out/new"] {
        let bad = p(bad);
        let up = Update { keep: 0, size: 0, content: &mut nothing, then: &AttrChange::default() };
        let results = [
            errno(x.b.stat(&bad)),
            errno(x.b.open(&bad)),
            errno(x.b.readlink(&bad)),
            errno(x.b.xattrs(&bad)),
            errno(x.b.update(&bad, up)),
            errno(x.b.set_attr(&bad, Kind::File, &change)),
            errno(x.b.install("n", &bad)),
            errno(x.b.rename(&p("mine"), &bad)),
            errno(x.b.park(&bad, "q")),
            errno(x.b.unlink(&bad)),
            errno(x.b.rmdir(&bad)),
            errno(x.b.stage_link("k", &bad)),
            errno(x.b.sync(std::slice::from_ref(&bad), &[])),
        ];
        // The parent is opened as a directory, so a symlink there is ELOOP or ENOTDIR.
        let refused = |e: &Option<i32>| matches!(e, Some(libc::ELOOP | libc::ENOTDIR));
        assert!(results.iter().all(refused), "{results:?}");
    }
    for bad in ["../x", "/etc/passwd", "a//b", "mine/.", "a\0b"] {
        assert_eq!(errno(x.b.stat(&p(bad))), Some(libc::EINVAL), "{bad:?}");
    }
    assert_eq!(errno(x.b.open(&p("secret"))), Some(libc::ELOOP));
    assert_eq!(errno(x.b.list(&p("out"), &mut |_| ())), Some(libc::ENOTDIR));
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"s");
    assert!(staged_path("n").0.starts_with(b".forelog/tmp/"));
    assert_eq!(std::fs::metadata(outside.path()).unwrap().permissions(), before);
}

#[test]
fn many_are_synced_as_a_whole() {
    let x = place();
    let mut staged = Vec::new();
    for i in 0..200 {
        let name = format!("s{i}");
        x.b.stage(&name, &file(0o600, 2), &mut bytes(b"ab")).unwrap();
        staged.push(staged_path(&name));
    }
    x.b.sync(&staged, &[p("")]).unwrap();
    for i in 0..200 {
        x.b.install(&format!("s{i}"), &p(&format!("f{i}"))).unwrap();
    }
    x.b.sync(&[], &[p("")]).unwrap();
    assert_eq!(x.names("").len(), 200);
    assert_eq!(errno(x.b.sync(&[p("none")], &[])), Some(libc::ENOENT));
}
