//! Making the changes that are on their way, many at a time: removals first and the deepest of them first, then what
//! is new, then copies of it. What fails stays on its way; what something else changed does not.

use super::BucketBacking;
use super::client::{Expect, Store};
use super::error::{is_changed, is_refused, refused};
use super::meta::Meta;
use super::stage::fresh;
use super::view::{Change, Refusal, split};
use std::future::Future;
use std::io;
use tokio::task::{JoinError, JoinSet};

/// Requests under way at a time.
pub const AT_ONCE: usize = 32;

/// Largest object that one request copies, and largest range that a part of an upload copies.
const COPY_MAX: u64 = 5 << 30;
pub const RANGE_MAX: u64 = 1 << 30;

/// Runs all, so many at a time, and gives back what each said, in any order; of a task that died, that it did.
pub async fn many<T, F>(work: impl IntoIterator<Item = F>, at_once: usize) -> Vec<io::Result<T>>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let (mut set, mut out) = (JoinSet::new(), Vec::new());
    let said = |r: Result<io::Result<T>, JoinError>| r.unwrap_or_else(|e| Err(io::Error::other(e)));
    for f in work {
        while set.len() >= at_once {
            out.extend(set.join_next().await.map(said));
        }
        set.spawn(f);
    }
    while let Some(r) = set.join_next().await {
        out.push(said(r));
    }
    out
}

/// Copies an object of any size, with new metadata.
pub async fn copy_any(
    store: &Store,
    from: &str,
    etag: &str,
    size: u64,
    to: &str,
    meta: &Meta,
) -> io::Result<String> {
    if size <= COPY_MAX {
        return store.copy(from, etag, to, meta).await;
    }
    let (id, note) = store.begin_noted(to, meta).await?;
    let mut parts = Vec::new();
    let mut at = 0;
    while at < size {
        let end = (at + RANGE_MAX).min(size);
        match store.part_copy(to, &id, parts.len() as i32 + 1, (from, etag), (at, end)).await {
            Ok(e) => parts.push(e),
            Err(e) => {
                // If it cannot be ended now, it is by its note.
                match store.abort(to, &id).await {
                    Ok(()) => store.delete(&note, &Expect::Any).await?,
                    Err(e) => log::debug!("{e}"),
                }
                return Err(e);
            }
        }
        at = end;
    }
    let made = store.complete(to, &id, &parts, &Expect::Any).await?;
    store.delete(&note, &Expect::Any).await?;
    Ok(made)
}

/// Makes one change; returns the version that is there now.
async fn make(store: &Store, key: &str, change: &Change) -> io::Result<String> {
    match change {
        Change::Put { meta, body, expect, mine } => {
            if let Some(m) = meta.as_deref().filter(|_| key.ends_with('/')) {
                return store.put_marker(key, m).await;
            }
            let first = store.put(key, meta.as_deref(), body.clone(), expect).await;
            let Some(meta) = meta else { return first };
            let e = match first {
                // Some stores say so of what is to be replaced and is not there.
                Err(e) if is_changed(&e) || e.kind() == io::ErrorKind::NotFound => e,
                other => return other,
            };
            // The answer to an earlier try may have been lost.
            match store.head(key).await? {
                Some(s) if s.meta.version == meta.version => Ok(s.etag),
                Some(s) if mine.contains(&s.meta.version) => {
                    store.put(key, Some(meta), body.clone(), &Expect::Etag(s.etag)).await
                }
                // Something else removed what was to be replaced: no harm.
                None if matches!(expect, Expect::Etag(_)) => {
                    store.put(key, Some(meta), body.clone(), &Expect::Nothing).await
                }
                _ => Err(e),
            }
        }
        Change::Meta { etag, size, meta } => match copy_any(store, key, etag, *size, key, meta).await {
            Err(e) if is_changed(&e) => match store.head(key).await? {
                Some(s) if s.meta.version == meta.version => Ok(s.etag),
                _ => Err(e),
            },
            other => other,
        },
        Change::Complete { upload, meta, expect, .. } => {
            let r = store.complete(key, &upload.id, &upload.parts, expect).await;
            let etag = match r {
                Err(e) if is_changed(&e) || e.kind() == io::ErrorKind::NotFound => {
                    match store.head(key).await? {
                        Some(s) if s.meta.version == meta.version => s.etag,
                        _ => return Err(io::Error::new(super::error::CHANGED, e.to_string())),
                    }
                }
                other => other?,
            };
            // At worst a note of an upload that is no more.
            let _ = store.delete(&upload.note, &Expect::Any).await;
            // Some stores have another version in their answer than in their listings.
            Ok(if etag.is_empty() {
                store.head(key).await?.map(|s| s.etag).unwrap_or_default()
            } else {
                etag
            })
        }
        Change::Copy { from, size, meta } => {
            let there = store.head(from).await?.ok_or(io::ErrorKind::NotFound)?;
            copy_any(store, from, &there.etag, *size, key, meta).await
        }
        Change::Delete { .. } if key.ends_with('/') => store.delete_marker(key).await.map(|()| String::new()),
        Change::Delete { expect, mine } => delete(store, key, expect, mine).await.map(|()| String::new()),
    }
}

