//! A backing whose reads end: a store behind a network may hang in a call for as long as it likes, and a program
//! that waits for it could not even be killed. So each read is made by a thread that may be left behind, and after a
//! while the caller is told that there is no answer. Changes are not bounded: what became of one that
//! was given up would not be known. Only the writeback makes them, and it can wait.

use super::fence::Fence;
use super::lease::Taking;
use super::{
    AttrChange, Backing, BackingEntry, BackingFile, BackingPath, BackingSpace, BackingStat, Content,
    HeldLease, Limits, NewObject, Note, Update, Xattr,
};
use crate::sys::limiter::Limiter;
use crate::sys::pool::Pool;
use crate::types::Kind;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// How long a read of the backing may take: with what a caller may have waited before it is less than 30 s.
pub const DEADLINE: Duration = Duration::from_secs(12);

/// See the module.
pub struct TimedBacking {
    inner: Arc<dyn Backing>,
    helpers: Helpers,
}

struct TimedFile {
    inner: Arc<dyn BackingFile>,
    helpers: Helpers,
}

/// The threads, and how many of them have been left behind in a call.
#[derive(Clone)]
struct Helpers {
    pool: Pool,
    deadline: Duration,
    lost: Arc<AtomicUsize>,
}

impl Helpers {
    fn within<T: Send + 'static>(
        &self,
        what: &str,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let late = || {
            let text = format!("{what}: the backing did not answer for {} s", self.deadline.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        };
        // While calls are out that never came back, nobody waits for another; each that does is a new try.
        if self.lost.load(Ordering::Acquire) > 0 {
            return Err(late());
        }
        let (tx, rx) = sync_channel(0);
        let lost = self.lost.clone();
        self.pool.run(move || {
            let answer = call();
            if tx.send(answer).is_err() {
                lost.fetch_sub(1, Ordering::AcqRel);
            }
        });
        match rx.recv_timeout(self.deadline) {
            Ok(r) => r,
            Err(RecvTimeoutError::Timeout) => {
                // Before the channel is closed, by which the thread learns of it.
                self.lost.fetch_add(1, Ordering::AcqRel);
                Err(late())
            }
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other(format!("{what}: its thread died"))),
        }
    }
}

impl TimedBacking {
    /// Bounds the reads of `inner`.
    pub fn new(inner: Arc<dyn Backing>, deadline: Duration) -> TimedBacking {
        let lost = Arc::default();
        TimedBacking { inner, helpers: Helpers { pool: Pool::default(), deadline, lost } }
    }

    fn at<T: Send + 'static>(
        &self,
        what: &str,
        path: &BackingPath,
        call: impl FnOnce(&dyn Backing, &BackingPath) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (inner, at) = (self.inner.clone(), path.clone());
        self.helpers.within(&format!("{what} {path}"), move || call(&*inner, &at))
    }
}

impl Backing for TimedBacking {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn remote(&self) -> bool {
        self.inner.remote()
    }
    fn open_files_last(&self) -> bool {
        self.inner.open_files_last()
    }
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn pace(&self, limiter: &Arc<Limiter>) -> bool {
        self.inner.pace(limiter)
    }
    fn stat(&self, path: &BackingPath) -> io::Result<BackingStat> {
        self.at("looking at", path, |b, p| b.stat(p))
    }
    fn list(&self, path: &BackingPath, each: &mut dyn FnMut(BackingEntry)) -> io::Result<()> {
        let all = self.at("listing", path, |b, p| {
            let mut all = Vec::new();
            b.list(p, &mut |e| all.push(e)).map(|()| all)
        })?;
        all.into_iter().for_each(each);
        Ok(())
    }
    fn open(&self, path: &BackingPath) -> io::Result<Arc<dyn BackingFile>> {
        let inner = self.at("opening", path, |b, p| b.open(p))?;
        Ok(Arc::new(TimedFile { inner, helpers: self.helpers.clone() }))
    }
    fn readlink(&self, path: &BackingPath) -> io::Result<Vec<u8>> {
        self.at("reading the link", path, |b, p| b.readlink(p))
    }
    fn xattrs(&self, path: &BackingPath) -> io::Result<Vec<Xattr>> {
        self.at("reading the attributes of", path, |b, p| b.xattrs(p))
    }
    fn space(&self) -> io::Result<BackingSpace> {
        self.at("asking for the space of", &BackingPath::root(), |b, _| b.space())
    }
    fn parked(&self) -> io::Result<Vec<String>> {
        self.at("listing what is parked in", &BackingPath::root(), |b, _| b.parked())
    }

