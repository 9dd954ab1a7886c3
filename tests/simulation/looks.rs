//! Looks at the backing, while the writeback moves something there: they wait for nothing but what they ask for, and an answer
//! that was overtaken is not believed.

use crate::removals::{Machine, Mount, who};
use forelog::backing::{Backing, BackingPath};
use forelog::format::mutation::EntryKey;
use forelog::fs::{Fs, OpenHow, SetAttrRequest};
use forelog::testing::Trouble;
use forelog::types::{InodeId, Kind};
use forelog::volume::Error;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

fn write(fs: &Fs, ino: InodeId, bytes: &[u8]) {
    let fh = fs.open(&who(fs), ino, OpenHow { writes: true, sync: false }).expect("it opens");
    let h = fs.handle(fh).expect("it is open");
    let n = fs.write(&who(fs), &h.cell, 0, bytes, false, &mut 0).expect("a write");
    assert_eq!(n, bytes.len());
    drop(h);
    fs.release(fh);
}

fn find(fs: &Fs, dir: InodeId, name: &str) -> Option<InodeId> {
    fs.lookup(dir, name.as_bytes()).expect("an answer").map(|l| l.ino)
}

/// What is in memory only since it was looked at leaves it.
fn forget(fs: &Fs) {
    fs.volume.trim_names(0);
    fs.volume.surplus(0);
}

/// Has `act` done once, when the backing's answer after so many others is on its way.
fn at_an_answer(machine: &Machine, after: usize, act: impl FnOnce() + Send + 'static) {
    let (mut act, mut left) = (Some(act), after);
    machine.plug.set_visitor(Some(Box::new(move |what| {
        if what == Trouble::Answer {
            match left {
                0 => act.take().into_iter().for_each(|act| act()),
                _ => left -= 1,
            }
        }
        Ok(())
    })));
}

fn made(files: &[(&str, Kind)]) -> (Arc<Machine>, Arc<Mutex<Mount>>, Arc<Fs>) {
    let machine = Arc::new(Machine::new());
    let mut m = machine.mount();
    for (name, kind) in files {
        m.make(InodeId::ROOT, name, *kind);
    }
    machine.drain(&mut m);
    let fs = m.fs.clone();
    (machine, Arc::new(Mutex::new(m)), fs)
}

fn end(m: Arc<Mutex<Mount>>) {
    Arc::into_inner(m).expect("nobody else has it").into_inner().die();
}

/// `after`: answers before the one at which it happens: what the file is, then the open file.
fn replaced_as_it_was_opened(after: usize) {
    let (machine, mount, fs) = made(&[("f", Kind::File)]);
    let f = find(&fs, InodeId::ROOT, "f").expect("it is there");
    write(&fs, f, b"old");
    machine.drain(&mut mount.lock());
    let (mc, m, fs2) = (machine.clone(), mount.clone(), fs.clone());
    at_an_answer(&machine, after, move || {
        fs2.setattr(&who(&fs2), f, &SetAttrRequest { size: Some(0), ..Default::default() }).expect("cut");
        write(&fs2, f, b"new");
        mc.drain(&mut m.lock());
    });
    fs.read(f, 0, 10).expect("it was read as it is, or as it was");
    machine.plug.set_visitor(None);
    assert!(!fs.volume.cell(f).expect("it is held").read().node.is_dirty(), "the backing has it");
    assert_eq!(fs.read(f, 0, 10).expect("it is read")[..], b"new"[..], "after {after} answers");
    drop(machine);
    end(mount);
}

#[test]
fn a_file_that_was_opened_as_it_was_replaced_is_not_kept() {
    (0..2).for_each(replaced_as_it_was_opened);
}

#[test]
fn a_name_in_a_directory_that_is_moved_meanwhile_is_found() {
    let (machine, mount, fs) = made(&[("d", Kind::Dir), ("e", Kind::Dir)]);
    let d = find(&fs, InodeId::ROOT, "d").expect("it is there");
    let e = find(&fs, InodeId::ROOT, "e").expect("it is there");
    mount.lock().make(d, "x", Kind::File);
    machine.drain(&mut mount.lock());
    forget(&fs);
    fs.rename(&who(&fs), (InodeId::ROOT, b"d"), (e, b"d"), 0).expect("it is moved");
    let (mc, m) = (machine.clone(), mount.clone());
    let before = Mutex::new(Some(move || mc.drain(&mut m.lock())));
    // Just before it is asked for where it was.
    machine.plug.set_visitor(Some(Box::new(move |_| {
        if let Some(drain) = before.lock().take() {
            drain();
        }
        Ok(())
    })));
    assert!(find(&fs, d, "x").is_some());
    machine.plug.set_visitor(None);
    assert_eq!(machine.names(), ["e", "e/d", "e/d/x"]);
    drop(machine);
    end(mount);
}