/// Removes what is known to stand under a key: this version, or one of ours whose arrival was not told.
async fn delete(store: &Store, key: &str, expect: &Expect, mine: &[u64]) -> io::Result<()> {
    let e = match expect {
        Expect::Any => return store.delete(key, expect).await,
        Expect::Etag(_) => match store.delete(key, expect).await {
            Err(e) if is_changed(&e) => e,
            other => return other,
        },
        Expect::Nothing => {
            let text = format!("removing {key}: something else stored it meanwhile");
            io::Error::new(super::error::CHANGED, text)
        }
    };
    match store.head(key).await? {
        // An earlier try took it away.
        None => Ok(()),
        Some(s) if mine.contains(&s.meta.version) => store.delete(key, &Expect::Etag(s.etag)).await,
        Some(_) => Err(e),
    }
}

/// In which round a change is made: removals by their depth, then the others.
fn round(key: &str, change: &Change) -> (u8, usize) {
    let depth = key.trim_end_matches('/').split('/').count();
    match change {
        Change::Delete { .. } => (0, usize::MAX - depth),
        Change::Copy { .. } => (2, 0),
        _ => (1, 0),
    }
}

/// Whether a key is that of a path, or below it.
fn concerns(key: &str, path: &str) -> bool {
    let (a, b) = (key.trim_end_matches('/'), path.trim_end_matches('/'));
    b.is_empty() || a.strip_prefix(b).is_some_and(|r| r.is_empty() || r.starts_with('/'))
}

impl BucketBacking {
    /// As `flush`. Errors: also that something was refused that has to do with these paths.
    pub(super) fn flush_for(&self, paths: &[&str]) -> io::Result<()> {
        self.flush()?;
        let view = self.view.lock();
        match view.refused.iter().find(|(k, _)| paths.iter().any(|p| concerns(k, p))) {
            Some((_, r)) => Err(io::Error::new(r.kind, r.text.clone())),
            None => Ok(()),
        }
    }

    /// Makes all changes that are on their way. Errors: one of them failed; the others were made. What the store
    /// refuses stays on its way (`View::refused`) and is no error here.
    pub(super) fn flush(&self) -> io::Result<()> {
        let _one_at_a_time = self.flushing.lock();
        let now_ns = super::looks::now_ns();
        let mut all: Vec<((u8, usize), String, Change)> = {
            let view = self.view.lock();
            let due = |k: &String| view.refused.get(k).is_none_or(|r| r.retry.is_due(now_ns));
            let due = view.pending.iter().filter(|(k, _)| due(k));
            due.map(|(k, c)| (round(k, c), k.clone(), c.clone())).collect()
        };
        all.sort_by_key(|c| c.0);
        let mut rest = all.as_slice();
        let mut moved = false;
        while let Some((now, _, _)) = rest.first() {
            if now.0 > 0 && !moved {
                // What was moved away is gone now.
                self.end_move_if_gone()?;
                moved = true;
            }
            let n = rest.iter().take_while(|c| c.0 == *now).count();
            let (these, later) = rest.split_at(n);
            // What comes later may rely on it.
            self.flush_round(these)?;
            rest = later;
        }
        self.end_move_if_gone()
    }

