//! Who has a directory, and how another comes by it.

use super::*;
use crate::backing::fence::{Fence, Times};
use crate::backing::lease::Taking;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const PLAIN: Taking = Taking { takeover: false, log: None, wall_ns: 0 };
const OVER: Taking = Taking { takeover: true, ..PLAIN };

/// With a lease of so many milliseconds.
fn gateway(dir: &Path, lapse: u64) -> DirectoryBacking {
    let ms = Duration::from_millis;
    let times = Times { beat: ms(lapse / 20), valid: ms(lapse / 4), lapse: ms(lapse) };
    let mut b = DirectoryBacking::open(dir).unwrap();
    b.fence = Arc::new(Fence::new(times));
    b.make_house().unwrap();
    b
}

fn ours(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir.join(".forelog"))
        .map(|d| d.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.retain(|n| n.starts_with("lease"));
    names
}

#[test]
fn a_live_holder_keeps_it_and_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let time = || std::fs::metadata(dir.path()).unwrap().modified().unwrap();
    let before = time();
    let a = gateway(dir.path(), 200);
    let mut held = a.lease(PLAIN).unwrap();
    a.begin().unwrap();
    // A busy machine may hold the beats up for long.
    let b = gateway(dir.path(), 60_000);
    let e = b.lease(PLAIN).map(|_| ()).unwrap_err();
    assert!(e.contains(&format!("held by pid {} on host ", std::process::id())), "{e}");
    let e = b.lease(OVER).map(|_| ()).unwrap_err();
    assert!(e.contains("alive"), "{e}");
    assert_eq!(ours(dir.path()), ["lease"]);
    assert_eq!(time(), before, "a lease is no change of the tree");
    std::fs::remove_dir_all(dir.path().join(".forelog")).unwrap();
    let before = time();
    a.begin().unwrap();
    assert_eq!(ours(dir.path()), ["lease"], "it is put back");
    held.renew();
    held.release().unwrap();
    assert!(!dir.path().join(".forelog").exists());
    assert_eq!(time(), before, "neither is what brings it back and its end");
}

#[test]
fn one_who_gives_no_sign_of_life_is_taken_over_and_changes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let a = gateway(dir.path(), 200);
    let held = a.lease(PLAIN).unwrap();
    // As one who is stopped: it has its lock still.
    drop(held);
    let b = gateway(dir.path(), 200);
    assert!(b.lease(PLAIN).is_err());
    let mut second = b.lease(OVER).unwrap();
    let text = std::fs::read_to_string(dir.path().join(".forelog/lease")).unwrap();
    assert!(text.contains("\nepoch 2\n"), "{text}");
    assert_eq!(ours(dir.path()), ["lease"]);
    assert!(a.begin().is_err() && a.fence.is_lost());
    assert!(a.prepare().is_err() && a.rmdir(&BackingPath(b"x".to_vec())).is_err());
    b.begin().unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join(".forelog/lease")).unwrap(), text);
    second.renew();
    second.release().unwrap();
    assert!(ours(dir.path()).is_empty());
}

#[test]
fn a_lock_that_is_free_tells_of_this_machine_alone() {
    let dir = tempfile::tempdir().unwrap();
    let lease = dir.path().join(".forelog/lease");
    let a = gateway(dir.path(), 200);
    let text = |boot: &str, log: &str| {
        format!(
            "pid 7 on host far since then\nboot {boot}\nmachine m\nnonce 07\nepoch 4\nlog {log}\nbeat 1\nlapse 9\n"
        )
    };
    std::fs::write(&lease, text("far", "09")).unwrap();
    let e = a.lease(PLAIN).map(|_| ()).unwrap_err();
    assert!(e.contains("pid 7 on host far") && e.contains("--takeover"), "{e}");
    let mut held = a.lease(Taking { log: Some(9), ..PLAIN }).expect("we have its log");
    held.release().unwrap();
    for left in [text(&crate::sys::files::boot_id(), "0"), String::new(), text("far", "09")[..20].to_owned()]
    {
        let b = gateway(dir.path(), 200);
        std::fs::write(&lease, &left).unwrap();
        b.lease(PLAIN).expect("nobody can have it").release().unwrap();
    }
}
