use super::*;

fn may_mount() -> bool {
    rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists()
}

/// Mounts, never looks inside (nobody serves it), unmounts lazily, closes.
#[test]
fn an_idle_connection_comes_and_goes() {
    if !may_mount() {
        return;
    }
    let t = tempfile::tempdir().unwrap();
    let dir = std::fs::canonicalize(t.path()).unwrap().join("m p");
    std::fs::create_dir(&dir).unwrap();
    let opts = MountOptions {
        fsname: "/some, where".into(),
        allow_other: true,
        max_read: Some(1 << 20),
        ..MountOptions::default()
    };
    let fd = match mount_fuse(&dir, &opts) {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return,
        Err(e) => panic!("{e}"),
    };
    let m = mountinfo::find(&dir).unwrap().unwrap();
    assert_eq!((m.fstype.as_str(), m.source.to_str()), ("fuse.forelog", Some("/some, where")));
    let again = mount_fuse(&dir, &opts).unwrap_err().to_string();
    assert!(again.contains("already a fuse.forelog mount"), "{again}");
    unmount(&dir, true).unwrap();
    drop(fd);
    assert!(!mountinfo::is_mounted(&dir).unwrap());
    assert_eq!(unmount(&dir, false).unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn a_held_mount_is_busy_until_let_go() {
    if !may_mount() {
        return;
    }
    let t = tempfile::tempdir().unwrap();
    let dir = std::fs::canonicalize(t.path()).unwrap().join("m");
    std::fs::create_dir(&dir).unwrap();
    let Ok(fd) = mount_fuse(&dir, &MountOptions::default()) else { return };
    // An O_PATH descriptor of the root asks nothing of the server.
    let held = rustix::fs::open(&dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert_eq!(unmount(&dir, false).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    drop(held);
    unmount(&dir, false).unwrap();
    drop(fd);
}

#[test]
fn a_missing_or_wrong_mount_point_is_one_line() {
    if !may_mount() {
        return;
    }
    let t = tempfile::tempdir().unwrap();
    std::fs::write(t.path().join("file"), b"").unwrap();
    for name in ["none", "file"] {
        let e = mount_fuse(&t.path().join(name), &MountOptions::default()).unwrap_err();
        let e = e.to_string();
        assert!(e.contains(name) && !e.contains('\n'), "{e}");
    }
}

#[test]
fn names_do_not_inject_options() {
    let o = MountOptions { fsname: "a,b\\c,suid".into(), noexec: true, ..MountOptions::default() };
    let s = helper_options(&o);
    assert!(s.starts_with("fsname=a\\,b\\\\c\\,suid,subtype=forelog,"), "{s}");
    assert!(s.ends_with(",default_permissions,nosuid,nodev,noexec"), "{s}");
}

#[test]
fn helper_errors_say_what_to_do() {
    let allow = MountOptions { allow_other: true, ..MountOptions::default() };
    let said =
        b"fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n";
    let e = helper_failure(Path::new("/m"), &allow, said);
    assert!(e.to_string().contains("have root add it"), "{e}");
    let e = helper_failure(Path::new("/m"), &MountOptions::default(), b"one\ntwo\n");
    assert_eq!(e.to_string(), "cannot mount on /m: one; two");
}

/// What the helper sends, sent by us.
#[test]
fn a_descriptor_comes_over_the_socket() {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let file = tempfile::tempfile().unwrap();
    let fds = [file.as_fd()];
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
    let byte = [io::IoSlice::new(b"\0")];
    rustix::net::sendmsg(&a, &byte, &mut control, rustix::net::SendFlags::empty()).unwrap();
    let got = receive_fd(b.as_fd()).unwrap().unwrap();
    let (x, y) = (rustix::fs::fstat(&got).unwrap(), rustix::fs::fstat(&file).unwrap());
    assert_eq!((x.st_dev, x.st_ino), (y.st_dev, y.st_ino));
    drop(a);
    assert!(receive_fd(b.as_fd()).unwrap().is_none());
}

/// Through the real helper, where it is installed; root may use it too.
#[test]
fn the_helper_mounts_and_unmounts() {
    let installed = Command::new("fusermount3").arg("-V").stdout(Stdio::null()).status().is_ok();
    if !may_mount() || !installed {
        return;
    }
    let t = tempfile::tempdir().unwrap();
    let dir = std::fs::canonicalize(t.path()).unwrap().join("m");
    std::fs::create_dir(&dir).unwrap();
    let opts = MountOptions { fsname: "a,b".into(), ..MountOptions::default() };
    let fd = mount_by_helper(&dir, &opts).unwrap();
    let m = mountinfo::find(&dir).unwrap().unwrap();
    assert_eq!((m.fstype.as_str(), m.source.to_str()), ("fuse.forelog", Some("a,b")));
    unmount_by_helper(&dir, true).unwrap();
    drop(fd);
    assert!(!mountinfo::is_mounted(&dir).unwrap());
    let e = mount_by_helper(&dir.join("none"), &opts).unwrap_err().to_string();
    assert!(e.contains("none") && !e.contains('\n'), "{e}");
}

#[test]
fn connections_are_numbered_by_the_whole_device() {
    assert_eq!((connection("0:57"), connection("7:3")), (Some(57), Some(7 << 20 | 3)));
    assert_eq!((connection("7"), connection("a:b")), (None, None));
}

/// Where there are loop devices: shown with its name, and the device is free again afterwards.
#[test]
fn a_mount_on_a_block_device_is_shown_with_its_name() {
    if !may_mount() || crate::sys::blockdev::BlockDevice::new("test").is_err() {
        return;
    }
    let t = tempfile::tempdir().unwrap();
    let dir = std::fs::canonicalize(t.path()).unwrap().join("m");
    std::fs::create_dir(&dir).unwrap();
    for (name, shown) in [("/srv/my nas", "/srv/my nas"), ("s3://b/a/c", "s3://b/a/c"), ("/", "/dev/loop")] {
        let opts = MountOptions { fsname: name.into(), ..MountOptions::default() };
        let Ok(fd) = mount_block(&dir, &opts) else { return };
        let m = mountinfo::find(&dir).unwrap().unwrap();
        assert_eq!(m.fstype, "fuseblk.forelog");
        assert!(m.source.to_str().unwrap().starts_with(shown), "{m:?}");
        assert!(!m.device.starts_with("0:"), "{m:?}");
        assert!(is_free(&dir).unwrap_err().to_string().contains("already a fuseblk.forelog mount"));
        unmount(&dir, true).unwrap();
        drop(fd);
        assert!(!mountinfo::is_attached(&m.device).unwrap());
    }
}
