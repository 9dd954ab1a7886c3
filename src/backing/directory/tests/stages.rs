use super::*;
use crate::backing::{Xattr, parked_path, staged_path};
use crate::types::Name;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

#[test]
fn a_file_arrives_whole_with_all_its_attributes() {
    let x = place();
    let mut o = file(0o640, 5);
    o.attr.atime = Stamp { secs: -5, nanos: 1 };
    o.attr.mtime = Stamp { secs: -1_000_000_000, nanos: 999_999_999 };
    let staged = x.b.stage("n", &o, &mut bytes(b"hello")).unwrap();
    assert_eq!(x.names(""), BTreeSet::new());
    assert_eq!(x.b.stat(&staged_path("n")).unwrap(), staged);
    x.b.sync(&[staged_path("n")], &[]).unwrap();
    x.b.install("n", &p("f")).unwrap();
    x.b.sync(&[], &[BackingPath::root()]).unwrap();
    let st = x.b.stat(&p("f")).unwrap();
    assert_eq!(st.id, staged.id);
    assert_eq!((st.attr.mode, st.attr.size), (0o640, 5));
    assert_eq!((st.attr.atime, st.attr.mtime), (o.attr.atime, o.attr.mtime));
    assert_eq!(std::fs::read(x.at("f")).unwrap(), b"hello");
    assert_eq!(errno(x.b.stat(&staged_path("n"))), Some(libc::ENOENT));
}

#[test]
fn a_sparse_file_stays_sparse() {
    let x = place();
    let size = 10 << 20;
    let mut content = |sink: Sink<'_>| {
        sink(Piece::Zero { offset: 0, len: 4 << 20 })?;
        sink(Piece::Data { offset: 4 << 20, bytes: &[7; 4096] })?;
        sink(Piece::Zero { offset: (4 << 20) + 4096, len: size })
    };
    let st = x.b.stage("n", &file(0o600, size), &mut content).unwrap();
    assert!(st.attr.size == size && st.attr.blocks < 64, "{st:?}");
    x.b.install("n", &p("f")).unwrap();
    let f = x.b.open(&p("f")).unwrap();
    assert_eq!(f.next_data(0).unwrap(), Some(4 << 20));
    assert_eq!(f.next_hole(4 << 20).unwrap(), (4 << 20) + 4096);
    assert_eq!(f.next_data(5 << 20).unwrap(), None);
    assert_eq!(f.next_hole(0).unwrap(), 0);
    let mut buf = [1u8; 8192];
    assert_eq!(f.read_at(&mut buf, (4 << 20) - 1).unwrap(), 8192);
    assert!(buf[0] == 0 && buf[1..4097] == [7; 4096] && buf[4097..] == [0; 4095]);
    assert_eq!(f.read_at(&mut buf, size - 10).unwrap(), 10);
    assert_eq!(f.read_at(&mut buf, size + 10).unwrap(), 0);
}

#[test]
fn special_objects() {
    let x = place();
    let mut link = object(Kind::Symlink, 0o777, 3);
    link.target = b"\xff/\n".to_vec();
    link.attr.mtime = Stamp { secs: -7, nanos: 5 };
    x.put("link", &link, b"");
    assert_eq!(x.b.readlink(&p("link")).unwrap(), link.target);
    let st = x.b.stat(&p("link")).unwrap().attr;
    assert_eq!((st.kind, st.mtime, st.size), (Kind::Symlink, link.attr.mtime, 3));
    x.put("fifo", &object(Kind::Fifo, 0o622, 0), b"");
    x.put("sock", &object(Kind::Socket, 0o755, 0), b"");
    x.put("dir", &object(Kind::Dir, 0o1777, 0), b"");
    for (name, kind, mode) in
        [("fifo", Kind::Fifo, 0o622), ("sock", Kind::Socket, 0o755), ("dir", Kind::Dir, 0o1777)]
    {
        let st = x.b.stat(&p(name)).unwrap().attr;
        assert_eq!((st.kind, st.mode, st.mtime.nanos), (kind, mode, 123_456_789), "{name}");
    }
    // Never opened for reads: a pipe would hang us.
    assert_eq!(errno(x.b.open(&p("fifo"))), Some(libc::EINVAL));
    assert_eq!(errno(x.b.open(&p("dir"))), Some(libc::EISDIR));
    assert_eq!(errno(x.b.open(&p("link"))), Some(libc::ELOOP));
    x.b.sync(&[p("link"), p("fifo"), p("dir")], &[p("")]).unwrap();
    if !is_root() {
        return;
    }
    let mut dev = object(Kind::CharDev, 0o600, 0);
    dev.attr.rdev = rustix::fs::makedev(10, 70_000) as u32;
    x.put("dev", &dev, b"");
    let meta = std::fs::symlink_metadata(x.at("dev")).unwrap();
    assert!(meta.file_type().is_char_device());
    assert_eq!((rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())), (10, 70_000));
    assert_eq!(x.b.stat(&p("dev")).unwrap().attr.rdev, dev.attr.rdev);
}

