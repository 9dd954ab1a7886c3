//! Making objects: a small one waits in memory until it is stored under its own key, a large one goes there in
//! parts at once, of which only the last request is left for `install`.

use super::BucketBacking;
use super::client::{Body, Expect};
use super::links::encoded;
use super::meta::{Meta, as_id};
use super::view::{Change, Entry, Upload, split};
use crate::backing::{BackingStat, Content, NewObject, Piece, Xattr};
use crate::types::{BackingId, Kind};
use percent_encoding::percent_decode;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Larger files go in parts.
pub const SMALL_MAX: u64 = 16 << 20;
/// The largest file of a store that takes no parts: it is held in memory.
pub const WHOLE_MAX: u64 = 64 << 20;
const PART_MIN: u64 = 8 << 20;
const PART_MAX: u64 = 64 << 20;
pub const PARTS_MAX: u64 = 9_900;
/// The largest file: its parts have to fit in memory.
pub const FILE_MAX: u64 = PARTS_MAX * PART_MAX;
/// Parts under way at a time, in bytes; one always is.
const UNDER_WAY: u64 = 32 << 20;
/// Bodies that wait are stored once they are as many.
const WAITING_MAX: usize = 64 << 20;

/// What `stage` made.
pub enum Staged {
    Body {
        meta: Meta,
        body: Body,
        xattrs: Vec<Xattr>,
    },
    Parts {
        path: String,
        upload: Upload,
        meta: Meta,
        size: u64,
        xattrs: Vec<Xattr>,
    },
    /// Another name of what stands there.
    Link(String),
}

/// A number that nothing else has.
pub fn fresh() -> io::Result<u64> {
    Ok(as_id(crate::sys::files::random_u128()? as u64))
}

/// Key of a directory's marker.
pub fn marker(path: &str) -> String {
    format!("{path}/")
}

/// Where the extended attributes of an object are.
pub fn xattrs_path(id: u64) -> String {
    format!(".forelog/xattrs/{id:016x}")
}

fn xattrs_body(xattrs: &[Xattr]) -> Vec<u8> {
    xattrs.iter().flat_map(|(n, v)| format!("{} {}\n", encoded(n), encoded(v)).into_bytes()).collect()
}

/// Extended attributes as they are kept: a line each, name and value.
pub fn xattrs_of(body: &[u8]) -> Vec<Xattr> {
    let line = |l: &[u8]| {
        let space = l.iter().position(|&b| b == b' ')?;
        let part = |p: &[u8]| percent_decode(p).collect::<Vec<u8>>();
        Some((part(&l[..space]).into(), part(&l[space + 1..])))
    };
    body.split(|&b| b == b'\n').filter_map(line).collect()
}

/// An upload in parts that is being made. Dropped before its end it is given up.
pub struct Parts<'a> {
    backing: &'a BucketBacking,
    path: String,
    id: String,
    note: String,
    etags: Vec<String>,
    running: VecDeque<(usize, JoinHandle<io::Result<String>>)>,
    most: usize,
    done: bool,
}

impl<'a> Parts<'a> {
    /// Begins an upload that is found after a death.
    pub fn begin(backing: &'a BucketBacking, path: &str, meta: &Meta, part: u64) -> io::Result<Parts<'a>> {
        let s = &backing.store;
        let (id, note) = s.wait(s.begin_noted(&s.key(path), meta))?;
        Ok(Parts {
            backing,
            path: path.to_owned(),
            id,
            note,
            etags: Vec::new(),
            running: VecDeque::new(),
            most: (UNDER_WAY / part).max(1) as usize,
            done: false,
        })
    }

    fn start(&mut self, f: impl Future<Output = io::Result<String>> + Send + 'static) -> io::Result<()> {
        while self.running.len() >= self.most {
            self.finish_one()?;
        }
        self.etags.push(String::new());
        let task = self.backing.store.runtime.spawn(f);
        self.running.push_back((self.etags.len() - 1, task));
        Ok(())
    }

    fn finish_one(&mut self) -> io::Result<()> {
        let Some((n, task)) = self.running.pop_front() else { return Ok(()) };
        self.etags[n] = self.backing.store.wait(task).map_err(io::Error::other)??;
        Ok(())
    }

    /// The next part, with these bytes.
    pub fn send(&mut self, body: Vec<u8>) -> io::Result<()> {
        let (core, key, id, n) = self.next();
        self.start(async move { core.store.part(&key, &id, n, body).await })
    }

    /// The next part, a range of another object. Errors: `Unsupported`; then there is no part.
    pub fn copy(&mut self, from: &str, etag: &str, range: (u64, u64)) -> io::Result<()> {
        let (core, key, id, n) = self.next();
        let source = core.store.key(from);
        let s = &self.backing.store;
        self.etags.push(s.wait(s.part_copy(&key, &id, n, (&source, etag), range))?);
        Ok(())
    }

    fn next(&self) -> (Arc<super::Core>, String, String, i32) {
        let b = self.backing;
        (b.core(), b.store.key(&self.path), self.id.clone(), self.etags.len() as i32 + 1)
    }

    /// All parts are there.
    pub fn end(mut self) -> io::Result<Upload> {
        while !self.running.is_empty() {
            self.finish_one()?;
        }
        self.done = true;
        Ok(Upload { id: self.id.clone(), parts: std::mem::take(&mut self.etags), note: self.note.clone() })
    }
}

impl Drop for Parts<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.running.iter().for_each(|r| r.1.abort());
            let upload = Upload { id: self.id.clone(), parts: Vec::new(), note: self.note.clone() };
            self.backing.given_up.lock().push((self.path.clone(), upload));
        }
    }
}

