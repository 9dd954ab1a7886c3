//! The house's rules as a test: floors, homes of dependencies, file sizes, words that say unfinished.
//!
//! It reads `src/` as text. Comments and literals are blanked first and test code is cut out, so that a rule about code
//! judges code alone.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::nonminimal_bool, clippy::manual_strip)]

use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/reader.rs"]
mod reader;

use reader::{blanked, heads, line_of, without_tests, words};

const LINES_MAX: usize = 500;

/// A module imports only strictly lower floors. `main` stands above `cli`, which is all it calls.
const FLOORS: &[(&str, u32)] = &[
    ("types", 0),
    ("config", 0),
    ("format", 1),
    ("sys", 1),
    ("wal", 2),
    ("namespace", 2),
    ("extents", 2),
    ("history", 2),
    ("backing", 2),
    ("volume", 3),
    ("predict", 3),
    ("kept", 3),
    ("fs", 4),
    ("writeback", 4),
    ("segmenter", 4),
    ("undo", 4),
    ("mount", 5),
    ("control", 5),
    ("gateway", 6),
    ("replay", 5),
    ("cli", 7),
    ("main", 8),
];

/// Test doubles implement the traits of the lower floors and are themselves imported by tests alone.
const TESTING: &str = "testing";
const TESTING_FLOOR: u32 = 4;

/// What may be named where: the needle, and the places (a file, or a directory ending in `/`) that may name it.
const HOMES: &[(&str, &[&str])] = &[
    ("unsafe", &["sys/"]),
    ("fuser::", &["mount/"]),
    ("io_uring::", &["sys/uring/"]),
    ("libc::", &["sys/", "mount/", "fs/error.rs", "backing/directory/"]),
    ("Instant::now", &["sys/"]),
    ("SystemTime::now", &["sys/"]),
    ("thread::spawn", &["sys/"]),
    ("thread::Builder", &["sys/"]),
    ("std::fs", &["sys/"]),
];

const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "TODO", "FIXME", "XXX"];

struct Source {
    /// Path below `src/`, with `/`.
    name: String,
    raw: String,
    /// `raw` without comments, literals and test code.
    code: String,
}

impl Source {
    fn new(name: &str, raw: &str) -> Self {
        let code = without_tests(&blanked(raw));
        Self { name: name.to_owned(), raw: raw.to_owned(), code }
    }

    /// The module path: `wal/segment.rs` is `[wal, segment]`, `wal/mod.rs` is `[wal]`.
    fn module(&self) -> Vec<&str> {
        let mut path: Vec<&str> = self.name.trim_end_matches(".rs").split('/').collect();
        if path.len() > 1 && path.last() == Some(&"mod") {
            path.pop();
        }
        path
    }

    fn is_test(&self) -> bool {
        let last = self.name.rsplit('/').next().unwrap_or_default();
        last == "tests.rs" || last.ends_with("_tests.rs") || self.name.contains("/tests/")
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|p| {
            if p.ends_with('/') {
                self.name.starts_with(p) || self.name == format!("{}.rs", &p[..p.len() - 1])
            } else {
                self.name == *p
            }
        })
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(!files.is_empty(), "no sources below {}", root.display());
    files
        .iter()
        .map(|p| {
            let name =
                p.strip_prefix(&root).expect("collected below the root").to_string_lossy().replace('\\', "/");
            Source::new(&name, &fs::read_to_string(p).expect("a source file is readable text"))
        })
        .collect()
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is a directory") {
        let path = entry.expect("its entries are readable").path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

// ---- the rules

/// The crate's top modules that `source` names: through `crate::`, the crate's name, or enough `super::`.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for root in ["crate::", "forelog::"] {
        for at in words(&source.code, root) {
            if root == "crate::" || source.name == "main.rs" {
                out.extend(
                    heads(&source.code[at + root.len()..])
                        .into_iter()
                        .map(|m| (line_of(&source.code, at), m)),
                );
            }
        }
    }
    let depth = source.module().len();
    for at in words(&source.code, "super::") {
        let before = &source.code[..at];
        if before.ends_with("super::") {
            continue;
        }
        let rest = &source.code[at..];
        let ups = rest.split("super::").take_while(|s| s.is_empty()).count();
        if ups == depth {
            out.extend(
                heads(&rest["super::".len() * ups..]).into_iter().map(|m| (line_of(&source.code, at), m)),
            );
        }
    }
    out
}

fn floor(module: &str) -> Option<u32> {
    FLOORS.iter().find(|(m, _)| *m == module).map(|(_, f)| *f)
}