    /// What the store refused and has not taken since.
    pub(super) fn refused_now(&self) -> Vec<(String, io::Error)> {
        let view = self.view.lock();
        let one = |(k, r): (&String, &Refusal)| {
            (k.trim_end_matches('/').to_owned(), io::Error::new(r.kind, r.text.clone()))
        };
        view.refused.iter().map(one).collect()
    }

    fn flush_round(&self, these: &[((u8, usize), String, Change)]) -> io::Result<()> {
        let work = these.iter().map(|(_, key, change)| {
            let (backing, key, change) = (self.core(), key.clone(), change.clone());
            async move {
                let full = backing.store.key(&key);
                if let Some(e) = backing.waits_for_refused(&key, &change) {
                    return backing.made(&key, &change, Err(e));
                }
                let r = make(&backing.store, &full, &change).await;
                backing.made(&key, &change, r)
            }
        });
        self.store.wait(many(work, AT_ONCE)).into_iter().collect()
    }
}

impl super::Core {
    /// A copy of what the store refused has to wait for it, and so has the removal of a directory for that of what is in it:
    /// by its marker a death finds what it is.
    fn waits_for_refused(&self, key: &str, change: &Change) -> Option<io::Error> {
        let view = self.view.lock();
        let refusal = match change {
            Change::Copy { from, .. } => {
                view.refused.get(from.strip_prefix(&self.store.base).unwrap_or(from))
            }
            Change::Delete { .. } if key.ends_with('/') => {
                let mut below = view.refused.range(key.to_owned()..).take_while(|(k, _)| k.starts_with(key));
                below.find(|(k, _)| *k != key && view.pending.contains_key(*k)).map(|(_, r)| r)
            }
            _ => None,
        };
        refusal.map(|r| refused(r.kind, r.text.clone()))
    }

    /// Takes in what became of a change.
    fn made(&self, key: &str, change: &Change, r: io::Result<String>) -> io::Result<()> {
        match r {
            Ok(etag) => {
                let (id, size) = match change {
                    Change::Put { meta: Some(m), body, .. } => (m.id, body.len() as u64),
                    Change::Meta { meta, size, .. }
                    | Change::Complete { meta, size, .. }
                    | Change::Copy { meta, size, .. } => (meta.id, *size),
                    _ => (0, 0),
                };
                self.files.changed(id, &self.store.key(key), &etag, size);
                self.view.lock().arrived(key, change, etag);
                Ok(())
            }
            Err(e) if is_changed(&e) => {
                log::warn!("{e}: both versions are kept");
                let mut view = self.view.lock();
                view.pending.remove(key);
                view.refused.remove(key);
                view.doubt(split(key.trim_end_matches('/')).0);
                drop(view);
                if let Change::Complete { upload, .. } = change {
                    self.given_up.lock().push((key.to_owned(), upload.clone()));
                }
                Err(e)
            }
            // Without what lies beside the files nothing is complete.
            Err(e) if is_refused(&e) && !key.starts_with(super::OURS) => {
                let mut view = self.view.lock();
                let before = view.refused.get(key).map(|r| r.retry).unwrap_or_default();
                let retry = before.later(super::looks::now_ns(), fresh().unwrap_or_default());
                let refusal = Refusal { kind: e.kind(), text: e.to_string(), retry };
                view.refused.insert(key.to_owned(), refusal);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_concerns_what_is_above_it() {
        assert!(
            concerns("a/b", "a/b")
                && concerns("a/b/", "a/b")
                && concerns("a/b/c", "a/b")
                && concerns("a", "")
        );
        assert!(!concerns("a/bc", "a/b") && !concerns("a", "a/b"));
    }
}
