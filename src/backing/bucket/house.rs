//! `.forelog/` in the bucket: what the store can do, found by trying; what a death left; notes.

use super::client::{Body, Expect, Store};
use super::error::is_changed;
use super::flush::{AT_ONCE, many};
use super::links::decoded;
use super::meta::Meta;
use super::multipart::is_unsupported;
use super::stage::{FILE_MAX, WHOLE_MAX, fresh};
use super::{BucketBacking, Core, OURS};
use crate::backing::{Limits, Names, Note};
use std::io;
use std::sync::atomic::Ordering;

/// Longest key of any store.
pub const KEY_MAX: usize = 1024;

/// How often the first upload in parts is tried.
const PROBES_MAX: u32 = 4;

/// What a bucket takes at most.
pub const WIDEST: Limits = Limits {
    xattr_bytes_max: 64 << 10,
    file_bytes_max: FILE_MAX,
    links_max: 1000,
    name_bytes_max: crate::types::NAME_BYTES_MAX,
    symlinks: true,
    special: true,
    access_lists: false,
    names: Names { path_bytes_max: KEY_MAX, text: true, backslash: true, control: true },
};

/// Finds whether the store obeys conditions, once.
pub fn probe(core: &Core) -> io::Result<()> {
    let s = &core.store;
    if s.conditions.get().is_some() {
        return Ok(());
    }
    let key = s.key(&format!("{OURS}/probe-{:016x}", fresh()?));
    let body = || Body::from_static(&b"forelog tries what the store can do\n"[..]);
    let obeys = s.wait(async {
        let tries = async {
            s.put_unfenced(&key, None, body(), &Expect::Nothing).await?;
            let again = s.put_unfenced(&key, None, body(), &Expect::Nothing).await;
            let other = s.put_unfenced(&key, None, body(), &Expect::Etag("0".repeat(32))).await;
            for r in [&again, &other] {
                if let Err(e) = r
                    && !is_changed(e)
                {
                    return Err(io::Error::new(e.kind(), e.to_string()));
                }
            }
            Ok(again.is_err() && other.is_err())
        };
        let r = tries.await;
        let _ = s.delete_unfenced(&key, &Expect::Any).await;
        r
    })?;
    let _ = s.conditions.set(obeys);
    Ok(())
}

/// Whether an object with such a name is listed by it.
async fn keeps(s: &Store, name: &str) -> io::Result<bool> {
    let dir = s.key(&format!("{OURS}/probe-{:016x}/", fresh()?));
    let key = format!("{dir}{name}");
    let kept = match s.put_unfenced(&key, None, Body::new(), &Expect::Any).await {
        Ok(_) => s.list_all(&dir, true).await?.objects.iter().any(|o| o.key == key),
        Err(_) => false,
    };
    // Whatever became of the name: nothing else is there.
    for o in s.list_all(&dir, true).await?.objects {
        if let Err(e) = s.delete_unfenced(&o.key, &Expect::Any).await {
            log::debug!("{e}");
        }
    }
    Ok(kept)
}

impl BucketBacking {
    fn beside(&self, what: &str) -> String {
        self.store.key(&format!("{OURS}/{what}"))
    }

    pub(super) fn has_house_now(&self) -> io::Result<bool> {
        let s = &self.store;
        Ok(!s.wait(s.list(&self.beside(""), true, None))?.objects.is_empty())
    }

    pub(super) fn prepare_now(&self) -> io::Result<()> {
        let probe = self.beside(&format!("probe-{:016x}/", fresh()?));
        let meta = Meta { version: fresh()?, ..Meta::implicit(&probe, 0, 0, Default::default()) };
        self.probe_markers(&probe, &meta)?;
        if !self.read_only {
            self.end_left_uploads()?;
            self.resume_move()?;
            if self.limits.get().is_none() {
                let s = &self.store;
                let (backslash, control) = s.wait(async {
                    Ok::<_, io::Error>((keeps(s, "a\\b").await?, keeps(s, "a\n\u{1}b").await?))
                })?;
                // Such a store is a directory, and has other names for these once it reads that again.
                let control = control && !s.is_directory();
                let names = Names { path_bytes_max: KEY_MAX - s.base.len(), text: true, backslash, control };
                let file_bytes_max = match self.tries_parts()? {
                    true => FILE_MAX,
                    false => {
                        log::warn!(
                            "{}: the store takes no uploads in parts: no file may be larger than 64 MiB",
                            s.url
                        );
                        self.takes_parts.store(false, Ordering::Relaxed);
                        WHOLE_MAX
                    }
                };
                // A second prepare finds the same.
                let _ = self.limits.set(Limits { names, file_bytes_max, ..WIDEST });
            }
        }
        self.read_names()
    }