impl BucketBacking {
    pub(super) fn stage_now(
        &self,
        name: &str,
        object: &NewObject,
        content: Content<'_>,
    ) -> io::Result<BackingStat> {
        self.drop_staged(name);
        let attr = &object.attr;
        let mut meta = Meta::new(fresh()?, attr, !object.xattrs.is_empty());
        meta.version = fresh()?;
        let xattrs = object.xattrs.clone();
        let stat = BackingStat { id: BackingId(meta.id), attr: meta.attr(attr.size, 1) };
        let staged = match attr.kind {
            Kind::File if attr.size > self.small_max() => {
                let path =
                    object.at.as_ref().ok_or_else(|| io::Error::other("a large file without a place"))?;
                let path = super::text(path)?.to_owned();
                let upload = self.upload(&path, &meta, attr.size, content)?;
                Staged::Parts { path, upload, meta, size: attr.size, xattrs }
            }
            Kind::File => {
                let mut body = vec![0; attr.size as usize];
                content(&mut |p| {
                    if let Piece::Data { offset, bytes } = p {
                        let at = offset as usize;
                        let to = body.get_mut(at..at + bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
                        to.copy_from_slice(bytes);
                    }
                    Ok(())
                })?;
                Staged::Body { meta, body: Body::from(body), xattrs }
            }
            Kind::Symlink => Staged::Body { meta, body: Body::from(object.target.clone()), xattrs },
            _ => Staged::Body { meta, body: Body::new(), xattrs },
        };
        self.staged.lock().insert(name.to_owned(), staged);
        Ok(stat)
    }

    /// Files up to this size are stored whole.
    pub(super) fn small_max(&self) -> u64 {
        match self.takes_parts.load(std::sync::atomic::Ordering::Relaxed) {
            true => SMALL_MAX,
            false => WHOLE_MAX,
        }
    }

    /// Uploads all of a large file but for the last request.
    fn upload(&self, path: &str, meta: &Meta, size: u64, content: Content<'_>) -> io::Result<Upload> {
        let part = part_bytes(size, PART_MIN);
        let mut parts = Parts::begin(self, path, meta, part)?;
        let mut buf: Vec<u8> = Vec::with_capacity(part as usize);
        let mut at = 0u64;
        let mut add = |bytes: Option<&[u8]>, len: u64| -> io::Result<()> {
            let mut done = 0;
            while done < len {
                let n = (part - buf.len() as u64).min(len - done);
                match bytes {
                    Some(b) => buf.extend_from_slice(&b[done as usize..(done + n) as usize]),
                    None => buf.resize(buf.len() + n as usize, 0),
                }
                done += n;
                if buf.len() as u64 == part {
                    parts.send(std::mem::replace(&mut buf, Vec::with_capacity(part as usize)))?;
                }
            }
            Ok(())
        };
        content(&mut |p| {
            let (offset, len) = match &p {
                Piece::Data { offset, bytes } => (*offset, bytes.len() as u64),
                Piece::Zero { offset, len } => (*offset, *len),
            };
            if offset < at || offset + len > size {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            add(None, offset - at)?;
            at = offset + len;
            match p {
                Piece::Data { bytes, .. } => add(Some(bytes), len),
                Piece::Zero { .. } => add(None, len),
            }
        })?;
        add(None, size - at)?;
        if !buf.is_empty() {
            parts.send(buf)?;
        }
        parts.end()
    }

    pub(super) fn install_now(&self, name: &str, to: &str) -> io::Result<()> {
        let staged = self.staged.lock().remove(name);
        let staged = staged
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "nothing is staged by that name"))?;
        match staged {
            Staged::Link(from) => self.link(&from, to),
            Staged::Body { meta, body, xattrs } => {
                let old = self.make_way(to, meta.kind == Kind::Dir, meta.id)?;
                self.put_xattrs(meta.id, &xattrs);
                let is_dir = meta.kind == Kind::Dir;
                let key = if is_dir { marker(to) } else { to.to_owned() };
                let mut view = self.view.lock();
                let (expect, mine) = expected(&view, &key, old.as_ref());
                view.change(&key, Change::Put { meta: Some(Arc::new(meta)), body, expect, mine });
                if is_dir && old.is_none() {
                    view.is_new(to, super::looks::now_ns());
                }
                let waiting = view.waiting_bytes();
                drop(view);
                if waiting > WAITING_MAX
                    && let Err(e) = self.flush()
                {
                    // The next sync tells of it.
                    log::debug!("{e}");
                }
                Ok(())
            }
            Staged::Parts { path, upload, meta, size, xattrs } => {
                if path != to {
                    self.given_up.lock().push((path.clone(), upload));
                    return Err(io::Error::other(format!("{path} is to be {to} now: it is uploaded again")));
                }
                let old = match self.make_way(to, false, meta.id) {
                    Ok(old) => old,
                    Err(e) => {
                        self.given_up.lock().push((path, upload));
                        return Err(e);
                    }
                };
                self.put_xattrs(meta.id, &xattrs);
                let mut view = self.view.lock();
                let (expect, _) = expected(&view, to, old.as_ref());
                view.change(to, Change::Complete { upload, meta: Arc::new(meta), size, expect });
                Ok(())
            }
        }
    }