    fn stage(&self, name: &str, object: &NewObject, content: Content<'_>) -> io::Result<BackingStat> {
        self.inner.stage(name, object, content)
    }
    fn stage_link(&self, name: &str, from: &BackingPath) -> io::Result<()> {
        self.inner.stage_link(name, from)
    }
    fn install(&self, name: &str, to: &BackingPath) -> io::Result<()> {
        self.inner.install(name, to)
    }
    fn update(&self, path: &BackingPath, update: Update<'_>) -> io::Result<()> {
        self.inner.update(path, update)
    }
    fn set_attr(&self, path: &BackingPath, kind: Kind, change: &AttrChange) -> io::Result<()> {
        self.inner.set_attr(path, kind, change)
    }
    fn rename(&self, from: &BackingPath, to: &BackingPath) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn park(&self, from: &BackingPath, name: &str) -> io::Result<()> {
        self.inner.park(from, name)
    }
    fn unlink(&self, path: &BackingPath) -> io::Result<()> {
        self.inner.unlink(path)
    }
    fn rmdir(&self, path: &BackingPath) -> io::Result<()> {
        self.inner.rmdir(path)
    }
    fn sync(&self, files: &[BackingPath], dirs: &[BackingPath]) -> io::Result<()> {
        self.inner.sync(files, dirs)
    }
    fn make_house(&self) -> io::Result<()> {
        self.inner.make_house()
    }
    fn has_house(&self) -> io::Result<bool> {
        self.inner.has_house()
    }
    fn lease(&self, how: Taking) -> Result<Box<dyn HeldLease>, String> {
        self.inner.lease(how)
    }
    fn fence(&self) -> Option<&Fence> {
        self.inner.fence()
    }
    fn begin(&self) -> io::Result<()> {
        self.inner.begin()
    }
    fn notes(&self) -> io::Result<Vec<Note>> {
        self.inner.notes()
    }
    fn put_note(&self, name: &str, text: &str) -> io::Result<()> {
        self.inner.put_note(name, text)
    }
    fn drop_note(&self, name: &str) -> io::Result<()> {
        self.inner.drop_note(name)
    }
    fn prepare(&self) -> io::Result<()> {
        self.inner.prepare()
    }
    fn clean(&self) -> io::Result<()> {
        self.inner.clean()
    }
}

impl BackingFile for TimedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (inner, len) = (self.inner.clone(), buf.len());
        let got = self.helpers.within("reading", move || {
            let mut bytes = vec![0; len];
            let n = inner.read_at(&mut bytes, offset)?;
            bytes.truncate(n);
            Ok(bytes)
        })?;
        buf[..got.len()].copy_from_slice(&got);
        Ok(got.len())
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let inner = self.inner.clone();
        self.helpers.within("seeking", move || inner.next_data(offset))
    }
    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let inner = self.inner.clone();
        self.helpers.within("seeking", move || inner.next_hole(offset))
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::{MemBacking, Plug};
    use std::sync::mpsc::channel;

    #[test]
    fn a_read_that_hangs_ends_and_the_next_one_works() {
        let plug = Arc::new(Plug::new());
        let timed = TimedBacking::new(Arc::new(MemBacking::new(plug.clone())), Duration::from_millis(50));
        assert!(timed.stat(&BackingPath::root()).is_ok());
        let (go, wait) = channel::<()>();
        plug.set_visitor(Some(Box::new(move |_| {
            wait.recv().unwrap_or(());
            Ok(())
        })));
        let e = timed.stat(&BackingPath::root()).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::TimedOut, "{e}");
        assert!(timed.stat(&BackingPath::root()).is_err(), "nobody waits while it hangs");
        drop(go);
        let works = || timed.list(&BackingPath::root(), &mut |_| {}).is_ok();
        assert!((0..1000).any(|_| works() || {
            crate::sys::worker::sleep(Duration::from_millis(5));
            false
        }));
    }
}
