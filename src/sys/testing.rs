//! For tests only: acting as another user.

use std::os::raw::c_int;

unsafe extern "C" {
    fn setfsuid(uid: libc::uid_t) -> c_int;
    fn setfsgid(gid: libc::gid_t) -> c_int;
}

/// Runs `f` on a thread that the filesystem sees as an ordinary user. False when we are not root
/// and could not.
pub fn as_user<T: Send>(id: u32, f: impl FnOnce() -> T + Send) -> Option<T> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let run = || {
        // SAFETY: both calls only change the calling thread's file credentials; the thread ends
        // with `f`. With a fsuid other than 0 the kernel drops the file capabilities.
        unsafe {
            setfsgid(id);
            setfsuid(id);
        }
        f()
    };
    std::thread::scope(|s| Some(s.spawn(run).join().expect("the test thread panicked")))
}
