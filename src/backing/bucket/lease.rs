//! The lease of a bucket: an object that is stored under the condition that nobody else did.

use super::client::{Body, Expect, Store};
use super::error::is_changed;
use super::{Core, OURS};
use crate::backing::HeldLease;
use crate::backing::fence::Fence;
use crate::backing::lease::{Found, Place, Said, Taken, Taking, take};
use crate::sys::lock;
use std::io;
use std::sync::Arc;

/// Where it lies.
pub struct Object {
    core: Arc<Core>,
    sole_writer: bool,
}

fn key(s: &Store) -> String {
    s.key(&format!("{OURS}/lease"))
}

impl Object {
    fn store(&self, expect: &Expect, said: &Said) -> io::Result<Option<String>> {
        let s = &self.core.store;
        let body = Body::from(said.show().into_bytes());
        match s.wait(s.put_unfenced(&key(s), None, body, expect)) {
            Err(e) if is_changed(&e) => Ok(None),
            other => other.map(Some),
        }
    }
}

impl Place for Object {
    fn fence(&self) -> &Fence {
        &self.core.store.fence
    }

    fn name(&self) -> String {
        format!("the bucket {}", self.core.store.url)
    }

    fn look(&self) -> io::Result<Option<Found>> {
        let s = &self.core.store;
        let k = key(s);
        s.wait(async {
            for _ in 0..3 {
                let Some(seen) = s.head(&k).await? else { return Ok(None) };
                match s.get(&k, Some(&seen.etag), None).await {
                    Ok(b) => return Ok(Some((Said::read(&String::from_utf8_lossy(&b)), seen.etag))),
                    // It beat in between.
                    Err(e) if is_changed(&e) || e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
            Err(io::Error::other("the lease changes all the time"))
        })
    }

    fn is_dead(&self, said: &Said, ours: bool) -> io::Result<bool> {
        Ok(ours || said.is_of_this_boot() && !lock::is_alive(&said.holder))
    }

    fn ready(&self) -> Result<(), String> {
        super::house::probe(&self.core).map_err(|e| e.to_string())?;
        let s = &self.core.store;
        if s.conditions.get() == Some(&false) && !self.sole_writer {
            return Err(format!(
                "{}: the store ignores conditional writes, so it cannot be kept from overwriting what others write: \
                 mount with --sole-writer if nobody else does",
                s.url
            ));
        }
        Ok(())
    }

    fn claim(&self, found: Option<&Found>, said: &Said) -> io::Result<Option<String>> {
        self.store(&found.map_or(Expect::Nothing, |f| Expect::Etag(f.1.clone())), said)
    }

    fn renew(&self, was: &Found, next: &Said) -> io::Result<Option<String>> {
        match self.core.store.conditions.get() {
            Some(false) => match self.look()? {
                Some((said, _)) if said.nonce == was.0.nonce => self.store(&Expect::Any, next),
                _ => Ok(None),
            },
            _ => self.store(&Expect::Etag(was.1.clone()), next),
        }
    }

    fn remove(&self, was: &Found) -> io::Result<()> {
        let s = &self.core.store;
        s.wait(s.delete_unfenced(&key(s), &Expect::Etag(was.1.clone())))
    }
}

/// Where nothing is written.
pub struct NoLease;

impl HeldLease for NoLease {
    fn release(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes the lease or says who has it.
pub fn take_of(core: &Arc<Core>, how: Taking, sole_writer: bool) -> Result<Taken<Object>, String> {
    take(Object { core: core.clone(), sole_writer }, how)
}
