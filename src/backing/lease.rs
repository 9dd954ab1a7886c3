//! One gateway a backing. Who has it is said in `.forelog/lease`, which the holder stores anew every few seconds. A holder that
//! could not do so for a while begins no change any more, so that another may take the backing over once it has seen
//! the lease unchanged for longer than the last change can take. No clocks are compared. What a lease is stored in, and
//! how another's is told from ours there, is the `Place`'s.

use super::HeldLease;
use super::fence::{Fence, ns};
use crate::sys::worker::{sleep, spawn};
use crate::sys::{clock, files, lock};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// No lease is watched for longer, whatever it says of itself.
const LAPSE_MAX: Duration = Duration::from_secs(3600);

/// What a lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// `pid N on host H since T`.
    pub holder: String,
    pub boot: String,
    pub machine: String,
    /// Number of this holding, and how often it was taken over.
    pub nonce: u64,
    pub epoch: u64,
    /// Number of the holder's log, once known.
    pub log: u64,
    pub beat: u64,
    /// After how many milliseconds without a beat it has lapsed.
    pub lapse_ms: u64,
}

impl Said {
    /// As text, of the same length for each beat.
    pub fn show(&self) -> String {
        let Said { holder, boot, machine, nonce, epoch, log, beat, lapse_ms } = self;
        format!(
            "{holder}\nboot {boot}\nmachine {machine}\nnonce {nonce:016x}\nepoch {epoch}\nlog {log:016x}\nbeat \
             {beat:012}\nlapse {lapse_ms}\n"
        )
    }

    pub fn read(text: &str) -> Said {
        let mut said = Said::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (hex, number) = (|| u64::from_str_radix(rest, 16).unwrap_or(0), || rest.parse().unwrap_or(0));
            match word {
                "pid" => said.holder = line.chars().filter(|c| !c.is_control()).collect(),
                "boot" => said.boot = rest.into(),
                "machine" => said.machine = rest.into(),
                "nonce" => said.nonce = hex(),
                "epoch" => said.epoch = number(),
                "log" => said.log = hex(),
                "beat" => said.beat = number(),
                "lapse" => said.lapse_ms = number(),
                _ => {}
            }
        }
        said
    }

    /// The holder ran on this machine since it was started.
    pub fn is_of_this_boot(&self) -> bool {
        self.boot == files::boot_id() && !self.boot.is_empty()
    }

    /// The holder ran on this machine, as far as names tell, before it was started.
    pub fn is_of_this_machine(&self) -> bool {
        let host = format!(" on host {} since ", lock::host());
        self.holder.contains(&host) && self.machine == files::machine_id() && !self.machine.is_empty()
    }

    /// For people.
    pub fn holder(&self) -> &str {
        match self.holder.as_str() {
            "" => "a gateway that has not said its name",
            h => h,
        }
    }
}

/// A lease and its version.
pub type Found = (Said, String);

/// Where a lease lies.
pub trait Place: Send + Sync + 'static {
    fn fence(&self) -> &Fence;
    /// For messages: `the bucket s3://bucket`.
    fn name(&self) -> String;
    /// What the lease says now; `None`: there is none.
    fn look(&self) -> io::Result<Option<Found>>;
    /// Whether the holder is known to be dead. `ours`: it had the log that is ours now.
    fn is_dead(&self, said: &Said, ours: bool) -> io::Result<bool>;
    /// What must be so before a lease is taken.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
    /// Stores a new lease in the place of the one that was found. `None`: another one was stored this moment.
    fn claim(&self, found: Option<&Found>, said: &Said) -> io::Result<Option<String>>;
    /// Stores the next beat of ours. `None`: what is there is not what we stored.
    fn renew(&self, was: &Found, next: &Said) -> io::Result<Option<String>>;
    /// Stores ours again after it was removed by hand. `None`: another's is there, or it is not to be.
    fn put_back(&self, _said: &Said) -> io::Result<Option<String>> {
        Ok(None)
    }
    /// Removes ours.
    fn remove(&self, was: &Found) -> io::Result<()>;
    /// Whether a beat is wanted although nothing is changed.
    fn is_asked(&self) -> bool {
        true
    }
    /// Asks the holder for a beat, or no longer.
    fn ask(&self, _wanted: bool) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Store it anew.
    Renew,
    /// See that it is ours.
    Look,
    /// What is needed.
    Due,
}

