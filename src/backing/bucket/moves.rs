//! Moving what is there. A file is copied and then removed; a death in between leaves it under both names, which
//! recovery sees by its number. A tree has no such moment: what is moved where is said in `.forelog/move` first, the
//! marker of the new place comes last of the copies and makes the move count, the old keys go after it. A move
//! that does not come so far is hidden and undone; one that a death broke off is done again by the next mount.

use super::BucketBacking;
use super::client::{Body, Expect};
use super::error::CHANGED;
use super::flush::{AT_ONCE, copy_any, many};
use super::links::{decoded, encoded};
use super::meta::Meta;
use super::stage::{expected, fresh, marker, parent};
use super::view::{Change, Entry};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

const JOURNAL: &str = ".forelog/move";

/// A move of a tree that is under way.
#[derive(Clone, Debug)]
pub struct Move {
    to: String,
    /// The new place counts.
    counts: bool,
    /// Keys made there.
    made: Vec<String>,
}

/// Keys of a tree that was copied, relative to it, and the version of each.
type Copied = Vec<(String, String)>;

fn is_below(path: &str, dir: &str) -> bool {
    path == dir || path.strip_prefix(dir).is_some_and(|r| r.starts_with('/'))
}

impl BucketBacking {
    /// True for the new place of a move that does not count yet.
    pub(super) fn hides(&self, path: &str) -> bool {
        self.moving.lock().as_ref().is_some_and(|m| !m.counts && is_below(path, &m.to))
    }

