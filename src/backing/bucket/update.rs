//! Changing what is there: attributes alone by a copy onto itself, a small file by storing it whole, a large one by
//! an upload whose unchanged parts the store copies itself.

use super::BucketBacking;
use super::client::{Body, Expect};
use super::flush::RANGE_MAX;
use super::links::Said;
use super::meta::Meta;
use super::multipart::is_unsupported;
use super::stage::{Parts, expected, fresh, marker, part_bytes, xattrs_path};
use super::view::{Change, Entry};
use crate::backing::{AttrChange, Piece, Update};
use crate::types::Kind;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Smallest part of an upload but its last.
const PART_MIN: u64 = 5 << 20;

fn changed(m: &Meta, change: &AttrChange) -> io::Result<Meta> {
    let mut now = m.clone();
    now.mode = change.mode.unwrap_or(m.mode) & 0o7777;
    (now.uid, now.gid) = change.owner.unwrap_or((m.uid, m.gid));
    (now.atime, now.mtime) = change.times.unwrap_or((m.atime, m.mtime));
    if let Some(x) = &change.xattrs {
        now.xattrs = !x.is_empty();
    }
    now.version = fresh()?;
    Ok(now)
}

/// The unchanged and the changed parts of a large file, in order.
struct Weaver<'a> {
    backing: &'a BucketBacking,
    path: &'a str,
    etag: String,
    /// Bytes of the old content that count.
    old: u64,
    size: u64,
    part: u64,
    parts: Parts<'a>,
    /// The part that is being changed, and its bytes.
    at: u64,
    body: Option<Vec<u8>>,
}

impl Weaver<'_> {
    fn bounds(&self, n: u64) -> (u64, u64) {
        (n * self.part, ((n + 1) * self.part).min(self.size))
    }

    /// Bytes of a part as they were, zeros where nothing was.
    fn before(&self, (start, end): (u64, u64)) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let upto = end.min(self.old);
        if start < upto {
            let s = &self.backing.store;
            bytes = s.wait(s.get(&s.key(self.path), Some(&self.etag), Some((start, upto))))?;
            if bytes.len() as u64 != upto - start {
                let text = format!("{}: the store gave {} bytes of {}", self.path, bytes.len(), upto - start);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
        bytes.resize((end - start) as usize, 0);
        Ok(bytes)
    }

    fn close(&mut self) -> io::Result<()> {
        if let Some(body) = self.body.take() {
            self.parts.send(body)?;
            self.at += 1;
        }
        Ok(())
    }

    /// All parts before this one.
    fn upto(&mut self, n: u64) -> io::Result<()> {
        self.close()?;
        while self.at < n {
            let start = self.at * self.part;
            // As many whole old parts as one request copies.
            let whole = (self.old / self.part).min(n).max(self.at);
            let last = if self.old >= self.size { n } else { whole };
            let most = (RANGE_MAX / self.part).max(1);
            let run = last.saturating_sub(self.at).min(most);
            if run > 0 && self.backing.copies_ranges.load(Ordering::Relaxed) {
                let end = self.bounds(self.at + run - 1).1;
                match self.parts.copy(self.path, &self.etag, (start, end)) {
                    Ok(()) => {
                        self.at += run;
                        continue;
                    }
                    Err(e) if is_unsupported(&e) => {
                        log::info!("the store copies no ranges: a changed large file is uploaded whole");
                        self.backing.copies_ranges.store(false, Ordering::Relaxed);
                    }
                    Err(e) => return Err(e),
                }
            }
            let body = self.before(self.bounds(self.at))?;
            self.parts.send(body)?;
            self.at += 1;
        }
        Ok(())
    }

    fn change(&mut self, offset: u64, len: u64, bytes: Option<&[u8]>) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let n = at / self.part;
            if n < self.at || at >= self.size {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let (start, end) = self.bounds(n);
            let take = (end - at).min(len - done);
            if n != self.at || self.body.is_none() {
                self.upto(n)?;
                let whole = take == end - start;
                self.body = Some(if whole { vec![0; take as usize] } else { self.before((start, end))? });
            }
            if let Some(body) = &mut self.body {
                let to = &mut body[(at - start) as usize..(at - start + take) as usize];
                match bytes {
                    Some(b) => to.copy_from_slice(&b[done as usize..(done + take) as usize]),
                    None => to.fill(0),
                }
            }
            done += take;
        }
        Ok(())
    }
}