struct Kept {
    found: Found,
    /// It was given back.
    ended: bool,
    /// Why it could not be renewed the last time.
    trouble: Option<String>,
}

/// A lease that is kept.
pub struct Beating<P: Place> {
    place: P,
    kept: Mutex<Kept>,
}

impl<P: Place> Beating<P> {
    /// Sees that a change may begin now, and that the next ones may for a while.
    pub fn begin(&self) -> io::Result<()> {
        let fence = self.place.fence();
        if !fence.is_closed() {
            self.beat(if fence.is_short() { How::Renew } else { How::Look });
        }
        match fence.check() {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                let why = self.kept.lock().trouble.clone().unwrap_or_default();
                Err(io::Error::new(e.kind(), format!("{e}: {why}")))
            }
            other => other,
        }
    }

    fn beat(&self, how: How) {
        // An answer that came late gives little time.
        if self.beat_once(how) && how != How::Look && self.place.fence().is_short() {
            self.beat_once(how);
        }
    }

    /// True if the lease is ours.
    fn beat_once(&self, how: How) -> bool {
        let mut kept = self.kept.lock();
        let fence = self.place.fence();
        if kept.ended || fence.is_closed() {
            return false;
        }
        let began = clock::boot_ns();
        let ours = match self.try_beat(how, &mut kept, began) {
            Ok(Ok(())) => {
                if kept.trouble.take().is_some() {
                    log::info!("{}: the lease could be renewed again", self.place.name());
                }
                true
            }
            Ok(Err(why)) => {
                log::error!(
                    "{} {why}: nothing is stored any more; what is not stored stays in the log",
                    self.place.name()
                );
                fence.lose(&why);
                false
            }
            Err(e) => {
                if kept.trouble.replace(e.to_string()).is_none() {
                    log::warn!("{}: renewing the lease: {e}", self.place.name());
                }
                false
            }
        };
        drop(kept);
        fence.looked(began);
        ours
    }

    /// Errors: the place does not answer; inside, how the lease was lost.
    fn try_beat(&self, how: How, kept: &mut Kept, began: u64) -> io::Result<Result<(), String>> {
        let (place, fence) = (&self.place, self.place.fence());
        let nonce = kept.found.0.nonce;
        if how == How::Renew || how == How::Due && (!fence.is_idle() || place.is_asked()) {
            let next = Said { beat: kept.found.0.beat + 1, ..kept.found.0.clone() };
            if let Some(version) = place.renew(&kept.found, &next)? {
                kept.found = (next, version);
                fence.renewed(began);
                return Ok(Ok(()));
            }
        }
        match place.look()? {
            Some((said, version)) if said.nonce == nonce => {
                // The answer to an earlier beat may have been lost.
                kept.found = (said, version);
                fence.seen(began);
                Ok(Ok(()))
            }
            Some((said, _)) => Ok(Err(format!("was taken over by {} (epoch {})", said.holder(), said.epoch))),
            None => {
                // Nobody may take over what was alive so lately, so nobody did.
                let back = if fence.is_fresh(began) { place.put_back(&kept.found.0)? } else { None };
                Ok(match back {
                    Some(version) => {
                        log::warn!("{}: the lease had been removed, and is there again", place.name());
                        kept.found.1 = version;
                        Ok(())
                    }
                    None => Err("has no lease of ours any more".to_owned()),
                })
            }
        }
    }
}

/// A held lease; dropped without `release` it stays in the backing.
struct Held<P: Place>(Arc<Beating<P>>);

impl<P: Place> HeldLease for Held<P> {
    fn set_log(&self, tag: u64) {
        self.0.kept.lock().found.0.log = tag;
        self.0.beat(How::Renew);
    }
    fn renew(&self) {
        self.0.beat(How::Renew);
    }
    fn release(&mut self) -> io::Result<()> {
        let fence = self.0.place.fence();
        fence.bell.stop();
        let mut kept = self.0.kept.lock();
        kept.ended = true;
        fence.check()?;
        fence.forbid("the lease was given back");
        self.0.place.remove(&kept.found)
    }
}

