use super::*;
use crate::backing::fence::{CHANGE, Standing, Times};
use std::sync::atomic::{AtomicBool, Ordering};

fn mine() -> Said {
    Said {
        holder: lock::holder_line(0),
        boot: files::boot_id(),
        machine: "m".into(),
        nonce: 7,
        epoch: 3,
        log: 9,
        beat: 4,
        lapse_ms: 5,
    }
}

#[test]
fn a_lease_says_who() {
    let said = mine();
    assert_eq!(Said::read(&said.show()), said);
    let later = Said { beat: 99_999, ..said.clone() };
    assert_eq!(later.show().len(), said.show().len(), "a beat is stored over the last one");
    assert!(said.is_of_this_boot() && !Said { boot: "elsewhere".into(), ..said.clone() }.is_of_this_boot());
    let elsewhere = Said { holder: "pid 1 on host elsewhere since now".into(), ..said };
    assert!(!Said { machine: files::machine_id(), ..elsewhere }.is_of_this_machine());
    assert_eq!(Said::read("pid 5 on host h since now\n").holder(), "pid 5 on host h since now");
    assert_eq!(Said::read("nonsense").holder(), "a gateway that has not said its name");
}

/// A lease in memory, shared by those who contend for it.
#[derive(Clone)]
struct Memory {
    lease: Arc<Mutex<Option<Found>>>,
    fence: Arc<Fence>,
    down: Arc<AtomicBool>,
    back: bool,
}

impl Memory {
    fn new(other: Option<&Memory>) -> Memory {
        let second = Duration::from_millis(1);
        let times = Times { beat: second * 5, valid: second * 20, lapse: second * 60 };
        let lease = other.map(|o| o.lease.clone()).unwrap_or_default();
        Memory { lease, fence: Arc::new(Fence::new(times)), down: Arc::default(), back: false }
    }
    fn up(&self) -> io::Result<()> {
        if self.down.load(Ordering::Acquire) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
    fn swap(&self, was: Option<&Found>, next: &Said) -> io::Result<Option<String>> {
        self.up()?;
        let mut l = self.lease.lock();
        Ok((l.as_ref() == was).then(|| {
            *l = Some((next.clone(), next.show()));
            next.show()
        }))
    }
}

impl Place for Memory {
    fn fence(&self) -> &Fence {
        &self.fence
    }
    fn name(&self) -> String {
        "the memory".into()
    }
    fn look(&self) -> io::Result<Option<Found>> {
        self.up()?;
        Ok(self.lease.lock().clone())
    }
    fn is_dead(&self, _: &Said, _: bool) -> io::Result<bool> {
        Ok(false)
    }
    fn claim(&self, found: Option<&Found>, said: &Said) -> io::Result<Option<String>> {
        self.swap(found, said)
    }
    fn renew(&self, was: &Found, next: &Said) -> io::Result<Option<String>> {
        self.swap(Some(was), next)
    }
    fn put_back(&self, said: &Said) -> io::Result<Option<String>> {
        if self.back { self.swap(None, said) } else { Ok(None) }
    }
    fn remove(&self, _: &Found) -> io::Result<()> {
        *self.lease.lock() = None;
        Ok(())
    }
}

const PLAIN: Taking = Taking { takeover: false, log: None, wall_ns: 0 };
const OVER: Taking = Taking { takeover: true, ..PLAIN };

fn soon(what: impl Fn() -> bool) -> bool {
    (0..2000).any(|_| {
        what() || {
            sleep(Duration::from_millis(5));
            false
        }
    })
}

#[test]
fn one_who_lives_is_not_taken_over() {
    let a = Memory::new(None);
    // A busy machine may hold its beats up.
    let slow = Times { lapse: Duration::from_secs(60), ..a.fence.times };
    let (_, mut held) = take(a.clone(), PLAIN).unwrap();
    for how in [PLAIN, OVER] {
        let b = Memory { fence: Arc::new(Fence::new(slow)), ..Memory::new(Some(&a)) };
        let e = take(b, how).map(|_| ()).unwrap_err();
        assert!(e.contains("in use: held by pid ") && e.contains("alive") == how.takeover, "{e}");
    }
    held.renew();
    held.release().unwrap();
    assert!(a.lease.lock().is_none() && a.fence.check().is_err());
}

#[test]
fn one_who_is_cut_off_stops_and_learns_of_it_when_it_is_back() {
    let a = Memory::new(None);
    let (beating, held) = take(a.clone(), PLAIN).unwrap();
    a.down.store(true, Ordering::Release);
    assert!(soon(|| a.fence.check().is_err()), "no change begins");
    assert_eq!(a.fence.standing(), Standing::Ours, "which may be an outage");
    let b = Memory::new(Some(&a));
    let (_, _other) = take(b.clone(), OVER).unwrap();
    assert_eq!(b.lease.lock().as_ref().unwrap().0.epoch, 2);
    b.fence.check().ok();
    a.down.store(false, Ordering::Release);
    assert!(soon(|| a.fence.standing() == Standing::Lost));
    assert!(a.fence.lost_to().unwrap().contains("taken over by pid"));
    assert!(beating.begin().is_err());
    held.renew();
    assert_eq!(b.lease.lock().as_ref().unwrap().0.epoch, 2, "and leaves the other's alone");
}

#[test]
fn a_lease_that_vanishes_is_put_back_only_where_that_is_safe() {
    for back in [false, true] {
        let a = Memory { back, ..Memory::new(None) };
        let a = Memory { fence: Arc::new(Fence::new(Times::new(CHANGE))), ..a };
        let (beating, _held) = take(a.clone(), PLAIN).unwrap();
        *a.lease.lock() = None;
        assert_eq!(beating.begin().is_ok(), back);
        assert_eq!(a.lease.lock().is_some(), back);
    }
}