#[test]
fn owners_setuid_and_xattrs_survive_each_other() {
    if !is_root() {
        return;
    }
    let x = place();
    let mut o = file(0o6755, 3);
    (o.attr.uid, o.attr.gid) = (1234, 5678);
    let mut capability = vec![1u8, 0, 0, 2];
    capability.extend_from_slice(&[0; 16]);
    capability[5] = 4;
    o.xattrs = vec![
        (Name::from(&b"user.k"[..]), b"v\0w".to_vec()),
        (Name::from(&b"trusted.t"[..]), b"t".to_vec()),
        (Name::from(&b"security.capability"[..]), capability),
    ];
    if errno(x.b.stage("n", &o, &mut bytes(b"abc"))) == Some(libc::EOPNOTSUPP) {
        return;
    }
    x.b.install("n", &p("f")).unwrap();
    let st = x.b.stat(&p("f")).unwrap().attr;
    assert_eq!((st.mode, st.uid, st.gid), (0o6755, 1234, 5678));
    assert_eq!(st.mtime, o.attr.mtime);
    let sorted = |mut v: Vec<Xattr>| {
        v.retain(|(n, _)| &n[..] != b"security.selinux");
        v.sort();
        v
    };
    assert_eq!(sorted(x.b.xattrs(&p("f")).unwrap()), sorted(o.xattrs.clone()));
    // A symlink's own attribute, not its target's.
    let mut link = object(Kind::Symlink, 0o777, 1);
    link.target = b"f".to_vec();
    link.attr.uid = 4321;
    link.xattrs = vec![(Name::from(&b"trusted.l"[..]), b"1".to_vec())];
    x.put("l", &link, b"");
    assert_eq!(sorted(x.b.xattrs(&p("l")).unwrap()), link.xattrs);
    assert_eq!(x.b.stat(&p("l")).unwrap().attr.uid, 4321);
    assert_eq!(x.b.stat(&p("f")).unwrap().attr.uid, 1234);
}

#[test]
fn access_lists_are_not_inherited_and_the_mode_wins() {
    let dir = tempfile::tempdir().unwrap();
    let acl = |perms: [u16; 4]| {
        // Version 2, then (tag, permissions, id): user, user 99, group, mask, other.
        let mut v = vec![2u8, 0, 0, 0];
        let none = u32::MAX;
        let [u, named, g, mask] = perms;
        let tags = [(1u16, u, none), (2, named, 99), (4, g, none), (0x10, mask, none), (0x20, 0, none)];
        for (tag, perm, id) in tags {
            v.extend_from_slice(&tag.to_le_bytes());
            v.extend_from_slice(&perm.to_le_bytes());
            v.extend_from_slice(&id.to_le_bytes());
        }
        v
    };
    let root: std::os::fd::OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
    let default = acl([7, 7, 7, 7]);
    if crate::sys::xattr::set(root.as_fd(), b"system.posix_acl_default", &default).is_err() {
        return;
    }
    let b = DirectoryBacking::open(dir.path()).unwrap();
    b.prepare().unwrap();
    put(&b, "plain", &file(0o640, 1), b"x");
    assert!(b.xattrs(&p("plain")).unwrap().iter().all(|(n, _)| !n.starts_with(b"system.")));
    assert_eq!(b.stat(&p("plain")).unwrap().attr.mode, 0o640);
    let mut o = file(0o670, 1);
    o.xattrs = vec![(Name::from(&b"system.posix_acl_access"[..]), acl([6, 7, 4, 6]))];
    put(&b, "acl", &o, b"x");
    assert_eq!(b.stat(&p("acl")).unwrap().attr.mode, 0o670);
    assert_eq!(b.xattrs(&p("acl")).unwrap().len(), 1);
}

#[test]
fn staging_replaces_leftovers_and_leaves_none_when_it_fails() {
    let x = place();
    x.b.stage("n", &object(Kind::Dir, 0o700, 0), &mut nothing).unwrap();
    std::fs::write(x.at(".forelog/tmp/n/inner"), b"").unwrap();
    std::fs::set_permissions(x.at(".forelog/tmp/n"), PermissionsExt::from_mode(0o000)).unwrap();
    x.b.stage("n", &file(0o600, 2), &mut bytes(b"ab")).unwrap();
    let mut broken = |sink: Sink<'_>| {
        sink(Piece::Data { offset: 0, bytes: b"part" })?;
        Err(io::Error::from_raw_os_error(libc::EBADMSG))
    };
    assert_eq!(errno(x.b.stage("n", &file(0o600, 9), &mut broken)), Some(libc::EBADMSG));
    assert_eq!(errno(x.b.stat(&staged_path("n"))), Some(libc::ENOENT));
    for bad in ["", ".", "..", "a/b", "a\0"] {
        assert_eq!(errno(x.b.stage(bad, &file(0o600, 0), &mut nothing)), Some(libc::EINVAL));
    }
    // Our directory is made again when someone removed it.
    std::fs::remove_dir_all(x.at(".forelog")).unwrap();
    x.put("f", &file(0o600, 2), b"ab");
    let bad_time = Stamp { secs: 0, nanos: 1_073_741_823 };
    let mut o = file(0o600, 0);
    o.attr.mtime = bad_time;
    assert_eq!(errno(x.b.stage("n", &o, &mut nothing)), Some(libc::EINVAL));
    o = file(0o600, 0);
    o.attr.uid = u32::MAX;
    assert_eq!(errno(x.b.stage("n", &o, &mut nothing)), Some(libc::EINVAL));
}