    /// Sees that a new object may take a name, and that what had it is no longer counted there.
    pub(super) fn make_way(&self, to: &str, for_dir: bool, id: u64) -> io::Result<Option<Entry>> {
        let Some((e, m)) = self.find(to)? else { return Ok(None) };
        if e.dir {
            if !for_dir {
                self.rmdir_now(to)?;
                return Ok(None);
            }
            self.must_be_empty(to)?;
        } else if for_dir {
            self.unlink_now(to)?;
            return Ok(None);
        }
        if m.id != id {
            self.left(to, &m);
        }
        if let Some(Change::Complete { upload, .. }) = self.view.lock().pending.get(to).cloned() {
            self.given_up.lock().push((to.to_owned(), upload));
        }
        Ok(Some(e))
    }

    pub(super) fn put_xattrs(&self, id: u64, xattrs: &[Xattr]) {
        if !xattrs.is_empty() {
            let body = Body::from(xattrs_body(xattrs));
            let put = Change::Put { meta: None, body, expect: Expect::Any, mine: Vec::new() };
            self.view.lock().change(&xattrs_path(id), put);
        }
    }

    /// Forgets a staged object; false if there is none.
    pub(super) fn drop_staged(&self, name: &str) -> bool {
        match self.staged.lock().remove(name) {
            Some(Staged::Parts { path, upload, .. }) => {
                self.given_up.lock().push((path, upload));
                true
            }
            other => other.is_some(),
        }
    }

    /// Ends the uploads that came to nothing. Those that cannot be ended now are by a later call, or the next mount.
    pub(super) fn end_uploads(&self) {
        let all = std::mem::take(&mut *self.given_up.lock());
        for (path, upload) in all {
            let s = &self.store;
            let r = s.wait(async {
                s.abort(&s.key(&path), &upload.id).await?;
                s.delete(&upload.note, &Expect::Any).await
            });
            if let Err(e) = r {
                log::debug!("{e}");
                self.given_up.lock().push((path, upload));
            }
        }
    }
}

/// Size of the parts of an upload.
pub fn part_bytes(size: u64, least: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    (size.div_ceil(PARTS_MAX).div_ceil(MIB) * MIB).max(least)
}

/// What a write to a key is to find there, and which versions of ours it may find as well.
pub fn expected(view: &super::view::View, key: &str, old: Option<&Entry>) -> (Expect, Vec<u64>) {
    // A marker says nothing that could be lost, and some stores have one for every directory.
    if key.ends_with('/') {
        return (Expect::Any, Vec::new());
    }
    match view.pending.get(key) {
        Some(Change::Put { expect, mine, meta, .. }) => {
            (expect.clone(), mine.iter().copied().chain(meta.as_ref().map(|m| m.version)).collect())
        }
        Some(Change::Delete { expect, mine }) => (expect.clone(), mine.clone()),
        Some(Change::Meta { etag, meta, .. }) => (Expect::Etag(etag.clone()), vec![meta.version]),
        Some(Change::Complete { expect, meta, .. }) => (expect.clone(), vec![meta.version]),
        Some(Change::Copy { .. }) => (Expect::Any, Vec::new()),
        None => match old {
            Some(e) if !e.dir && !e.etag.is_empty() => (Expect::Etag(e.etag.clone()), Vec::new()),
            _ => (Expect::Nothing, Vec::new()),
        },
    }
}

/// The directory of a path.
pub fn parent(path: &str) -> &str {
    split(path).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_their_number_and_memory() {
        assert_eq!(part_bytes(17 << 20, PART_MIN), PART_MIN);
        for size in [SMALL_MAX + 1, 1 << 30, 80 << 30, FILE_MAX] {
            let part = part_bytes(size, PART_MIN);
            assert!(size.div_ceil(part) <= PARTS_MAX && part <= PART_MAX, "{size}");
        }
    }

    #[test]
    fn xattrs_are_kept_in_lines() {
        let all: Vec<Xattr> = vec![
            (b"user.a b"[..].into(), b"x\ny\0".to_vec()),
            (b"user.\xff"[..].into(), Vec::new()),
            ("user.ü".as_bytes().into(), (0..=255).collect()),
        ];
        assert_eq!(xattrs_of(&xattrs_body(&all)), all);
        assert_eq!(xattrs_of(b"nonsense"), []);
    }
}
