//! Files with several names: each name is an object with the whole content and the same number; which names these
//! are is said in `.forelog/links/`. And the removal of names.

use super::BucketBacking;
use super::client::{Body, Expect};
use super::flush::{copy_any, many};
use super::meta::Meta;
use super::stage::{expected, fresh, marker, xattrs_path};
use super::view::{Change, Entry};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

pub type Said = io::Result<()>;

const LINKS: &str = ".forelog/links";

const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// Bytes as one word of a line.
pub fn encoded(bytes: &[u8]) -> String {
    percent_encode(bytes, PLAIN).to_string()
}

/// The word back.
pub fn decoded(word: &str) -> Option<String> {
    percent_decode_str(word).decode_utf8().ok().map(Into::into)
}

fn links_path(id: u64) -> String {
    format!("{LINKS}/{id:016x}")
}

impl BucketBacking {
    /// The other names of the file that stands under a path.
    pub(super) fn other_names(&self, path: &str, id: u64) -> Vec<String> {
        let view = self.view.lock();
        let names = view.groups.get(&id).into_iter().flatten();
        names.filter(|n| *n != path).cloned().collect()
    }

    /// Says which names a file has.
    fn say_names(&self, id: u64, names: BTreeSet<String>) {
        let mut view = self.view.lock();
        let change = match names.len() {
            0 | 1 => {
                view.groups.remove(&id);
                Change::Delete { expect: Expect::Any, mine: Vec::new() }
            }
            _ => {
                let lines: String = names.iter().map(|n| encoded(n.as_bytes()) + "\n").collect();
                view.groups.insert(id, names);
                let body = Body::from(lines.into_bytes());
                Change::Put { meta: None, body, expect: Expect::Any, mine: Vec::new() }
            }
        };
        view.change(&links_path(id), change);
    }

    /// Makes `to` another name of the file at `from`.
    pub(super) fn link(&self, from: &str, to: &str) -> Said {
        self.flush_for(&[from, to])?;
        let (e, m) = self.at(from)?;
        if e.dir {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if from == to {
            return Ok(());
        }
        self.make_way(to, false, m.id)?;
        let mut names = self.view.lock().groups.get(&m.id).cloned().unwrap_or_default();
        names.extend([from.to_owned(), to.to_owned()]);
        self.say_names(m.id, names);
        // Known before the copy is there: else a death would leave a second file.
        self.flush_for(&[from, to, &links_path(m.id)])?;
        self.copy_to(from, &e, &m, to)
    }

    /// Copies a file, as the same one, to another key.
    pub(super) fn copy_to(&self, from: &str, e: &Entry, m: &Meta, to: &str) -> Said {
        let meta = Arc::new(Meta { version: fresh()?, ..m.clone() });
        let s = &self.store;
        let (source, target) = (s.key(from), s.key(to));
        let etag = s.wait(async {
            let etag = copy_any(s, &source, &e.etag, e.size, &target, &meta).await?;
            Ok::<_, io::Error>(match etag.is_empty() {
                true => s.head(&target).await?.map(|t| t.etag).unwrap_or_default(),
                false => etag,
            })
        })?;
        let now = Entry { dir: false, etag, size: e.size, modified: 0, meta: Some(meta) };
        self.view.lock().set(to, Some(now));
        Ok(())
    }

    /// A name has another object now, or none: what lies beside goes with the last one.
    pub(super) fn left(&self, path: &str, m: &Meta) {
        let names = self.view.lock().groups.get(&m.id).cloned();
        if let Some(mut names) = names {
            names.remove(path);
            let other = {
                let view = self.view.lock();
                names.iter().find(|n| !view.pending.contains_key(*n)).or(names.first()).cloned()
            };
            self.say_names(m.id, names);
            if let Some(other) = other {
                // Who reads it by the name that goes goes on by another.
                self.files.left(m.id, &self.store.key(path), &self.store.key(&other));
                return;
            }
        }
        if m.xattrs {
            let gone = Change::Delete { expect: Expect::Any, mine: Vec::new() };
            self.view.lock().change(&xattrs_path(m.id), gone);
        }
    }

    /// Names of files change with their paths.
    pub(super) fn renamed_names(&self, new: impl Fn(&str) -> Option<String>) {
        let groups: Vec<(u64, BTreeSet<String>)> = {
            let view = self.view.lock();
            let touched = view.groups.iter().filter(|(_, g)| g.iter().any(|n| new(n).is_some()));
            touched.map(|(id, g)| (*id, g.iter().map(|n| new(n).unwrap_or(n.clone())).collect())).collect()
        };
        groups.into_iter().for_each(|(id, names)| self.say_names(id, names));
    }

    /// Learns which files have several names. Names that do not stand are left out.
    pub(super) fn read_names(&self) -> Said {
        let s = &self.store;
        let listed = s.wait(s.list_all(&s.key(&format!("{LINKS}/")), true))?;
        let work = listed.objects.into_iter().map(|o| {
            let core = self.core();
            async move { core.store.get(&o.key, None, None).await.map(|b| (o.key, b)) }
        });
        for r in s.wait(many(work, super::flush::AT_ONCE)) {
            let (key, body) = r?;
            let id = key.rsplit('/').next().and_then(|n| u64::from_str_radix(n, 16).ok());
            let (Some(id), Ok(text)) = (id, String::from_utf8(body)) else { continue };
            let said: BTreeSet<String> = text.lines().filter_map(decoded).collect();
            let mut names = BTreeSet::new();
            for n in &said {
                if self.find(n)?.is_some_and(|(_, m)| m.id == id) {
                    names.insert(n.clone());
                }
            }
            if names == said || self.read_only {
                self.view.lock().groups.insert(id, names);
            } else {
                self.say_names(id, names);
            }
        }
        Ok(())
    }

    pub(super) fn unlink_now(&self, path: &str) -> Said {
        if let Some(name) = path.strip_prefix(".forelog/tmp/") {
            return if self.drop_staged(name) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) };
        }
        let (e, m) = self.at(path)?;
        if e.dir {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let is_copied = matches!(self.view.lock().pending.get(path), Some(Change::Copy { .. }));
        if is_copied {
            // What it finds there is not known.
            self.flush_for(&[path])?;
        }
        self.left(path, &m);
        let mut view = self.view.lock();
        let (expect, mine) = match view.pending.get(path) {
            // A store that lists no versions.
            None if e.etag.is_empty() => (Expect::Any, Vec::new()),
            _ => expected(&view, path, Some(&e)),
        };
        if let Some(Change::Complete { upload, .. }) = view.pending.get(path).cloned() {
            self.given_up.lock().push((path.to_owned(), upload));
        }
        view.change(path, Change::Delete { expect, mine });
        Ok(())
    }

    pub(super) fn must_be_empty(&self, dir: &str) -> Said {
        let mut any = false;
        self.list_now(dir, &mut |_| any = true)?;
        if any { Err(io::ErrorKind::DirectoryNotEmpty.into()) } else { Ok(()) }
    }

    pub(super) fn rmdir_now(&self, path: &str) -> Said {
        if let Some(name) = path.strip_prefix(".forelog/tmp/") {
            return if self.drop_staged(name) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) };
        }
        let (e, m) = self.at(path)?;
        if !e.dir {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        self.must_be_empty(path)?;
        self.left(path, &m);
        let mut view = self.view.lock();
        view.change(&marker(path), Change::Delete { expect: Expect::Any, mine: Vec::new() });
        view.forget_below(path);
        Ok(())
    }
}
