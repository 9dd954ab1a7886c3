//! Of the tree as it is meant to be.

use super::super::client::Listed;
use super::*;

fn meta(id: u64) -> Arc<Meta> {
    Arc::new(Meta { id, ..Meta::implicit("x", 0, 0, Default::default()) })
}

fn put(id: u64) -> Change {
    Change::Put { meta: Some(meta(id)), body: Body::from(vec![1]), expect: Expect::Nothing, mine: vec![] }
}

fn gone() -> Change {
    Change::Delete { expect: Expect::Any, mine: vec![] }
}

fn page(keys: &[&str], folders: &[&str]) -> Page {
    let object = |k: &&str| Listed { key: (*k).into(), etag: "e".into(), size: 3, modified: 9 };
    Page {
        objects: keys.iter().map(object).collect(),
        folders: folders.iter().map(|f| (*f).into()).collect(),
        next: None,
    }
}

fn names(v: &View, dir: &str) -> Vec<String> {
    v.names(dir, 1).unwrap().into_iter().map(|n| n.0).collect()
}

#[test]
fn a_listing_shows_what_is_on_its_way() {
    let mut v = View::default();
    v.change("d/new", put(1));
    v.change("d/old", gone());
    v.change("d/sub/x", put(2));
    v.take("d", page(&["p/d/old", "p/d/kept", "p/d/", "p/d//odd"], &["p/d/sub/", "p/d//"]), "p/", 0);
    assert_eq!(names(&v, "d"), ["kept", "new", "sub"]);
    assert!(v.find("d/sub", 1).unwrap().unwrap().dir);
    assert_eq!(v.find("d/absent", 1), Some(None));
    assert_eq!(v.find("d/kept", FRESH_NS), None, "a listing ages");
    let change = v.pending["d/new"].clone();
    v.arrived("d/new", &change, "v1".into());
    assert_eq!(v.find("d/new", 1).unwrap().unwrap().etag, "v1");
    assert_eq!(v.pending.len(), 2);
}

#[test]
fn an_old_listing_is_borne_for_a_while_but_not_once_it_is_doubted() {
    let mut v = View::default();
    v.take("d", page(&["d/a"], &[]), "", 0);
    assert!(v.is_usable("d", FRESH_NS - 1) && !v.is_usable("d", FRESH_NS));
    v.bear("d", FRESH_NS + 5);
    assert!(v.find("d/a", FRESH_NS + 4).unwrap().is_some() && v.find("d/b", FRESH_NS + 4).unwrap().is_none());
    assert!(!v.is_usable("d", FRESH_NS + 5) && v.is_listed("d"));
    v.bear("d", FRESH_NS * 9);
    v.doubt("d");
    assert!(!v.is_usable("d", FRESH_NS * 2));
    v.bear("other", FRESH_NS);
    assert!(!v.is_listed("other"));
    (0..3 * FAILED_MAX as u64).for_each(|n| v.fail(&n.to_string(), n, std::io::ErrorKind::TimedOut.into()));
    assert!(v.failed.len() <= FAILED_MAX);
}

#[test]
fn what_lands_while_a_listing_comes_is_not_lost() {
    let mut v = View::default();
    v.loading.insert("d".into());
    v.change("d/new", put(1));
    let change = v.pending["d/new"].clone();
    v.arrived("d/new", &change, "v1".into());
    v.take("d", page(&[], &[]), "", 0);
    v.loaded("d");
    assert_eq!(names(&v, "d"), ["new"]);
    assert!(v.landed.is_empty());
}

#[test]
fn a_directory_that_was_moved_while_its_parents_listing_came_is_where_it_is_now() {
    let mut v = View::default();
    v.loading.insert(String::new());
    let there = Entry { dir: true, etag: "v".into(), size: 0, modified: 0, meta: Some(meta(7)) };
    v.set("to/", Some(there));
    v.change("from/", gone());
    v.take("", page(&[], &["from/"]), "", 0);
    v.loaded("");
    assert_eq!(names(&v, ""), ["to"]);
}

#[test]
fn a_listing_that_was_asked_for_before_its_directory_was_moved_or_made_is_not_believed() {
    let old = || page(&["d/a/ghost"], &[]);
    let mut v = View::default();
    v.loading.insert("d/a".into());
    v.forget_below("d");
    v.take("d/a", old(), "", 0);
    v.loaded("d/a");
    assert!(!v.is_listed("d/a"));
    v.loading.insert("d/a".into());
    v.is_new("d/a", 0);
    v.take("d/a", old(), "", 0);
    v.loaded("d/a");
    assert!(names(&v, "d/a").is_empty());
    v.loading.insert("d/a".into());
    v.forget();
    v.take("d/a", old(), "", 0);
    v.loaded("d/a");
    assert!(!v.is_listed("d/a"));
    v.take("d/a", old(), "", 0);
    assert_eq!(names(&v, "d/a"), ["ghost"], "the next one is");
}

#[test]
fn a_refused_change_is_tried_ever_later() {
    let mut b = Backoff::default();
    for n in 0..20 {
        let next = b.later(1000, 0x9e37_79b9 * n);
        assert!(!next.is_due(1000 + 499_999_999) && next.is_due(1000 + Backoff::CAP_NS));
        b = next;
    }
    assert!(!b.is_due(1000 + 14_999_999_999));
}

#[test]
fn metadata_is_kept_while_the_object_is_the_same() {
    let mut v = View::default();
    v.take("", page(&["a", "b"], &["c/"]), "", 0);
    for n in ["a", "b", "c"] {
        let asked = v.find(n, 1).unwrap().unwrap();
        v.learned(n, &asked, Entry { meta: Some(meta(5)), ..asked.clone() });
    }
    let mut next = page(&["a", "b"], &["c/"]);
    next.objects[1].etag = "other".into();
    v.take("", next, "", 0);
    let has = |n: &str| v.find(n, 1).unwrap().unwrap().meta.is_some();
    assert_eq!([has("a"), has("b"), has("c")], [true, false, true]);
}

#[test]
fn a_file_that_becomes_a_directory() {
    let mut v = View::default();
    v.take("", page(&["a"], &[]), "", 0);
    v.change("a", gone());
    v.change("a/", put(1));
    assert!(v.find("a", 1).unwrap().unwrap().dir);
    v.take("", page(&["a"], &[]), "", 0);
    assert!(v.find("a", 1).unwrap().unwrap().dir, "whatever the store still lists");
    v.arrived("a", &gone(), String::new());
    assert!(v.find("a", 1).unwrap().unwrap().dir);
}
