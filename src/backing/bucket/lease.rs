//! One gateway a bucket. Who has it is said in `.forelog/lease`, which it stores anew every few seconds under the
//! condition that nobody else did. A holder that could not do so for a while begins no change any more, so that
//! another may take the bucket over once it has seen the lease unchanged for longer than the last change can take.
//! No clocks are compared.

use super::client::{BODY_WHOLE, Body, Expect, Store};
use super::error::is_changed;
use super::stage::fresh;
use super::{Core, OURS};
use crate::backing::HeldLease;
use crate::sys::worker::{Bell, Worker, sleep};
use crate::sys::{clock, files, lock};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const BEAT: Duration = Duration::from_secs(5);
/// A holder begins no change so long after it began to store the lease the last time.
const VALID: Duration = Duration::from_secs(20);
/// A lease that stays unchanged so long has lapsed: the holder's last change has ended or failed.
const LAPSE: Duration = Duration::from_secs(VALID.as_secs() + BODY_WHOLE.as_secs() + 10);

/// What keeps one who lost the lease from writing.
#[derive(Default)]
pub struct Fence {
    /// On the clock that sleep does not stop; 0: there is no lease to lose.
    valid_until_ns: AtomicU64,
    closed: Mutex<Option<String>>,
}

impl Fence {
    /// Whether a change may begin now.
    pub fn check(&self) -> io::Result<()> {
        if let Some(why) = &*self.closed.lock() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why.clone()));
        }
        let until = self.valid_until_ns.load(Ordering::Acquire);
        if until > 0 && clock::boot_ns() > until {
            let text =
                "the lease could not be renewed, so nothing is stored until it is: the store does not answer";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }

    /// No change may ever begin again.
    pub fn forbid(&self, why: &str) {
        *self.closed.lock() = Some(why.to_owned());
    }

    /// Less than half of the time is left.
    fn is_short(&self) -> bool {
        let until = self.valid_until_ns.load(Ordering::Acquire);
        until > 0 && clock::boot_ns() + VALID.as_nanos() as u64 / 2 > until
    }

    fn renewed(&self, began_ns: u64) {
        self.valid_until_ns.store(began_ns + VALID.as_nanos() as u64, Ordering::Release);
    }
}

/// What the lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    /// `pid N on host H since T`.
    holder: String,
    boot: String,
    /// Number of this holding, and how often it was taken over.
    nonce: u64,
    epoch: u64,
    /// Number of the holder's log, once known.
    log: u64,
    beat: u64,
}

impl Said {
    fn show(&self) -> String {
        let Said { holder, boot, nonce, epoch, log, beat } = self;
        format!("{holder}\nboot {boot}\nnonce {nonce:016x}\nepoch {epoch}\nlog {log:016x}\nbeat {beat}\n")
    }

    fn read(text: &str) -> Said {
        let mut said = Said::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let hex = || u64::from_str_radix(rest, 16).unwrap_or(0);
            match word {
                "pid" => said.holder = line.chars().filter(|c| !c.is_control()).collect(),
                "boot" => said.boot = rest.into(),
                "nonce" => said.nonce = hex(),
                "epoch" => said.epoch = rest.parse().unwrap_or(0),
                "log" => said.log = hex(),
                "beat" => said.beat = rest.parse().unwrap_or(0),
                _ => {}
            }
        }
        said
    }

    /// The holder is known to be dead: it ran on this machine since it was started, or had the log that is ours now.
    fn is_dead(&self, log: Option<u64>) -> bool {
        let here = self.boot == files::boot_id() && !self.boot.is_empty();
        here && !lock::is_alive(&self.holder) || self.log != 0 && log == Some(self.log)
    }
}

struct Beating {
    core: Arc<Core>,
    said: Mutex<(Said, String)>,
}

fn key(s: &Store) -> String {
    s.key(&format!("{OURS}/lease"))
}

impl Beating {
    fn store(&self, expect: &Expect, said: &Said) -> io::Result<String> {
        let s = &self.core.store;
        let body = Body::from(said.show().into_bytes());
        s.wait(s.put_unfenced(&key(s), None, body, expect))
    }