#[test]
fn hard_links_by_stage_link() {
    let x = place();
    x.put("a", &file(0o600, 1), b"x");
    x.b.stage_link("l", &p("a")).unwrap();
    x.b.stage_link("l", &p("a")).unwrap();
    x.b.install("l", &p("b")).unwrap();
    let (a, b) = (x.b.stat(&p("a")).unwrap(), x.b.stat(&p("b")).unwrap());
    assert!(a == b && a.attr.nlink == 2);
    // Installed over a link of itself: no name of ours may stay.
    x.b.stage_link("l", &p("a")).unwrap();
    x.b.install("l", &p("b")).unwrap();
    assert_eq!(errno(x.b.stat(&staged_path("l"))), Some(libc::ENOENT));
    symlink("nowhere", x.at("s")).unwrap();
    x.b.stage_link("l", &p("s")).unwrap();
    x.b.install("l", &p("s2")).unwrap();
    assert_eq!(x.b.stat(&p("s2")).unwrap().attr.kind, Kind::Symlink);
}

#[test]
fn install_replaces_any_kind_but_a_full_directory() {
    let x = place();
    x.put("n1", &file(0o600, 1), b"x");
    x.put("n1", &object(Kind::Dir, 0o755, 0), b"");
    assert_eq!(x.b.stat(&p("n1")).unwrap().attr.kind, Kind::Dir);
    x.put("n1/in", &file(0o600, 1), b"x");
    x.b.stage("n", &file(0o600, 1), &mut bytes(b"y")).unwrap();
    assert_eq!(errno(x.b.install("n", &p("n1"))), Some(libc::ENOTEMPTY));
    x.b.unlink(&p("n1/in")).unwrap();
    x.b.install("n", &p("n1")).unwrap();
    assert_eq!(std::fs::read(x.at("n1")).unwrap(), b"y");
}

#[test]
fn parked_objects_live_on_and_clean_leaves_them() {
    let x = place();
    x.put("f", &file(0o600, 3), b"abc");
    let open = x.b.open(&p("f")).unwrap();
    x.b.park(&p("f"), "7").unwrap();
    assert_eq!(x.b.parked().unwrap(), ["7"]);
    assert!(x.names("").is_empty());
    let mut buf = [0; 3];
    assert_eq!(open.read_at(&mut buf, 0).unwrap(), 3);
    assert_eq!(&buf, b"abc");
    x.b.stage("junk", &file(0o600, 1), &mut bytes(b"x")).unwrap();
    x.b.clean().unwrap();
    assert!(!x.at(".forelog/tmp").exists());
    assert!(x.at(".forelog/park/7").exists());
    x.b.unlink(&parked_path("7")).unwrap();
    x.b.clean().unwrap();
    assert_eq!(std::fs::read_dir(x.dir.path()).unwrap().count(), 0);
    x.b.clean().unwrap();
    assert!(x.b.parked().unwrap().is_empty());
}

#[test]
fn our_directory_is_private_and_moves_no_time_of_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let before = std::fs::metadata(dir.path()).unwrap();
    let b = DirectoryBacking::open(dir.path()).unwrap();
    b.prepare().unwrap();
    for name in [".forelog", ".forelog/tmp", ".forelog/park"] {
        let meta = std::fs::metadata(dir.path().join(name)).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o700, "{name}");
    }
    b.clean().unwrap();
    let after = std::fs::metadata(dir.path()).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    // A lease in it keeps the directory.
    b.prepare().unwrap();
    std::fs::write(dir.path().join(".forelog/lease"), b"").unwrap();
    std::fs::write(dir.path().join(".forelog/tmp/old"), b"").unwrap();
    b.prepare().unwrap();
    assert!(!dir.path().join(".forelog/tmp/old").exists());
    b.clean().unwrap();
    assert!(dir.path().join(".forelog/lease").exists());
    // Someone else's, or a symlink, is refused.
    std::fs::remove_dir_all(dir.path().join(".forelog")).unwrap();
    symlink("/tmp", dir.path().join(".forelog")).unwrap();
    assert!(b.prepare().is_err());
    std::fs::remove_file(dir.path().join(".forelog")).unwrap();
    if is_root() {
        std::fs::create_dir(dir.path().join(".forelog")).unwrap();
        std::os::unix::fs::chown(dir.path().join(".forelog"), Some(77), None).unwrap();
        let b = DirectoryBacking::open(dir.path()).unwrap();
        let e = b.prepare().unwrap_err().to_string();
        assert!(e.contains("belongs to uid 77"), "{e}");
        assert_eq!(std::fs::read_dir(dir.path().join(".forelog")).unwrap().count(), 0);
    }
}