impl BucketBacking {
    pub(super) fn update_now(&self, path: &str, update: Update<'_>) -> io::Result<()> {
        if self.view.lock().pending.contains_key(path) {
            self.flush_for(&[path])?;
        }
        let (e, m) = self.at(path)?;
        if m.kind != Kind::File {
            return Err(io::ErrorKind::StaleNetworkFileHandle.into());
        }
        let meta = Arc::new(changed(&m, update.then)?);
        if let Some(x) = &update.then.xattrs {
            self.set_xattrs(&m, x);
        }
        let size = update.size;
        let change = if size <= self.small_max() {
            let body = Body::from(self.small(path, &e, update)?);
            let (expect, mine) = expected(&self.view.lock(), path, Some(&e));
            Change::Put { meta: Some(meta.clone()), body, expect, mine }
        } else {
            let part = part_bytes(size, PART_MIN);
            let old = e.size.min(update.keep).min(size);
            let parts = Parts::begin(self, path, &meta, part)?;
            let mut w = Weaver {
                backing: self,
                path,
                etag: e.etag.clone(),
                old,
                size,
                part,
                parts,
                at: 0,
                body: None,
            };
            (update.content)(&mut |p| match p {
                Piece::Data { offset, bytes } => w.change(offset, bytes.len() as u64, Some(bytes)),
                Piece::Zero { offset, len } => w.change(offset, len, None),
            })?;
            w.upto(size.div_ceil(part))?;
            let upload = w.parts.end()?;
            Change::Complete { upload, meta: meta.clone(), size, expect: Expect::Etag(e.etag.clone()) }
        };
        let others = self.other_names(path, m.id);
        let mut view = self.view.lock();
        view.change(path, change);
        // Of the same file: they get its content from there.
        for other in others {
            let from = self.store.key(path);
            let meta = Arc::new(Meta { version: fresh()?, ..(*meta).clone() });
            view.change(&other, Change::Copy { from, size, meta });
        }
        Ok(())
    }

    /// A small file's whole content. What is old of it is fetched only if something is.
    fn small(&self, path: &str, e: &Entry, update: Update<'_>) -> io::Result<Vec<u8>> {
        let mut body = vec![0; update.size as usize];
        let mut covered: Vec<(u64, u64)> = Vec::new();
        (update.content)(&mut |p| {
            let (start, len) = match &p {
                Piece::Data { offset, bytes } => (*offset, bytes.len() as u64),
                Piece::Zero { offset, len } => (*offset, *len),
            };
            let to =
                body.get_mut(start as usize..(start + len) as usize).ok_or(io::ErrorKind::InvalidInput)?;
            if let Piece::Data { bytes, .. } = p {
                to.copy_from_slice(bytes);
            }
            covered.push((start, start + len));
            Ok(())
        })?;
        let old = e.size.min(update.keep).min(update.size);
        covered.sort_unstable();
        let (mut at, mut gaps) = (0, Vec::new());
        for (start, end) in covered.into_iter().chain([(old, old)]) {
            if start > at && at < old {
                gaps.push((at, start.min(old)));
            }
            at = at.max(end);
        }
        if !gaps.is_empty() {
            let s = &self.store;
            let bytes = s.wait(s.get(&s.key(path), Some(&e.etag), Some((0, old))))?;
            for (start, end) in gaps {
                let (start, end) = (start as usize, end as usize);
                let was = bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
                body[start..end].copy_from_slice(was);
            }
        }
        Ok(body)
    }

    fn set_xattrs(&self, m: &Meta, xattrs: &[crate::backing::Xattr]) {
        self.put_xattrs(m.id, xattrs);
        if xattrs.is_empty() && m.xattrs {
            let gone = Change::Delete { expect: Expect::Any, mine: Vec::new() };
            self.view.lock().change(&xattrs_path(m.id), gone);
        }
    }

    pub(super) fn set_attr_now(&self, path: &str, kind: Kind, change: &AttrChange) -> io::Result<()> {
        let (e, m) = self.at(path)?;
        if m.kind != kind {
            return Err(io::ErrorKind::StaleNetworkFileHandle.into());
        }
        let now = changed(&m, change)?;
        if let Some(x) = &change.xattrs {
            self.set_xattrs(&m, x);
        }
        if now.says_as(&m) {
            return Ok(());
        }
        self.say(path, &e, now.clone())?;
        for other in self.other_names(path, m.id) {
            if let Some((e, _)) = self.find(&other)? {
                self.say(&other, &e, Meta { version: fresh()?, ..now.clone() })?;
            }
        }
        Ok(())
    }

    /// Gives an object other metadata.
    fn say(&self, path: &str, e: &Entry, now: Meta) -> Said {
        let meta = Arc::new(now);
        if e.dir {
            let put =
                Change::Put { meta: Some(meta), body: Body::new(), expect: Expect::Any, mine: Vec::new() };
            self.view.lock().change(&marker(path), put);
            return Ok(());
        }
        let pending = self.view.lock().pending.get(path).cloned();
        let change = match pending {
            Some(Change::Put { meta: Some(before), body, expect, mut mine }) => {
                mine.push(before.version);
                Change::Put { meta: Some(meta), body, expect, mine }
            }
            Some(Change::Complete { .. } | Change::Copy { .. }) => {
                self.flush_for(&[path])?;
                let (e, _) = self.at(path)?;
                Change::Meta { etag: e.etag, size: e.size, meta }
            }
            _ => Change::Meta { etag: e.etag.clone(), size: e.size, meta },
        };
        self.view.lock().change(path, change);
        Ok(())
    }
}