    /// What the lease says now, and its version.
    fn look(s: &Store) -> io::Result<Option<(Said, String)>> {
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

    fn beat(&self) {
        // An answer that came late gives little time.
        if self.beat_once() && self.core.store.fence.is_short() {
            self.beat_once();
        }
    }

    /// True if the lease is stored anew.
    fn beat_once(&self) -> bool {
        let mut kept = self.said.lock();
        let s = &self.core.store;
        let began = clock::boot_ns();
        let next = Said { beat: kept.0.beat + 1, ..kept.0.clone() };
        let r = match s.conditions.get() {
            Some(false) => self.store_unconditionally(&kept.0, &next),
            _ => self.store(&Expect::Etag(kept.1.clone()), &next),
        };
        let lost = match r {
            Ok(etag) => {
                *kept = (next, etag);
                s.fence.renewed(began);
                return true;
            }
            Err(e) if !is_changed(&e) => {
                log::warn!("renewing the lease: {e}");
                return false;
            }
            // The answer to an earlier beat may have been lost.
            Err(_) => match Self::look(s) {
                Ok(Some((said, etag))) if said.nonce == kept.0.nonce => {
                    *kept = (said, etag);
                    return true;
                }
                Ok(Some((said, _))) => format!("another gateway has taken the bucket over ({})", said.holder),
                Ok(None) => "something removed the lease from the bucket".to_owned(),
                Err(e) => {
                    log::warn!("looking at the lease: {e}");
                    return false;
                }
            },
        };
        log::error!("{lost}: nothing is stored any more; what is not stored stays in the log");
        s.fence.forbid(&format!("{lost}; unmount with --no-wait"));
        false
    }

    fn store_unconditionally(&self, was: &Said, next: &Said) -> io::Result<String> {
        match Self::look(&self.core.store)? {
            Some((said, _)) if said.nonce == was.nonce => self.store(&Expect::Any, next),
            _ => Err(io::Error::from(super::error::CHANGED)),
        }
    }
}

/// A held lease; dropped without `release` it stays in the bucket.
struct Held {
    beating: Arc<Beating>,
    worker: Option<Worker>,
}

impl HeldLease for Held {
    fn set_log(&self, tag: u64) {
        self.beating.said.lock().0.log = tag;
        self.beating.beat();
    }
    fn renew(&self) {
        self.beating.beat();
    }
    fn release(&mut self) -> io::Result<()> {
        if let Some(w) = self.worker.take() {
            w.stop();
        }
        let s = &self.beating.core.store;
        s.fence.check()?;
        s.fence.forbid("the lease was given back");
        let expect = Expect::Etag(self.beating.said.lock().1.clone());
        s.wait(s.delete_unfenced(&key(s), &expect))
    }
}

/// Where nothing is written.
pub struct NoLease;

impl HeldLease for NoLease {
    fn set_log(&self, _: u64) {}
    fn release(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Watches a lease until it has lapsed. Errors: it is alive.
fn watch(s: &Store, said: &Said, etag: &str) -> Result<(), String> {
    log::warn!("{}: {}; watching for {} s whether it is alive", s.url, said.holder, LAPSE.as_secs());
    let began = clock::boot_ns();
    while clock::boot_ns() - began < LAPSE.as_nanos() as u64 {
        sleep(Duration::from_secs(2));
        match Beating::look(s) {
            Ok(Some((_, now))) if now == etag => {}
            Ok(None) => return Ok(()),
            Ok(Some((now, _))) => {
                return Err(format!(
                    "the bucket {} is in use: held by {}, which is alive: unmount that first",
                    s.url, now.holder
                ));
            }
            Err(e) => return Err(e.to_string()),
        }
    }
    Ok(())
}

/// Takes the lease or says who has it. `log`: number of our log, if there is one.
pub fn take(
    core: &Arc<Core>,
    takeover: bool,
    log: Option<u64>,
    wall_ns: i64,
    sole_writer: bool,
) -> Result<Box<dyn HeldLease>, String> {
    let s = &core.store;
    let found = Beating::look(s).map_err(|e| e.to_string())?;
    if let Some((said, etag)) = &found
        && !said.is_dead(log)
    {
        if !takeover {
            return Err(format!(
                "the bucket {} is in use: held by {}; unmount that first, or if it is dead, mount with --takeover",
                s.url, said.holder
            ));
        }
        watch(s, said, etag)?;
    }
    super::house::probe(core).map_err(|e| e.to_string())?;
    if s.conditions.get() == Some(&false) && !sole_writer {
        return Err(format!(
            "{}: the store ignores conditional writes, so it cannot be kept from overwriting what others write: mount \
             with --sole-writer if nobody else does",
            s.url
        ));
    }
    let said = Said {
        holder: lock::holder_line(wall_ns),
        boot: files::boot_id(),
        nonce: fresh().map_err(|e| e.to_string())?,
        epoch: found.as_ref().map_or(0, |f| f.0.epoch) + 1,
        log: log.unwrap_or(0),
        beat: 0,
    };
    let expect = found.map_or(Expect::Nothing, |f| Expect::Etag(f.1));
    let beating = Arc::new(Beating { core: core.clone(), said: Mutex::new((said.clone(), String::new())) });
    let began = clock::boot_ns();
    let etag = beating.store(&expect, &said).map_err(|e| match is_changed(&e) {
        true => format!("the bucket {} is in use: another gateway took it this moment", s.url),
        false => e.to_string(),
    })?;
    beating.said.lock().1 = etag;
    s.fence.renewed(began);
    let b = beating.clone();
    let worker = Worker::every("lease", BEAT, Bell::new(), move || b.beat())
        .map_err(|e| format!("starting a thread failed: {e}"))?;
    Ok(Box::new(Held { beating, worker: Some(worker) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_says_who_and_whether_it_can_be_dead() {
        let said = Said {
            holder: format!("pid {} on host {} since now", std::process::id(), lock::host()),
            boot: files::boot_id(),
            nonce: 7,
            epoch: 3,
            log: 9,
            beat: 4,
        };
        assert_eq!(Said::read(&said.show()), said);
        assert!(!said.is_dead(None) && !said.is_dead(Some(8)));
        assert!(said.is_dead(Some(9)), "we have its log");
        let gone = Said { holder: format!("pid 999999999 on host {}", lock::host()), ..said.clone() };
        assert!(gone.is_dead(None));
        assert!(!Said { boot: "elsewhere".into(), ..gone }.is_dead(None));
    }

    #[test]
    fn a_fence_closes() {
        let f = Fence::default();
        f.check().unwrap();
        f.renewed(clock::boot_ns());
        f.check().unwrap();
        f.valid_until_ns.store(1, Ordering::Release);
        assert_eq!(f.check().unwrap_err().kind(), io::ErrorKind::TimedOut);
        f.renewed(clock::boot_ns());
        f.forbid("over");
        assert_eq!(f.check().unwrap_err().to_string(), "over");
    }
}
