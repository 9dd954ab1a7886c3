//! The lease of a directory, and the notes of logs, a file each.
//!
//! The lease is a file that its holder keeps locked and writes over in place. Who takes it over puts another file in its
//! place, so that a late beat goes to a file that nobody reads. A lock that is free proves a holder of this machine
//! dead; of another machine's it proves nothing, since a network store may lose it.
//!
//! On a store of this machine an idle holder writes nothing: it looks whether the file `lease.ask` is there, by which
//! one who would take the lease over asks for a beat.

use super::house::{OPEN_DIR, make_dir, remove_if_empty};
use super::{DirectoryBacking, OURS, attrs};
use crate::backing::fence::Fence;
use crate::backing::lease::{Beating, Found, Place, Said, Taking, take};
use crate::backing::{HeldLease, Note};
use crate::sys::{beneath, files, lock, worker};
use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, flock, fstat, fsync, ftruncate, linkat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const LEASE: &str = "lease";
const ASK: &str = "lease.ask";
/// What was taken over, for the moment of that.
const WAS: &str = "lease.was";

/// A longer one is not ours.
const TEXT_MAX: usize = 4096;

/// How often 10 ms are waited for a holder that is dying.
const DYING_WAITS: u32 = 50;

/// A lease that is not there is looked for so often: one who takes over may have it in its hands.
const LOOKS: u32 = 20;

/// Where the lease of a directory lies.
pub(super) struct Spot {
    root: OwnedFd,
    shown: String,
    remote: bool,
    fence: Arc<Fence>,
    /// The file of ours, locked.
    file: Mutex<Option<OwnedFd>>,
}

/// Removes a file of ours that may be gone already, and that harms nobody if it stays.
fn strike(ours: &OwnedFd, name: impl rustix::path::Arg + std::fmt::Debug) {
    let said = format!("{name:?}");
    match unlinkat(ours, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => log::debug!("{OURS}/{said}: removing it: {e}"),
    }
}

impl Spot {
    fn ours(&self) -> io::Result<OwnedFd> {
        beneath::open(self.root.as_fd(), OURS.as_bytes(), OPEN_DIR)
    }

