//! Making the changes that are on their way, many at a time: removals first and the deepest of them first, then what
//! is new, then copies of it. What fails stays on its way; what something else changed does not.

use super::BucketBacking;
use super::client::{Expect, Store};
use super::error::is_changed;
use super::meta::Meta;
use super::view::{Change, split};
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
                Err(e) if is_changed(&e) => e,
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
        Change::Meta { etag, size, meta } => copy_any(store, key, etag, *size, key, meta).await,
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
        Change::Delete { expect } => store.delete(key, expect).await.map(|()| String::new()),
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

impl BucketBacking {
    /// Makes all changes that are on their way. Errors: one of them failed; the others were made.
    pub(super) fn flush(&self) -> io::Result<()> {
        let _one_at_a_time = self.flushing.lock();
        let mut all: Vec<((u8, usize), String, Change)> = {
            let view = self.view.lock();
            view.pending.iter().map(|(k, c)| (round(k, c), k.clone(), c.clone())).collect()
        };
        if all.is_empty() {
            return self.end_move();
        }
        all.sort_by_key(|c| c.0);
        let mut first_error = None;
        let mut rest = all.as_slice();
        let mut moved = false;
        while let Some((now, _, _)) = rest.first() {
            if now.0 > 0 && !moved {
                // What was moved away is gone now.
                self.end_move()?;
                moved = true;
            }
            let n = rest.iter().take_while(|c| c.0 == *now).count();
            let (these, later) = rest.split_at(n);
            if let Err(e) = self.flush_round(these) {
                // What comes later may rely on it.
                first_error.get_or_insert(e);
                break;
            }
            rest = later;
        }
        match first_error {
            Some(e) => Err(e),
            None => self.end_move(),
        }
    }

    fn flush_round(&self, these: &[((u8, usize), String, Change)]) -> io::Result<()> {
        let work = these.iter().map(|(_, key, change)| {
            let (backing, key, change) = (self.core(), key.clone(), change.clone());
            async move {
                let full = backing.store.key(&key);
                let r = make(&backing.store, &full, &change).await;
                backing.made(&key, &change, r)
            }
        });
        self.store.wait(many(work, AT_ONCE)).into_iter().collect()
    }
}

impl super::Core {
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
                view.doubt(split(key.trim_end_matches('/')).0);
                drop(view);
                if let Change::Complete { upload, .. } = change {
                    self.given_up.lock().push((key.to_owned(), upload.clone()));
                }
                Err(e)
            }
            Err(e) => Err(e),
        }
    }
}