fn floor_breaches(source: &Source) -> Vec<String> {
    let own = source.module()[0].to_owned();
    if own == "lib" || source.is_test() {
        return Vec::new();
    }
    let own_floor = if own == TESTING { Some(TESTING_FLOOR) } else { floor(&own) };
    let Some(own_floor) = own_floor else {
        return vec![format!(
            "src/{}: module `{own}` stands on no floor: give it one in tests/tidy.rs",
            source.name
        )];
    };
    let mut out = Vec::new();
    for (line, target) in imports(source) {
        let why = if target == own {
            continue;
        } else if target == TESTING {
            "test doubles are for tests".to_owned()
        } else {
            match floor(&target) {
                Some(f) if f >= own_floor => {
                    format!("floor {own_floor} imports only lower floors, `{target}` is on {f}")
                }
                _ => continue,
            }
        };
        out.push(format!("src/{}:{line}: {own} -> {target}: {why}", source.name));
    }
    out
}

fn home_breaches(source: &Source) -> Vec<String> {
    if source.is_test() {
        return Vec::new();
    }
    let mut out = Vec::new();
    for (needle, homes) in HOMES {
        if !source.is_in(homes) && !(source.is_in(&["testing/"]) && needle.starts_with("libc")) {
            out.extend(words(&source.code, needle).map(|at| {
                format!("src/{}:{}: `{needle}` belongs to {homes:?}", source.name, line_of(&source.code, at))
            }));
        }
    }
    out
}

fn unfinished(source: &Source) -> Vec<String> {
    let hits = |w: &&str| {
        words(&source.raw, w)
            .map(|at| format!("src/{}:{}: {w}", source.name, line_of(&source.raw, at)))
            .collect::<Vec<_>>()
    };
    UNFINISHED.iter().flat_map(hits).collect()
}

fn hold(rule: &str, breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

#[test]
fn modules_import_only_lower_floors() {
    hold("floors", sources().iter().flat_map(floor_breaches).collect());
}

#[test]
fn every_dependency_and_power_has_its_home() {
    hold("homes", sources().iter().flat_map(home_breaches).collect());
}

#[test]
fn no_file_is_too_long() {
    let long = |s: &Source| {
        (s.raw.lines().count() > LINES_MAX)
            .then(|| format!("src/{}: {} lines, at most {LINES_MAX}", s.name, s.raw.lines().count()))
    };
    hold("length", sources().iter().filter_map(long).collect());
}

#[test]
fn nothing_is_unfinished() {
    hold("unfinished", sources().iter().flat_map(unfinished).collect());
}

// ---- and the rules themselves

#[test]
fn a_breach_of_each_rule_is_seen() {
    let floors = |name: &str, text: &str| floor_breaches(&Source::new(name, text)).len();
    assert_eq!(floors("wal/mod.rs", "use crate::{types::Lsn, sys::{Disk, Clock}, format};"), 0);
    assert_eq!(floors("wal/mod.rs", "use crate::{types::Lsn, volume::Volume, extents};"), 2);
    assert_eq!(floors("wal/segment.rs", "use super::table; use super::super::volume::Volume;"), 1);
    assert_eq!(floors("wal/mod.rs", "use super::extents;"), 1);
    assert_eq!(floors("types.rs", "fn f() { crate::sys::clock(); }"), 1);
    assert_eq!(
        floors("fs/io.rs", "#[cfg(test)]\nmod tests { use crate::gateway; }\nuse crate::volume::V;"),
        0
    );
    assert_eq!(floors("fs/io.rs", "#[cfg(test)]\nmod tests;\nuse crate::gateway::G; // crate::cli"), 1);
    assert_eq!(floors("fs/tests.rs", "use crate::testing::SimDisk;"), 0);
    assert_eq!(floors("fs/io.rs", "use crate::testing::SimDisk;"), 1);
    assert_eq!(floors("testing/disk.rs", "use crate::sys::Disk; use crate::backing::Backing;"), 0);
    assert_eq!(floors("main.rs", "use forelog::cli; fn main() { cli::run() }"), 0);
    assert_eq!(floors("cellar/mod.rs", ""), 1);

    let homes = |name: &str, text: &str| home_breaches(&Source::new(name, text)).len();
    assert_eq!(homes("fs/io.rs", "unsafe { libc::read() }; let unsafely = \"unsafe\"; // unsafe"), 2);
    assert_eq!(homes("sys/io.rs", "unsafe { libc::read() }; std::fs::read(p)"), 0);
    assert_eq!(homes("fs/error.rs", "libc::EIO"), 0);
    assert_eq!(
        homes("wal/mod.rs", "let t = std::time::Instant::now(); std::thread::spawn(f); fuser::Session"),
        3
    );
    assert_eq!(
        homes(
            "wal/mod.rs",
            "use crate::fs; let s = r#\"std::fs \"quoted\" \"#; let c = '\"'; std::fs::read(p)"
        ),
        1
    );
    assert_eq!(
        homes(
            "wal/mod.rs",
            "fn f<'a>(x: &'a str, c: char) -> bool { c == '\\'' || c == 'x' } std::fs::read(p)"
        ),
        1
    );

    assert_eq!(
        unfinished(&Source::new("a.rs", "// TODO: x\nfn f() { todo!() }\nlet mastodon = 1;")).len(),
        2
    );
}