    pub(super) fn rename_now(&self, from: &str, to: &str) -> io::Result<()> {
        self.flush_for(&[from, to])?;
        if from == to {
            return Ok(());
        }
        let (e, m) = self.at(from)?;
        let old = self.make_way(to, e.dir, m.id)?;
        self.flush_for(&[from, to])?;
        if e.dir
            && let Some(m) = &*self.moving.lock()
        {
            // The store lets nothing of the old place be removed: there is one journal.
            let text = format!("moving {from} to {to}: the move to {} before it is not ended yet", m.to);
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        self.must_be_as_known(to, e.dir, m.id, old.as_ref())?;
        if e.dir {
            return self.move_tree(from, to, &m);
        }
        self.copy_to(from, &e, &m, to)?;
        self.files.moved(m.id, &self.store.key(to));
        let mut view = self.view.lock();
        let (expect, _) = expected(&view, from, Some(&e));
        view.change(from, Change::Delete { expect, mine: Vec::new() });
        drop(view);
        self.renamed_names(|n| (n == from).then(|| to.to_owned()));
        Ok(())
    }

    /// Looks anew at what a move is about to copy over: a copy has no condition on its target, and listings may be old.
    fn must_be_as_known(&self, to: &str, dir: bool, id: u64, old: Option<&Entry>) -> io::Result<()> {
        let s = &self.store;
        let changed = if dir {
            !self.below(to)?.is_empty()
        } else {
            let known = old.filter(|e| !e.dir);
            s.wait(s.head(&s.key(to)))?.is_some_and(|t| {
                let same = known.is_some_and(|k| {
                    k.etag == t.etag
                        || k.meta.as_ref().is_some_and(|m| m.version != 0 && m.version == t.meta.version)
                });
                // Ours: the answer to an earlier copy was lost.
                !same && t.meta.id != id
            })
        };
        if !changed {
            return Ok(());
        }
        let mut view = self.view.lock();
        view.forget_below(to);
        view.doubt(parent(to));
        Err(io::Error::new(CHANGED, format!("moving to {to}: something else changed it meanwhile")))
    }

    /// Keys below a directory, without its own marker, relative to it.
    fn below(&self, dir: &str) -> io::Result<Vec<String>> {
        let s = &self.store;
        let prefix = s.key(&marker(dir));
        let all = s.wait(s.list_all(&prefix, true))?;
        let keys = all.objects.into_iter().map(|o| o.key).chain(s.dirs_below(dir));
        let rest: BTreeSet<String> =
            keys.filter_map(|k| k.strip_prefix(&prefix).map(str::to_owned)).collect();
        Ok(rest.into_iter().filter(|r| !r.is_empty()).collect())
    }

    fn move_tree(&self, from: &str, to: &str, m: &Meta) -> io::Result<()> {
        let s = &self.store;
        let said = format!("{}\n{}\n", encoded(from.as_bytes()), encoded(to.as_bytes()));
        s.wait(s.put(&s.key(JOURNAL), None, Body::from(said.into_bytes()), &Expect::Any))?;
        *self.moving.lock() = Some(Move { to: to.to_owned(), counts: false, made: Vec::new() });
        match self.copy_tree(from, to, m) {
            Ok((old, etag)) => {
                if let Some(m) = self.moving.lock().as_mut() {
                    m.counts = true;
                }
                self.moved_tree(from, to, m, old, etag);
                Ok(())
            }
            Err(e) => {
                // If this fails as well, the next flush tries again.
                if let Err(e) = self.end_move() {
                    log::debug!("{e}");
                }
                Err(e)
            }
        }
    }

    /// Copies a tree; returns the old keys, relative, with the versions that were copied, and the version of the new marker.
    fn copy_tree(&self, from: &str, to: &str, m: &Meta) -> io::Result<(Copied, String)> {
        let s = &self.store;
        let old = self.below(from)?;
        let longest = old.iter().map(|k| k.len()).max().unwrap_or(0) + s.key(to).len() + 1;
        if longest > super::house::KEY_MAX {
            let text =
                format!("moving {from} to {to}: a key would have {longest} bytes, and at most 1024 can be");
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, text));
        }
        // Directories without a marker get one: their numbers come from their keys, which change.
        let mut dirs: BTreeSet<String> = BTreeSet::new();
        for k in &old {
            let mut at = parent(k.trim_end_matches('/'));
            while !at.is_empty() && dirs.insert(marker(at)) {
                at = parent(at);
            }
        }
        let all: BTreeSet<String> = old.iter().cloned().chain(dirs).collect();
        let made: Vec<String> = all.iter().map(|k| format!("{to}/{k}")).collect();
        if let Some(m) = self.moving.lock().as_mut() {
            m.made = made;
        }
        let work = all.into_iter().map(|k| {
            let (core, source, target) =
                (self.core(), s.key(&format!("{from}/{k}")), s.key(&format!("{to}/{k}")));
            async move { core.copy_one(&source, &target).await.map(|etag| (k, etag)) }
        });
        let copied = s.wait(many(work, AT_ONCE)).into_iter().collect::<io::Result<Copied>>()?;
        let listed: BTreeSet<String> = old.into_iter().collect();
        let old = copied.into_iter().filter(|(k, _)| listed.contains(k)).collect();
        let meta = Meta { version: fresh()?, ..m.clone() };
        let etag = s.wait(s.put_marker(&s.key(&marker(to)), &meta))?;
        Ok((old, etag))
    }

    /// The new place counts: so it is seen, and the old keys are on their way out.
    fn moved_tree(&self, from: &str, to: &str, m: &Meta, old: Copied, etag: String) {
        let mut view = self.view.lock();
        view.forget_below(from);
        view.forget_below(to);
        let now = Entry { dir: true, etag, size: 0, modified: 0, meta: Some(Arc::new(m.clone())) };
        view.set(&marker(to), Some(now));
        for (k, etag) in old {
            // What something else changed since it was copied stays.
            let expect = if etag.is_empty() { Expect::Any } else { Expect::Etag(etag) };
            view.change(&format!("{from}/{k}"), Change::Delete { expect, mine: Vec::new() });
        }
        view.change(&marker(from), Change::Delete { expect: Expect::Any, mine: Vec::new() });
        drop(view);
        let moved =
            |path: &str| path.strip_prefix(from).filter(|r| r.starts_with('/')).map(|r| format!("{to}{r}"));
        let (a, b) = (self.store.key(&marker(from)), self.store.key(&marker(to)));
        self.files.moved_tree(&a, &b);
        self.renamed_names(moved);
    }

    /// Ends a move, unless it counts and the store refused to remove some of what it left.
    pub(super) fn end_move_if_gone(&self) -> io::Result<()> {
        let counts = self.moving.lock().as_ref().is_some_and(|m| m.counts);
        let stays = counts && {
            let view = self.view.lock();
            view.refused.keys().any(|k| matches!(view.pending.get(k), Some(Change::Delete { .. })))
        };
        if stays { Ok(()) } else { self.end_move() }
    }

    /// Ends a move: one that counts once its old keys are gone, another by taking its copies away.
    pub(super) fn end_move(&self) -> io::Result<()> {
        let Some(m) = self.moving.lock().clone() else { return Ok(()) };
        let s = &self.store;
        if !m.counts {
            let work = m.made.iter().map(|k| {
                let (core, key) = (self.core(), s.key(k));
                async move {
                    match key.ends_with('/') {
                        true => core.store.delete_marker(&key).await,
                        false => core.store.delete(&key, &Expect::Any).await,
                    }
                }
            });
            s.wait(many(work, AT_ONCE)).into_iter().collect::<io::Result<Vec<()>>>()?;
        }
        s.wait(s.delete(&s.key(JOURNAL), &Expect::Any))?;
        *self.moving.lock() = None;
        let mut view = self.view.lock();
        view.forget_below(&m.to);
        view.doubt(parent(&m.to));
        Ok(())
    }

    /// Old keys of a move that counts, with their versions: what came there since or was changed, and so was not moved,
    /// is left out.
    fn copied(&self, from: &str, to: &str, there: &BTreeSet<String>) -> io::Result<Copied> {
        let s = &self.store;
        let work = self.below(from)?.into_iter().filter(|k| there.contains(k)).map(|k| {
            let (core, a, b) = (self.core(), s.key(&format!("{from}/{k}")), s.key(&format!("{to}/{k}")));
            async move {
                if k.ends_with('/') {
                    return Ok(Some((k, String::new())));
                }
                let (Some(a), Some(b)) = (core.store.head(&a).await?, core.store.head(&b).await?) else {
                    return Ok(None);
                };
                let same = a.meta.version == b.meta.version && a.size == b.size;
                Ok(same.then_some((k, a.etag)))
            }
        });
        let all = s.wait(many(work, AT_ONCE)).into_iter().collect::<io::Result<Vec<_>>>()?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Ends a move that a death broke off.
    pub(super) fn resume_move(&self) -> io::Result<()> {
        let s = &self.store;
        let said = match s.wait(s.get(&s.key(JOURNAL), None, None)) {
            Ok(b) => b,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let text = String::from_utf8(said).unwrap_or_default();
        let paths: Vec<String> = text.lines().filter_map(decoded).collect();
        if let [from, to] = &paths[..]
            && let Some((_, m)) = self.find(from)?
        {
            let there: BTreeSet<String> = self.below(to)?.into_iter().collect();
            let counts = s.wait(s.head_marker(&s.key(&marker(to))))?.is_some_and(|t| t.meta.id == m.id);
            log::info!("the move of {from} to {to} was broken off; it is ended now");
            if counts {
                let old = self.copied(from, to, &there)?;
                let etag = String::new();
                self.moved_tree(from, to, &m, old, etag);
                *self.moving.lock() = Some(Move { to: to.clone(), counts: true, made: Vec::new() });
            } else {
                self.move_tree(from, to, &m)?;
            }
            self.flush()?;
            self.view.lock().forget();
        }
        s.wait(s.delete(&s.key(JOURNAL), &Expect::Any))
    }
}

impl super::Core {
    /// Copies one key of a tree, with what makes it the same object. Returns the version that was copied; empty for a
    /// marker.
    async fn copy_one(&self, source: &str, target: &str) -> io::Result<String> {
        let s = &self.store;
        if source.ends_with('/') {
            let meta = match s.head_marker(source).await? {
                Some(t) => t.meta,
                None => Meta::implicit(source, s.owner.0, s.owner.1, Default::default()),
            };
            return s.put_marker(target, &meta).await.map(|_| String::new());
        }
        // Gone since it was listed: then there is nothing to move.
        let Some(t) = s.head(source).await? else { return Ok(String::new()) };
        copy_any(s, source, &t.etag, t.size, target, &t.meta).await.map(|_| t.etag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_not_beside() {
        assert!(is_below("a/b", "a/b") && is_below("a/b/c", "a/b"));
        assert!(!is_below("a/bc", "a/b") && !is_below("a", "a/b"));
    }
}