impl<P: Place> Drop for Held<P> {
    fn drop(&mut self) {
        // Its thread may hang in a call: nobody waits for it.
        self.0.place.fence().bell.stop();
    }
}

/// Watches a lease until it has lapsed. Errors: it is alive.
fn watch<P: Place>(place: &P, said: &Said, version: &str) -> Result<(), String> {
    let times = place.fence().times;
    let lapse = times.lapse.max(Duration::from_millis(said.lapse_ms)).min(LAPSE_MAX.max(times.lapse));
    log::warn!(
        "{}: {}; watching for {} s whether it is alive",
        place.name(),
        said.holder(),
        lapse.as_secs_f64().ceil()
    );
    let began = clock::boot_ns();
    while clock::boot_ns() - began < ns(lapse) {
        place
            .ask(true)
            .map_err(|e| format!("{}: asking its holder for a sign of life: {e}", place.name()))?;
        sleep(times.beat * 2 / 5);
        match place.look() {
            Ok(Some((_, now))) if now == version => {}
            Ok(None) => return Ok(()),
            Ok(Some((now, _))) => {
                return Err(format!(
                    "{} is in use: held by {}, which is alive: unmount that first",
                    place.name(),
                    now.holder()
                ));
            }
            Err(e) => return Err(e.to_string()),
        }
    }
    Ok(())
}

/// Who takes a lease, and how.
#[derive(Clone, Copy, Debug)]
pub struct Taking {
    /// From one whose lease lapsed.
    pub takeover: bool,
    /// Number of our log, if there is one.
    pub log: Option<u64>,
    /// Nanoseconds since 1970.
    pub wall_ns: i64,
}

/// A lease that was taken, and what keeps it.
pub type Taken<P> = (Arc<Beating<P>>, Box<dyn HeldLease>);

/// Takes the lease or says who has it.
pub fn take<P: Place>(place: P, how: Taking) -> Result<Taken<P>, String> {
    let failed = |e: io::Error| format!("{}: taking the lease: {e}", place.name());
    let found = place.look().map_err(failed)?;
    let mut watched = false;
    if let Some((said, version)) = &found {
        let ours = said.log != 0 && how.log == Some(said.log);
        if !place.is_dead(said, ours).map_err(failed)? {
            if !how.takeover {
                return Err(format!(
                    "{} is in use: held by {}; unmount that first, or if it is dead, mount with --takeover",
                    place.name(),
                    said.holder()
                ));
            }
            let alive = watch(&place, said, version);
            if let Err(e) = place.ask(false) {
                log::debug!("{}: {e}", place.name());
            }
            alive?;
            watched = true;
        }
    }
    place.ready()?;
    let found =
        if watched { place.look().map_err(failed)?.filter(|f| Some(f) == found.as_ref()) } else { found };
    let epoch = found.as_ref().map_or(0, |f| f.0.epoch) + 1;
    let said = Said {
        holder: lock::holder_line(how.wall_ns),
        boot: files::boot_id(),
        machine: files::machine_id(),
        nonce: files::random_u128().map_err(failed)? as u64 | 1,
        epoch,
        log: how.log.unwrap_or(0),
        beat: 0,
        lapse_ms: place.fence().times.lapse.as_millis() as u64,
    };
    let began = clock::boot_ns();
    let version = place
        .claim(found.as_ref(), &said)
        .map_err(failed)?
        .ok_or_else(|| format!("{} is in use: another gateway took it this moment", place.name()))?;
    let fence = place.fence();
    fence.renewed(began);
    if watched {
        log::warn!("{}: taken over, epoch {epoch}", place.name());
    }
    let (bell, beat) = (fence.bell.clone(), fence.times.beat);
    let kept = Mutex::new(Kept { found: (said, version), ended: false, trouble: None });
    let beating = Arc::new(Beating { place, kept });
    let b = beating.clone();
    let beats = move || {
        while bell.wait(beat) {
            b.beat(How::Due);
        }
    };
    spawn("lease", beats).map_err(|e| format!("starting a thread failed: {e}"))?;
    Ok((beating.clone(), Box::new(Held(beating))))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
