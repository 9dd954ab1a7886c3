use super::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

#[test]
fn odd_names() {
    let x = place();
    let long = vec![b'x'; 255];
    let names: [&[u8]; 5] = [b"new\nline", b"\xff\xfe", b"..x", b" ", &long];
    for name in names {
        let path = BackingPath::root().join(name);
        x.b.stage("n", &file(0o600, 1), &mut bytes(b"x")).unwrap();
        x.b.install("n", &path).unwrap();
        assert_eq!(x.b.stat(&path).unwrap().attr.size, 1);
        assert!(x.dir.path().join(OsStr::from_bytes(name)).exists());
    }
    assert_eq!(x.names(""), names.iter().map(|n| n.to_vec()).collect());
    let too_long = BackingPath(vec![b'y'; 256]);
    x.b.stage("n", &file(0o600, 1), &mut bytes(b"x")).unwrap();
    assert_eq!(errno(x.b.install("n", &too_long)), Some(libc::ENAMETOOLONG));
    assert_eq!(errno(x.b.stat(&too_long)), Some(libc::ENAMETOOLONG));
}

#[test]
fn listing_says_what_stat_says() {
    let x = place();
    x.put("f", &file(0o600, 1), b"x");
    x.put("g", &file(0o600, 1), b"x");
    x.put("d", &object(Kind::Dir, 0o755, 0), b"");
    x.put("d/.forelog", &file(0o600, 0), b"");
    x.put("p", &object(Kind::Fifo, 0o600, 0), b"");
    symlink("f", x.at("s")).unwrap();
    let mut seen = 0;
    x.b.list(&p(""), &mut |e| {
        let st = x.b.stat(&BackingPath::root().join(&e.name)).unwrap();
        assert_eq!((e.id, e.kind), (st.id, st.attr.kind));
        seen += 1;
    })
    .unwrap();
    assert_eq!(seen, 5);
    // Only the one at the root is ours.
    assert_eq!(x.names("d").len(), 1);
    assert_eq!(errno(x.b.list(&p("f"), &mut |_| ())), Some(libc::ENOTDIR));
    let space = x.b.space().unwrap();
    assert!(space.block_bytes > 0 && space.blocks >= space.blocks_free);
    assert_eq!(space.name_bytes_max, 255);
}

#[test]
fn a_mount_point_inside_has_ids_of_its_own() {
    let x = place();
    if !is_root() {
        return;
    }
    std::fs::create_dir(x.at("m")).unwrap();
    let mounted = rustix::mount::mount(
        "none",
        x.at("m"),
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None::<&std::ffi::CStr>,
    );
    if mounted.is_err() {
        return;
    }
    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }
    let _unmount = Unmount(x.at("m"));
    std::fs::write(x.at("m/f"), b"x").unwrap();
    for (dir, name) in [("", "m"), ("m", "m/f")] {
        let st = x.b.stat(&p(name)).unwrap();
        assert!(st.id.0 & (1 << 60) != 0);
        let mut listed = None;
        x.b.list(&p(dir), &mut |e| {
            listed = listed.or((name.ends_with(&*String::from_utf8_lossy(&e.name))).then_some(e.id))
        })
        .unwrap();
        assert_eq!(listed, Some(st.id), "{name}");
    }
    let many = vec![p("m/f"); 20];
    x.b.sync(&many, &[p("m"), p("")]).unwrap();
    x.b.stage("n", &file(0o600, 1), &mut bytes(b"x")).unwrap();
    assert_eq!(errno(x.b.install("n", &p("m/g"))), Some(libc::EXDEV));
    assert_eq!(errno(x.b.rmdir(&p("m"))), Some(libc::EBUSY));
}

#[test]
fn an_open_file_outlives_its_name() {
    let x = place();
    x.put("f", &file(0o600, 3), b"abc");
    let f = x.b.open(&p("f")).unwrap();
    x.b.rename(&p("f"), &p("g")).unwrap();
    x.b.unlink(&p("g")).unwrap();
    let mut buf = [0; 8];
    assert_eq!(f.read_at(&mut buf, 1).unwrap(), 2);
    assert_eq!(f.next_data(0).unwrap(), Some(0));
    assert_eq!(f.next_hole(1).unwrap(), 3);
    assert_eq!(f.next_data(3).unwrap(), None);
    assert_eq!(f.next_hole(9).unwrap(), 9);
}

#[test]
fn open_refuses_what_is_no_directory() {
    let t = tempfile::tempdir().unwrap();
    std::fs::write(t.path().join("f"), b"").unwrap();
    assert_eq!(errno(DirectoryBacking::open(&t.path().join("f")).map(|_| ())), Some(libc::ENOTDIR));
    assert_eq!(errno(DirectoryBacking::open(&t.path().join("n")).map(|_| ())), Some(libc::ENOENT));
}
