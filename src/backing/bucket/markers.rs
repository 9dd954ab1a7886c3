//! Directories' markers. Some stores keep no metadata with an object whose key ends in a slash: there it is kept
//! with another one, in `.forelog/dirs/`.

use super::OURS;
use super::client::{Expect, Seen, Store};
use super::meta::{Meta, id_of};
use std::io;
use std::sync::Arc;

impl Store {
    fn beside_marker(&self, key: &str) -> String {
        let path = key.strip_prefix(&self.base).unwrap_or(key);
        self.key(&format!("{OURS}/dirs/{:016x}", id_of(&[path.as_bytes()])))
    }

    fn keeps_beside(&self) -> bool {
        self.markers.get() == Some(&false)
    }

    /// Puts a marker. Returns its version.
    pub async fn put_marker(&self, key: &str, meta: &Meta) -> io::Result<String> {
        if self.keeps_beside() {
            // First what a mount from elsewhere would miss.
            self.put(&self.beside_marker(key), Some(meta), Arc::default(), &Expect::Any).await?;
        }
        self.put(key, Some(meta), Arc::default(), &Expect::Any).await
    }

    /// What a marker says; `None`: there is none.
    pub async fn head_marker(&self, key: &str) -> io::Result<Option<Seen>> {
        let seen = self.head(key).await?;
        if !self.keeps_beside() || seen.as_ref().is_some_and(|s| s.meta.version != 0) {
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
        self.delete(key, &Expect::Any).await?;
        match self.keeps_beside() {
            true => self.delete(&self.beside_marker(key), &Expect::Any).await,
            false => Ok(()),
        }
    }

    /// Finds whether the store keeps metadata with markers: by trying, or where that is not allowed by whether someone
    /// found that it does not.
    pub async fn probe_markers(&self, probe: &str, meta: &Meta, may_write: bool) -> io::Result<()> {
        let keeps = match may_write {
            true => {
                self.put_unfenced(probe, Some(meta), Arc::default(), &Expect::Any).await?;
                let seen = self.head(probe).await?;
                self.delete_unfenced(probe, &Expect::Any).await?;
                seen.is_some_and(|s| s.meta.version == meta.version)
            }
            false => self.list(&self.key(&format!("{OURS}/dirs/")), true, None).await?.objects.is_empty(),
        };
        let _ = self.markers.set(keeps);
        Ok(())
    }
}
