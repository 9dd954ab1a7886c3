//! A name that is replaced during each batch: the backing follows, one batch behind, and a death changes nothing of that.

use crate::removals::{Machine, Mount, replace};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Mode of the file that the backing has there, if any.
fn stored(machine: &Machine) -> Option<u32> {
    let all = machine.backing.all();
    all.get(&b"f"[..]).map(|f| f.1.attr.mode & 0o777)
}

/// From now on each file that is staged is replaced at once. Returns the mode of the newest.
fn replace_always(machine: &Machine, m: &Mount, first: u32) -> Arc<AtomicU32> {
    let (fs, newest) = (Arc::downgrade(&m.fs), Arc::new(AtomicU32::new(first)));
    let n = newest.clone();
    replace(&m.fs, "f", first);
    machine.backing.at_stage(move || {
        if let Some(fs) = fs.upgrade() {
            replace(&fs, "f", n.fetch_add(1, Ordering::Relaxed) + 1);
        }
    });
    newest
}

#[test]
fn a_name_that_is_replaced_all_the_time_gets_to_the_backing() {
    let machine = Machine::new();
    let mut m = machine.mount();
    let newest = replace_always(&machine, &m, 0o100);
    for _ in 0..10 {
        let began = newest.load(Ordering::Relaxed);
        machine.step(&mut m);
        assert_eq!(stored(&machine), Some(began), "as it was when the batch began");
        assert_eq!(newest.load(Ordering::Relaxed), began + 1, "and it was replaced meanwhile");
    }
    // It died with an older one there than programs saw.
    m.fs.volume.checkpoint().expect("a checkpoint");
    machine.backing.at_stage(|| ());
    m.die();
    let newest = newest.load(Ordering::Relaxed);
    assert_eq!(stored(&machine), Some(newest - 1));
    let mut m = machine.mount();
    machine.drain(&mut m);
    assert_eq!(stored(&machine), Some(newest), "the last one is there in the end");
    assert!(m.fs.volume.dirty.is_empty());
    assert_eq!(machine.names(), ["f"], "and nothing else");
    m.die();
}