    /// Opens a file anew, so that a network store is asked. `None`: it is not there.
    fn read(&self, name: &str) -> io::Result<Option<Found>> {
        let ours = match self.ours() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // Reading it must not make the store write a time of access.
        let file = match openat(&ours, name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => openat(&ours, name, flags, Mode::empty()),
            other => other,
        };
        let file = match file {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let mut text = vec![0; TEXT_MAX];
        let n = retry_on_intr(|| rustix::io::pread(&file, &mut text[..], 0))?;
        let text = String::from_utf8_lossy(&text[..n]).into_owned();
        Ok(Some((Said::read(&text), text)))
    }

    /// Writes a lease over the file of ours. Its length is what it was but for the first time.
    fn write(&self, file: &OwnedFd, said: &Said) -> io::Result<String> {
        let text = said.show();
        let mut at = 0;
        while at < text.len() {
            at += retry_on_intr(|| rustix::io::pwrite(file, &text.as_bytes()[at..], at as u64))?;
        }
        if fstat(file)?.st_size as usize != text.len() {
            ftruncate(file, text.len() as u64)?;
        }
        // Others of this machine see it at once.
        if self.remote {
            retry_on_intr(|| fsync(file))?;
        }
        Ok(text)
    }

    /// Makes a new file of ours the lease. `None`: there is one already.
    fn put_new(&self, said: &Said) -> io::Result<Option<String>> {
        let ours = self.ours()?;
        let name = format!("lease.{:016x}", said.nonce);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match unlinkat(&ours, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let file = openat(&ours, name.as_str(), flags, Mode::from_raw_mode(0o600))?;
        let made = self.write(&file, said).and_then(|text| {
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            match linkat(&ours, name.as_str(), &ours, LEASE, AtFlags::empty()) {
                Ok(()) => Ok(Some(text)),
                Err(Errno::EXIST) => Ok(None),
                // No hard links here.
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                    if statat(&ours, LEASE, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                        return Ok(None);
                    }
                    renameat(&ours, name.as_str(), &ours, LEASE)?;
                    Ok(Some(text))
                }
                Err(e) => Err(e.into()),
            }
        });
        match unlinkat(&ours, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => log::debug!("{}: removing {name}: {e}", self.shown),
        }
        if let Ok(Some(_)) = &made {
            *self.file.lock() = Some(file);
        }
        made
    }

    /// Puts ours in the place of a lease that has lapsed.
    fn put_over(&self, found: &Found, said: &Said) -> io::Result<Option<String>> {
        let ours = self.ours()?;
        match renameat(&ours, LEASE, &ours, WAS) {
            // Given back this moment.
            Err(Errno::NOENT) => return self.put_new(said),
            other => other?,
        }
        if self.read(WAS)?.as_ref() != Some(found) {
            // Not the one that was watched.
            let back = linkat(&ours, WAS, &ours, LEASE, AtFlags::empty());
            if back.is_err() {
                renameat(&ours, WAS, &ours, LEASE)?;
            }
            strike(&ours, WAS);
            return Ok(None);
        }
        let made = self.put_new(said);
        // The holder beats first and then sees whose the lease is: if it has not beaten by now, it begins nothing more.
        if self.read(WAS)?.as_ref() != Some(found) && matches!(made, Ok(Some(_))) {
            log::warn!("{}: the holder came back this moment; waiting until it has stopped", self.shown);
            worker::sleep(self.fence.times.lapse);
        }
        unlinkat(&ours, WAS, AtFlags::empty())?;
        made
    }

    fn sweep(&self, ours: &OwnedFd) {
        for entry in rustix::fs::Dir::read_from(ours).into_iter().flatten().flatten() {
            if entry.file_name().to_bytes().starts_with(b"lease.") {
                strike(ours, entry.file_name());
            }
        }
    }
}

impl Place for Spot {
    fn fence(&self) -> &Fence {
        &self.fence
    }

    fn name(&self) -> String {
        format!("the backing {}", self.shown)
    }

    fn look(&self) -> io::Result<Option<Found>> {
        for _ in 0..LOOKS {
            let found = self.read(LEASE)?;
            if found.is_some() || self.file.lock().is_none() {
                return Ok(found);
            }
            worker::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }

    fn is_dead(&self, said: &Said, ours: bool) -> io::Result<bool> {
        let mut waits = 0;
        let file = loop {
            let dir = self.ours()?;
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = match openat(&dir, LEASE, flags, Mode::empty()) {
                // Given back this moment.
                Err(Errno::NOENT) => return Ok(true),
                other => other?,
            };
            match retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
                Ok(()) => {
                    let (mine, there) = (fstat(&file)?, statat(&dir, LEASE, AtFlags::SYMLINK_NOFOLLOW)?);
                    if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino) {
                        break file;
                    }
                }
                // A gateway that was killed lets go at the end of its exit, when its pid may be gone.
                Err(Errno::WOULDBLOCK) => {
                    if waits == DYING_WAITS || lock::is_alive(&said.holder) {
                        return Ok(false);
                    }
                }
                Err(e) => return Err(e.into()),
            }
            waits += 1;
            worker::sleep(Duration::from_millis(10));
        };
        // One that says no number was left behind half written.
        let dead = ours || said.nonce == 0 || said.is_of_this_boot() || said.is_of_this_machine();
        if dead {
            *self.file.lock() = Some(file);
        }
        Ok(dead)
    }

    fn claim(&self, found: Option<&Found>, said: &Said) -> io::Result<Option<String>> {
        let dead = self.file.lock().take();
        match (found, dead) {
            (None, _) => self.put_new(said),
            (Some(_), Some(file)) => {
                let text = self.write(&file, said)?;
                *self.file.lock() = Some(file);
                Ok(Some(text))
            }
            // Of a version that knew no beats: its lock is all it has, and it is held.
            (Some((old, _)), None) if old.nonce == 0 => Ok(None),
            (Some(found), None) => self.put_over(found, said),
        }
    }