#[test]
fn a_listing_shows_what_came_to_the_backing_and_left_memory_meanwhile() {
    let (machine, mount, fs) = made(&[("d", Kind::Dir)]);
    let d = find(&fs, InodeId::ROOT, "d").expect("it is there");
    mount.lock().make(d, "old", Kind::File);
    machine.drain(&mut mount.lock());
    forget(&fs);
    mount.lock().make(d, "new", Kind::File);
    let (mc, m, fs2) = (machine.clone(), mount.clone(), fs.clone());
    at_an_answer(&machine, 0, move || {
        mc.drain(&mut m.lock());
        forget(&fs2);
    });
    let l = fs.listing(d, true).expect("a listing");
    machine.plug.set_visitor(None);
    let mut names: Vec<_> = l.items.iter().map(|i| String::from_utf8_lossy(&i.name).into_owned()).collect();
    names.sort();
    assert_eq!(names, [".", "..", "new", "old"]);
    drop(machine);
    end(mount);
}

#[test]
fn nobody_waits_for_a_move_of_something_else() {
    let (machine, mount, fs) = made(&[("a", Kind::File), ("b", Kind::File), ("d", Kind::Dir)]);
    let d = find(&fs, InodeId::ROOT, "d").expect("it is there");
    mount.lock().make(d, "x", Kind::File);
    machine.drain(&mut mount.lock());
    forget(&fs);
    fs.rename(&who(&fs), (InodeId::ROOT, b"a"), (InodeId::ROOT, b"c"), 0).expect("it is moved");
    let (seen, fs2) = (Arc::new(AtomicU32::new(0)), fs.clone());
    let count = seen.clone();
    machine.plug.set_visitor(Some(Box::new(move |what| {
        if what == Trouble::Backing && fs2.volume.moves.any() {
            forget(&fs2);
            // One that had to wait would wait for ever.
            assert!(find(&fs2, InodeId::ROOT, "b").is_some());
            assert!(find(&fs2, d, "x").is_some());
            assert_eq!(find(&fs2, d, "y"), None);
            assert_eq!(fs2.listing(d, true).expect("a listing").items.len(), 3);
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })));
    machine.drain(&mut mount.lock());
    machine.plug.set_visitor(None);
    assert!(seen.load(Ordering::Relaxed) > 0, "nothing was moved");
    assert_eq!(machine.names(), ["b", "c", "d", "d/x"]);
    drop(machine);
    end(mount);
}

#[test]
fn who_waited_for_a_move_finds_what_was_moved() {
    let (machine, mount, fs) = made(&[("a", Kind::File)]);
    let f = find(&fs, InodeId::ROOT, "a").expect("it is there");
    write(&fs, f, b"bytes");
    machine.drain(&mut mount.lock());
    fs.rename(&who(&fs), (InodeId::ROOT, b"a"), (InodeId::ROOT, b"b"), 0).expect("it is moved");
    let key = |name: &[u8]| EntryKey { parent: InodeId::ROOT, name: name.into() };
    let (a, b) = (key(b"a"), key(b"b"));
    let moving = fs.volume.moves.begin(&[&a, &b]);
    let (begun, wait) = std::sync::mpsc::channel();
    let reader = {
        let fs = fs.clone();
        std::thread::spawn(move || {
            begun.send(()).expect("it is heard");
            let bytes = fs.read(f, 0, 10).expect("it is read").to_vec();
            (bytes, fs.getxattr(f, b"user.none").map(drop))
        })
    };
    wait.recv().expect("it begins");
    // Until it waits; if it does not yet, this shows less.
    std::thread::sleep(std::time::Duration::from_millis(50));
    machine
        .backing
        .rename(&BackingPath(b"a".to_vec()), &BackingPath(b"b".to_vec()))
        .expect("it is moved there");
    fs.volume.moved(&a, &b);
    drop(moving);
    let (bytes, xattr) = reader.join().expect("it ends");
    assert_eq!(bytes, b"bytes");
    assert!(matches!(xattr, Err(Error::NoAttribute)), "{xattr:?}");
    machine.drain(&mut mount.lock());
    assert_eq!(machine.names(), ["b"]);
    drop(machine);
    end(mount);
}
