//! On real directories. Those that need root or xattrs return early without.

mod changes;
mod leases;
mod reads;
mod stages;
mod user;

use super::DirectoryBacking;
use crate::backing::{Backing, BackingPath, NewObject, Piece};
use crate::types::{Attr, Kind, Stamp};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use tempfile::TempDir;

struct Place {
    dir: TempDir,
    b: DirectoryBacking,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let b = DirectoryBacking::open(dir.path()).unwrap();
    b.prepare().unwrap();
    Place { dir, b }
}

impl Place {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Stages and installs.
    fn put(&self, path: &str, object: &NewObject, content: &[u8]) {
        put(&self.b, path, object, content);
    }

    fn names(&self, path: &str) -> BTreeSet<Vec<u8>> {
        let mut found = BTreeSet::new();
        self.b.list(&p(path), &mut |e| assert!(found.insert(e.name.to_vec()))).unwrap();
        found
    }
}

fn put(b: &DirectoryBacking, path: &str, object: &NewObject, content: &[u8]) {
    b.stage("n", object, &mut bytes(content)).unwrap();
    b.install("n", &p(path)).unwrap();
}

fn p(path: &str) -> BackingPath {
    BackingPath(path.as_bytes().to_vec())
}

/// Where content goes.
type Sink<'a> = &'a mut dyn FnMut(Piece<'_>) -> io::Result<()>;

fn bytes(content: &[u8]) -> impl FnMut(Sink<'_>) -> io::Result<()> {
    move |sink| sink(Piece::Data { offset: 0, bytes: content })
}

fn nothing(_: Sink<'_>) -> io::Result<()> {
    Ok(())
}

fn object(kind: Kind, mode: u32, size: u64) -> NewObject {
    let stamp = Stamp { secs: 1_000_000_000, nanos: 123_456_789 };
    let fsuid = tempfile::tempfile().map(|f| rustix::fs::fstat(f.as_fd()).unwrap()).unwrap();
    let attr = Attr {
        kind,
        mode,
        uid: fsuid.st_uid,
        gid: fsuid.st_gid,
        rdev: 0,
        nlink: 1,
        size,
        blocks: 0,
        atime: stamp,
        mtime: stamp,
        ctime: stamp,
    };
    NewObject { attr, target: Vec::new(), xattrs: Vec::new(), at: None }
}

fn file(mode: u32, size: u64) -> NewObject {
    object(Kind::File, mode, size)
}

fn errno<T>(r: io::Result<T>) -> Option<i32> {
    r.err().and_then(|e| e.raw_os_error())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
