//! Directories' markers. Some stores keep no metadata with an object whose key ends in a slash, others make a file of
//! it: there it is kept with another one, in `.forelog/dirs/`.

use super::client::{Body, Expect, Seen, Store};
use super::flush::{AT_ONCE, many};
use super::links::{decoded, encoded};
use super::meta::{Meta, id_of};
use super::view::split;
use super::{BucketBacking, OURS};
use std::io;

/// What the store makes of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Markers {
    /// An object like any other.
    Kept,
    /// A directory without metadata.
    Bare,
    /// A file in the directory's place: there is none, and directories without files are known by what lies beside.
    Harmful,
}

impl Store {
    fn path_of<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(&self.base).unwrap_or(key).trim_end_matches('/')
    }

    fn beside_marker(&self, key: &str) -> String {
        self.key(&format!("{OURS}/dirs/{:016x}", id_of(&[self.path_of(key).as_bytes()])))
    }

    fn mode(&self) -> Markers {
        self.markers.get().copied().unwrap_or(Markers::Kept)
    }

    /// Whether the store keeps its keys as names of a filesystem, as `rclone serve s3` does.
    pub fn is_directory(&self) -> bool {
        self.mode() == Markers::Harmful
    }

    /// Puts a marker. Returns its version.
    pub async fn put_marker(&self, key: &str, meta: &Meta) -> io::Result<String> {
        let path = self.path_of(key);
        if self.mode() != Markers::Kept {
            // First what a mount from elsewhere would miss.
            let body = Body::from(encoded(path.as_bytes()).into_bytes());
            self.put(&self.beside_marker(key), Some(meta), body, &Expect::Any).await?;
        }
        if self.mode() == Markers::Harmful {
            self.dirs.lock().insert(path.to_owned());
            self.shadows.lock().remove(path);
            return Ok(String::new());
        }
        self.put(key, Some(meta), Body::new(), &Expect::Any).await
    }

    /// What a marker says; `None`: there is none.
    pub async fn head_marker(&self, key: &str) -> io::Result<Option<Seen>> {
        let seen = match self.mode() {
            Markers::Harmful => None,
            _ => self.head(key).await?,
        };
        if self.mode() == Markers::Kept || seen.as_ref().is_some_and(|s| s.meta.version != 0) {
            return Ok(seen);
        }
        let beside = self.head_as(&self.beside_marker(key), key).await?;
        Ok(match (seen, beside) {
            (Some(s), Some(b)) => Some(Seen { meta: b.meta, ..s }),
            // Left by a directory that is gone, if that stands nowhere: then nobody asks.
            (None, beside) => beside.map(|b| Seen { etag: String::new(), ..b }),
            (seen, None) => seen,
        })
    }

    /// Removes a marker.
    pub async fn delete_marker(&self, key: &str) -> io::Result<()> {
        if self.mode() != Markers::Harmful {
            self.delete(key, &Expect::Any).await?;
        } else if self.head(key.trim_end_matches('/')).await?.is_none() {
            // There is no such key, but such a store has a directory, which stays when two removals each saw the other's
            // file in it. It gives the key of a file as well, so never where there is one; and it refuses if it holds any.
            if let Err(e) = self.delete(key, &Expect::Any).await {
                log::debug!("removing what may be left of {key}: {e}");
                self.shadows.lock().insert(self.path_of(key).to_owned());
            }
        }
        if self.mode() != Markers::Kept {
            self.delete(&self.beside_marker(key), &Expect::Any).await?;
        }
        self.dirs.lock().remove(self.path_of(key));
        Ok(())
    }

    /// Whether a directory without a marker is one that we removed, and that the store lists for nothing in it.
    pub async fn is_shadow(&self, path: &str) -> io::Result<bool> {
        if !self.shadows.lock().contains(path) {
            return Ok(false);
        }
        let page = self.list(&self.key(&format!("{path}/")), false, None).await?;
        Ok(page.objects.is_empty() && page.folders.is_empty() && self.dirs_in(path).is_empty())
    }

    /// Keys of the directories in one that are known by what lies beside alone.
    pub fn dirs_in(&self, dir: &str) -> Vec<String> {
        let dirs = self.dirs.lock();
        dirs.iter()
            .filter(|d| !d.is_empty() && split(d).0 == dir)
            .map(|d| self.key(&format!("{d}/")))
            .collect()
    }

    /// As `dirs_in`, of all below one.
    pub fn dirs_below(&self, dir: &str) -> Vec<String> {
        let below = format!("{dir}/");
        let dirs = self.dirs.lock();
        dirs.iter().filter(|d| d.starts_with(&below)).map(|d| self.key(&format!("{d}/"))).collect()
    }
}

impl BucketBacking {
    /// Finds what the store makes of markers: by trying, or where that is not allowed by what someone else has found.
    pub(super) fn probe_markers(&self, probe: &str, meta: &Meta) -> io::Result<()> {
        let s = &self.store;
        let at = s.key(&format!("{OURS}/dirs/"));
        if s.markers.get().is_none() {
            let mode = s.wait(async {
                if self.read_only {
                    let any = !s.list(&at, true, None).await?.objects.is_empty();
                    return Ok::<_, io::Error>(if any { Markers::Bare } else { Markers::Kept });
                }
                s.put_unfenced(probe, Some(meta), Body::new(), &Expect::Any).await?;
                let file = probe.trim_end_matches('/');
                let mode = match (s.head(file).await?, s.head(probe).await?) {
                    (Some(_), _) => Markers::Harmful,
                    (None, Some(k)) if k.meta.version == meta.version => Markers::Kept,
                    _ => Markers::Bare,
                };
                s.delete_unfenced(probe, &Expect::Any).await?;
                if mode == Markers::Harmful {
                    s.delete_unfenced(file, &Expect::Any).await?;
                }
                Ok(mode)
            })?;
            // A second prepare finds the same.
            let _ = s.markers.set(mode);
        }
        if s.mode() == Markers::Harmful || s.mode() == Markers::Bare && self.read_only {
            let listed = s.wait(s.list_all(&at, true))?;
            let work = listed.objects.into_iter().map(|o| {
                let core = self.core();
                async move { core.store.get(&o.key, None, None).await }
            });
            for r in s.wait(many(work, AT_ONCE)) {
                let path = String::from_utf8(r?).ok().and_then(|t| decoded(&t));
                s.dirs.lock().extend(path.filter(|p| !p.is_empty()));
            }
        }
        Ok(())
    }
}
