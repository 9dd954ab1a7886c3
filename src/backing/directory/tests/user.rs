//! A gateway that is not root, on objects of its own user that it may not open as they are.

use super::*;
use crate::backing::{AttrChange, Update, parked_path};
use crate::sys::testing::as_user;
use crate::types::Name;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const USER: u32 = 12_321;

/// Runs as a plain user in a directory of theirs.
fn with_user(f: impl FnOnce(&Place) + Send) {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(USER), Some(USER)).unwrap();
    // Root removes it afterwards: the user may not enter all that is in it.
    as_user(USER, move || {
        let b = DirectoryBacking::open(dir.path()).unwrap();
        b.prepare().unwrap();
        let x = Place { dir, b };
        f(&x);
        x.dir
    });
}

fn mode(x: &Place, name: &str) -> u32 {
    std::fs::symlink_metadata(x.at(name)).unwrap().mode() & 0o7777
}

#[test]
fn read_only_files_are_updated_and_unreadable_ones_read() {
    with_user(|x| {
        x.put("f", &file(0o444, 3), b"abc");
        let mut content = bytes(b"X");
        let up = Update { keep: u64::MAX, size: 3, content: &mut content, then: &AttrChange::default() };
        x.b.update(&p("f"), up).unwrap();
        assert_eq!(mode(x, "f"), 0o444);
        x.put("f", &file(0o000, 3), b"xyz");
        let mut buf = [0; 3];
        assert_eq!(x.b.open(&p("f")).unwrap().read_at(&mut buf, 0).unwrap(), 3);
        assert_eq!(&buf, b"xyz");
        x.b.sync(&[p("f")], &[p("")]).unwrap();
        assert_eq!(mode(x, "f"), 0o000);
    });
}

#[test]
fn read_only_directories_take_and_lose_entries() {
    with_user(|x| {
        x.put("d", &object(Kind::Dir, 0o555, 0), b"");
        x.put("d/e", &object(Kind::Dir, 0o000, 0), b"");
        x.put("d/e/f", &file(0o600, 1), b"x");
        assert_eq!(x.names("d/e").len(), 1);
        assert_eq!(x.b.stat(&p("d/e/f")).unwrap().attr.size, 1);
        x.b.rename(&p("d/e/f"), &p("d/g")).unwrap();
        x.b.park(&p("d/e"), "1").unwrap();
        x.b.stage_link("l", &p("d/g")).unwrap();
        x.b.install("l", &p("h")).unwrap();
        x.b.sync(&[p("d/g")], &[p("d")]).unwrap();
        x.b.unlink(&p("d/g")).unwrap();
        assert_eq!((mode(x, "d"), mode(x, ".forelog/park/1")), (0o555, 0o000));
        x.b.rmdir(&p("d")).unwrap();
        // The root itself too.
        std::fs::set_permissions(x.dir.path(), PermissionsExt::from_mode(0o555)).unwrap();
        x.put("k", &file(0o600, 1), b"x");
        x.b.rmdir(&parked_path("1")).unwrap();
        x.b.clean().unwrap();
        assert!(!x.at(".forelog").exists());
        x.b.prepare().unwrap();
        assert_eq!(x.b.stat(&p("")).unwrap().attr.mode, 0o555);
    });
}

#[test]
fn user_attributes_of_a_read_only_file() {
    with_user(|x| {
        let mut o = file(0o400, 1);
        o.xattrs = vec![(Name::from(&b"user.a"[..]), b"1".to_vec())];
        if errno(x.b.stage("n", &o, &mut bytes(b"x"))) == Some(libc::EOPNOTSUPP) {
            return;
        }
        x.b.install("n", &p("f")).unwrap();
        let change = AttrChange {
            mode: Some(0o000),
            xattrs: Some(vec![(Name::from(&b"user.b"[..]), b"2".to_vec())]),
            ..AttrChange::default()
        };
        x.b.set_attr(&p("f"), Kind::File, &change).unwrap();
        assert_eq!(x.b.xattrs(&p("f")).unwrap(), change.xattrs.unwrap());
        assert_eq!(mode(x, "f"), 0o000);
    });
}

#[test]
fn what_is_denied_stays_denied_with_its_errno() {
    with_user(|x| {
        x.put("f", &file(0o600, 1), b"x");
        let change = AttrChange { owner: Some((0, 0)), ..AttrChange::default() };
        assert_eq!(errno(x.b.set_attr(&p("f"), Kind::File, &change)), Some(libc::EPERM));
        // No change is no chown.
        let st = x.b.stat(&p("f")).unwrap().attr;
        let change = AttrChange { owner: Some((st.uid, st.gid)), ..AttrChange::default() };
        x.b.set_attr(&p("f"), Kind::File, &change).unwrap();
        let mut dev = object(Kind::CharDev, 0o600, 0);
        dev.attr.rdev = 259;
        assert_eq!(errno(x.b.stage("n", &dev, &mut nothing)), Some(libc::EPERM));
        std::fs::create_dir(x.at("d")).unwrap();
        let mut theirs = file(0o600, 1);
        theirs.attr.uid = 1;
        assert_eq!(errno(x.b.stage("n", &theirs, &mut bytes(b"x"))), Some(libc::EPERM));
        assert_eq!(std::fs::read_dir(x.at(".forelog/tmp")).unwrap().count(), 0);
    });
}