    fn renew(&self, _: &Found, next: &Said) -> io::Result<Option<String>> {
        let text = {
            let file = self.file.lock();
            let Some(file) = &*file else { return Ok(None) };
            match self.write(file, next) {
                // It was replaced on another machine.
                Err(e) if e.raw_os_error() == Some(libc::ESTALE) => return Ok(None),
                other => other?,
            }
        };
        if self.is_asked()
            && let Ok(ours) = self.ours()
        {
            strike(&ours, ASK);
        }
        Ok(self.look()?.filter(|f| f.1 == text).map(|f| f.1))
    }

    fn put_back(&self, said: &Said) -> io::Result<Option<String>> {
        let times = attrs::times_of(self.root.as_fd())?;
        if make_dir(self.root.as_fd(), OURS)? {
            attrs::set_times(self.root.as_fd(), times.0, times.1)?;
        }
        self.put_new(said)
    }

    fn remove(&self, was: &Found) -> io::Result<()> {
        if self.read(LEASE)?.is_none_or(|f| f.0.nonce != was.0.nonce) {
            return Ok(());
        }
        let ours = self.ours()?;
        unlinkat(&ours, LEASE, AtFlags::empty())?;
        self.sweep(&ours);
        let times = attrs::times_of(self.root.as_fd())?;
        if remove_if_empty(self.root.as_fd(), OURS)?
            && let Err(e) = attrs::set_times(self.root.as_fd(), times.0, times.1)
        {
            log::debug!("{}: the times of the root stay moved: {e}", self.shown);
        }
        Ok(())
    }

    fn is_asked(&self) -> bool {
        // A network store may be late in telling of a file that was not there: then it beats unasked.
        self.remote || self.ours().is_ok_and(|d| statat(&d, ASK, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    }

    fn ask(&self, wanted: bool) -> io::Result<()> {
        let ours = self.ours()?;
        if wanted {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&ours, ASK, flags, Mode::from_raw_mode(0o600))?;
        } else if let Err(e) = unlinkat(&ours, ASK, AtFlags::empty())
            && e != Errno::NOENT
        {
            return Err(e.into());
        }
        Ok(())
    }
}

/// What keeps the lease.
pub(super) type Kept = Beating<Spot>;

impl DirectoryBacking {
    fn ours(&self, name: &str) -> PathBuf {
        self.path.join(OURS).join(name)
    }

    pub(super) fn has_house_now(&self) -> bool {
        files::is_dir(&self.path.join(OURS))
    }

    /// One gateway a backing.
    pub(super) fn lease_now(&self, how: Taking) -> Result<Box<dyn HeldLease>, String> {
        let spot = Spot {
            root: self.root.try_clone().map_err(|e| format!("backing {}: {e}", self.shown))?,
            shown: self.shown.clone(),
            remote: self.remote,
            fence: self.fence.clone(),
            file: Mutex::new(None),
        };
        let (kept, held) = take(spot, how)?;
        // A backing takes its lease once.
        let _ = self.kept.set(kept);
        Ok(held)
    }

    pub(super) fn notes_now(&self) -> io::Result<Vec<Note>> {
        let dir = self.ours("logs");
        let mut out = Vec::new();
        let names = match files::list(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(out),
            other => other?,
        };
        for name in names.into_iter().filter(|n| !n.contains('.')) {
            let file = dir.join(&name);
            let text = String::from_utf8_lossy(&files::read(&file)?).trim().to_owned();
            out.push(Note { name, text, place: file.display().to_string() });
        }
        Ok(out)
    }

    pub(super) fn put_note_now(&self, name: &str, text: &str) -> io::Result<()> {
        let dir = self.ours("logs");
        files::create_dir_private(&dir)?;
        files::write_atomic(&dir.join(name), format!("{text}\n").as_bytes(), 0o600)
    }

    pub(super) fn drop_note_now(&self, name: &str) -> io::Result<()> {
        let dir = self.ours("logs");
        match files::remove(&dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        match files::remove_dir(&dir) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Ok(())
            }
            other => other,
        }
    }
}