    /// Whether the store takes uploads in parts.
    fn tries_parts(&self) -> io::Result<bool> {
        let s = &self.store;
        let probe = self.beside(&format!("probe-{:016x}", fresh()?));
        let meta = Meta::implicit(&probe, 0, 0, Default::default());
        s.wait(async {
            let mut tries = 0;
            loop {
                let e = match s.begin(&probe, &meta).await {
                    Ok(id) => return s.abort(&probe, &id).await.map(|()| true),
                    Err(e) => e,
                };
                // It may have begun one all the same.
                for id in s.uploads(&probe).await.unwrap_or_default() {
                    s.abort(&probe, &id).await?;
                }
                tries += 1;
                if is_unsupported(&e) {
                    return Ok(false);
                }
                if tries == PROBES_MAX {
                    return Err(e);
                }
            }
        })
    }

    /// Ends the uploads that a dead gateway left, by the notes of their keys.
    fn end_left_uploads(&self) -> io::Result<()> {
        let s = &self.store;
        for o in s.wait(s.list_all(&self.beside("uploads/"), true))?.objects {
            s.wait(async {
                let said = s.get(&o.key, None, None).await?;
                if let Some(path) = decoded(&String::from_utf8_lossy(&said)) {
                    let key = s.key(&path);
                    for id in s.uploads(&key).await? {
                        log::info!("{path}: an upload that came to nothing is ended");
                        s.abort(&key, &id).await?;
                    }
                }
                s.delete(&o.key, &Expect::Any).await
            })?;
        }
        Ok(())
    }

    /// After a complete drain: what is only of use to a gateway goes.
    pub(super) fn clean_now(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.end_uploads();
        self.flush_for(&[""])?;
        // What could not be ended is noted still.
        self.end_left_uploads()?;
        let s = &self.store;
        let lists = ["park/", "probe-", "tmp/"].map(|p| self.beside(p));
        for prefix in lists {
            let left = s.wait(s.list_all(&prefix, true))?.objects;
            let work = left.into_iter().map(|o| {
                let core = self.core();
                async move { core.store.delete(&o.key, &Expect::Any).await }
            });
            s.wait(many(work, AT_ONCE)).into_iter().collect::<io::Result<Vec<()>>>()?;
        }
        Ok(())
    }

    pub(super) fn notes_now(&self) -> io::Result<Vec<Note>> {
        let s = &self.store;
        let at = self.beside("logs/");
        let mut out = Vec::new();
        for o in s.wait(s.list_all(&at, true))?.objects {
            let Some(name) = o.key.strip_prefix(&at).filter(|n| !n.is_empty()) else { continue };
            let text = match s.wait(s.get(&o.key, None, None)) {
                Ok(b) => String::from_utf8_lossy(&b).trim().to_owned(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let place = format!("s3://{}/{}", s.url.bucket, o.key);
            out.push(Note { name: name.to_owned(), text, place });
        }
        Ok(out)
    }

    pub(super) fn put_note_now(&self, name: &str, text: &str) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        let s = &self.store;
        let body = Body::from(format!("{text}\n").into_bytes());
        s.wait(s.put(&self.beside(&format!("logs/{name}")), None, body, &Expect::Any)).map(drop)
    }

    pub(super) fn drop_note_now(&self, name: &str) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        let s = &self.store;
        s.wait(s.delete(&self.beside(&format!("logs/{name}")), &Expect::Any))
    }
}
