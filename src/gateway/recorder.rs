//! `trace record`: the samples of each tick also go to those who record them.

use crate::control::{SampleBatch, Verdict};
use crate::history::{History, Sample};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Recordings at once.
const TAPS_MAX: usize = 4;
/// Samples that wait for a slow recorder; further ones are counted as lost. 40 bytes each.
const WAITING_MAX: usize = 262_144;
/// Samples of one message.
const BATCH: usize = 16_384;
/// A recorder hears of us at least so often, and we of its end.
const PULSE: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Waiting {
    samples: Vec<Sample>,
    lost: u64,
}

#[derive(Default)]
struct Tap {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

/// Those who record now.
#[derive(Default)]
pub struct Recorders {
    taps: Mutex<Vec<Arc<Tap>>>,
    count: AtomicUsize,
}

impl Recorders {
    /// What the history gave in this tick.
    pub fn feed(&self, samples: &[Sample]) {
        if samples.is_empty() || self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        for tap in self.taps.lock().iter() {
            let mut w = tap.waiting.lock();
            let room = WAITING_MAX - w.samples.len();
            let taken = samples.len().min(room);
            w.samples.extend_from_slice(&samples[..taken]);
            w.lost += (samples.len() - taken) as u64;
            tap.more.notify_one();
        }
    }

    /// Passes on what is written from now on until `each` says false or `ended` true.
    pub fn record(
        &self,
        history: &History,
        ended: &dyn Fn() -> bool,
        each: &mut dyn FnMut(SampleBatch) -> bool,
    ) -> Verdict {
        let tap = Arc::new(Tap::default());
        {
            let mut taps = self.taps.lock();
            if taps.len() >= TAPS_MAX {
                return Verdict::refused(format!("{TAPS_MAX} recordings are running; end one first"));
            }
            taps.push(tap.clone());
            self.count.store(taps.len(), Ordering::Release);
        }
        let mut lost_then = history.lost();
        let mut go_on = true;
        while go_on {
            let w = {
                let mut w = tap.waiting.lock();
                if w.samples.is_empty() {
                    tap.more.wait_for(&mut w, PULSE);
                }
                std::mem::take(&mut *w)
            };
            let lost_now = history.lost();
            let mut lost = w.lost + (lost_now - lost_then);
            lost_then = lost_now;
            let mut parts = w.samples.chunks(BATCH);
            // An empty one too: it finds out whether anybody is still there.
            let mut part = parts.next().unwrap_or_default();
            loop {
                go_on = each(SampleBatch::of(part, std::mem::take(&mut lost)));
                match parts.next() {
                    Some(next) if go_on => part = next,
                    _ => break,
                }
            }
            go_on &= !ended();
        }
        let mut taps = self.taps.lock();
        taps.retain(|t| !Arc::ptr_eq(t, &tap));
        self.count.store(taps.len(), Ordering::Release);
        Verdict::done("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::worker::spawn;
    use crate::types::{ClientId, How, InodeId, ProgramId};

    fn sample(n: u64) -> Sample {
        Sample {
            at_ns: n,
            client: ClientId(1),
            program: ProgramId(2),
            bytes: 3,
            inode: InodeId(4),
            how: How::Write,
        }
    }

    #[test]
    fn every_sample_arrives_or_is_counted() {
        let (recorders, history) = (Arc::new(Recorders::default()), Arc::new(History::new()));
        recorders.feed(&[sample(0)]);
        let (r, h) = (recorders.clone(), history.clone());
        let recording = spawn("recording", move || {
            let (mut got, mut lost) = (Vec::new(), 0);
            r.record(&h, &|| false, &mut |b| {
                lost += b.lost;
                got.extend(b.samples());
                got.len() as u64 + lost < 600_000
            });
            (got, lost)
        })
        .expect("a thread");
        while recorders.count.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        for n in 0..6 {
            recorders.feed(&(n * 100_000..(n + 1) * 100_000).map(sample).collect::<Vec<_>>());
        }
        let (got, lost) = recording.join().expect("it ends");
        assert_eq!(got.len() as u64 + lost, 600_000);
        assert!(got.len() >= WAITING_MAX && got.windows(2).all(|w| w[0].at_ns < w[1].at_ns));
        assert_eq!(got[0], sample(0));
        assert_eq!(recorders.count.load(Ordering::Acquire), 0);
    }

    #[test]
    fn not_more_than_a_few() {
        let (recorders, history) = (Recorders::default(), History::new());
        let mut codes = Vec::new();
        fn nest(r: &Recorders, h: &History, depth: usize, codes: &mut Vec<u8>) {
            let v = r.record(h, &|| true, &mut |_| {
                if depth < TAPS_MAX {
                    nest(r, h, depth + 1, codes);
                }
                false
            });
            codes.push(v.code);
        }
        nest(&recorders, &history, 0, &mut codes);
        assert_eq!(codes, [2, 0, 0, 0, 0]);
    }
}
