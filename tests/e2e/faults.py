"""The log's disk fails under a running gateway: syncs that fail, writes that fail, no space left, a disk that lies. The
gateway is traced with strace, which answers its system calls in the kernel's place."""
import errno
import fcntl
import os
import random
import signal
import struct
import subprocess
import time

from harness import FAKE, Suite, alive, get, sh, wait_until
from powercut import BOOT_ID, NO_FLUSH, SHUTDOWN

BLOCK = 4096


class Trouble:
    """System calls of the gateway fail while this lasts."""

    def __init__(self, s, g, calls, how):
        self.s, self.pid = s, g.pids()[0]
        self.args = ["strace", "-f", "-q", "-o", "/dev/null", "-p", str(self.pid), "-e", f"trace={calls}", "-e", f"inject={calls}:{how}"]

    def __enter__(self):
        self.strace = subprocess.Popen(self.args)
        self.s.undo.append(self.end)
        if not wait_until(self.attached, 20, 0.02):
            raise RuntimeError("strace did not attach")
        return self

    def attached(self):
        for t in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{t}/status") as f:
                if "TracerPid:\t0\n" in f.read():
                    return False
        return True

    def end(self):
        if self.strace.poll() is None:
            self.strace.send_signal(signal.SIGINT)
            if not wait_until(lambda: self.strace.poll() is not None, 5):
                self.strace.kill()  # of a traced process that was killed it may wait for a thread for ever
                self.strace.wait(20)

    def __exit__(self, *_):
        self.end()


def write(path, data, sync=True):
    """0, or the errno that a write or an fsync gave."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            at = 0
            while at < len(data):
                at += os.write(fd, data[at:])
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        return 0
    except OSError as e:
        return e.errno


def fsync(path):
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        return 0
    except OSError as e:
        return e.errno
    finally:
        os.close(fd)


def failed_syncs(s):
    """EIO until the data are in another file; nothing reaches the backing meanwhile; status says why."""
    for code in ("EIO", "ENOSPC"):
        g = s.gateway(f"sync-{code}", "--writeback-age", "300ms", "--commit-interval", "10m")
        g.mount()
        before, data = os.urandom(3 << 20), os.urandom(2 << 20)
        s.check(write(g.path("before"), before) == 0, f"{code}: fsync works before it")
        with Trouble(s, g, "fdatasync", f"error={code}"):
            s.check(write(g.path("f"), data) == errno.EIO, f"{code} of a sync of the log: fsync answers EIO")
            s.check(fsync(g.path("f")) == errno.EIO, "and so does the next one")
            s.check(get(g.path("f")) == data and write(g.path("more"), data, sync=False) == 0, "reads and writes go on")
            time.sleep(1.5)
            there = [n for n in ("f", "more") if os.path.exists(os.path.join(g.backing, n))]
            s.check(not there, "nothing is brought to the backing ahead of the log", there)
            st = g.status()
            why = st.get("reason") or ""
            s.check(st.get("state") == "degraded" and g.log in why and "fsync gives EIO" in why, "status says degraded, and why", st.get("reason"))
            log = st.get("log", {})
            s.check(log.get("segments_latched", 0) > 0 and log.get("sync_failures", 0) > 0, "and counts it", log)
        s.check(wait_until(lambda f=g.path("f"): fsync(f) == 0, 60, 0.2), "once it is written to another file, fsync works again")
        # Later calls of the periodic sync may have latched others: all are rewritten.
        s.check(wait_until(lambda g=g: g.status().get("log", {}).get("segments_latched") == 0, 60, 0.2), "no segment stays latched")
        st = g.status()
        s.check(st["log"]["segments_rewritten"] > 0, f"{st['log']['segments_rewritten']} segments were rewritten")
        s.check(wait_until(lambda g=g: g.status().get("state") == "serving", 60, 0.2), "status says serving", st.get("reason"))
        s.check(get(g.path("f")) == data and get(g.path("before")) == before, "all reads back")
        r = g.umount()
        s.check(r.returncode == 0 and all(get(f"{g.backing}/{n}") == d for n, d in (("f", data), ("more", data), ("before", before))),
                "umount returns 0, the backing has all of it", r.stderr)
        names = os.listdir(g.log)
        s.check(not [n for n in names if n.endswith((".new", ".bad"))], "nothing of the rewriting is left in the log", names)


def killed_while_latched(s):
    """The kernel forgets that a sync failed; the next mount must not."""
    g = s.gateway("killed", "--writeback-age", "1h")
    g.mount()
    data = os.urandom(3 << 20)
    pids = g.pids()
    with Trouble(s, g, "fdatasync", "error=EIO"):
        s.check(write(g.path("f"), data) == errno.EIO, "fsync answers EIO")
        for p in pids:
            os.kill(p, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, pids)), 20)
    g.detach()
    s.check(any(n.endswith(".bad") for n in os.listdir(g.log)), "killed then: the log says which segment was not synced")
    s.check(g.run("fsck", g.log).returncode == 0, "fsck finds no damage")
    g.mount()
    with open(g.log_file) as f:
        s.check("was written to another file and verified" in f.read(), "the next mount writes it to another file")
    s.check(get(g.path("f")) == data and fsync(g.path("f")) == 0, "all is there, and fsync works")
    s.check(g.umount().returncode == 0 and get(g.backing + "/f") == data, "umount returns 0")
    s.check(not [n for n in os.listdir(g.log) if n.endswith((".new", ".bad"))], "no mark is left")


def failed_writes(s):
    """A log that cannot be written refuses at the call, and what was acknowledged stays."""
    for code in ("EIO", "ENOSPC"):
        g = s.gateway(f"write-{code}", "--writeback-age", "1h")
        g.mount()
        data = os.urandom(1 << 20)
        s.check(write(g.path("f"), data) == 0, f"{code}: a file before it")
        with Trouble(s, g, "pwritev", f"error={code}"):
            got = write(g.path("refused"), data)
            s.check(got in (errno.EIO, errno.ENOSPC), f"{code} of a write to the log: refused at the call", errno.errorcode.get(got, got))
            s.check(get(g.path("f")) == data, "what was acknowledged reads back")
        s.check(wait_until(lambda g=g, d=data: write(g.path("after"), d) == 0, 30, 0.2), "service resumes without a remount")
        r = g.umount()
        s.check(r.returncode == 0 and get(g.backing + "/f") == data and get(g.backing + "/after") == data, "umount returns 0", r.stderr)


def no_space(s):
    """Someone else fills the log's device: the log does with the segments it has."""
    disk = s.loop_fs("small", 96)
    if not disk:
        s.note("no loop device here: a full log device not tested")
        return
    g = s.gateway("space", "--log-size", "64MiB", "--writeback-age", "300ms", "--seal-after", "200ms")
    g.log = disk + "/log"
    g.mount()
    s.check(write(g.path("first"), os.urandom(1 << 20)) == 0, "a file while there is space")
    with open(disk + "/hog", "wb") as f:
        try:
            while f.write(bytes(1 << 20)):
                f.flush()
        except OSError:
            pass
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    s.check(free < 1 << 20, f"the device is full ({free} bytes free)")
    data, codes = os.urandom(4 << 20), []
    kid = s.spawn(lambda: 0 if all(codes.append(write(g.path(f"f{i}"), data)) or codes[-1] in (0, errno.ENOSPC) for i in range(20)) else 1)
    s.check(kid.join(240) == 0, "80 MiB through it: done or ENOSPC, nothing else, no hang")
    s.check(s.within(60, lambda: os.unlink(g.path("first")) is None), "a delete works")
    os.unlink(disk + "/hog")
    s.check(wait_until(lambda: write(g.path("after"), data) == 0, 60, 0.5), "with space again service resumes")
    whole = all(get(g.path(n)) in (data, b"") or data.startswith(get(g.path(n))) for n in os.listdir(g.mnt) if n.startswith("f"))
    r = g.umount()
    s.check(whole and r.returncode == 0 and get(g.backing + "/after") == data, "what was acknowledged is whole; umount returns 0", r.stderr)


def block(n, version):
    return struct.pack("<QQ", n, version) * (BLOCK // 16)


def liar(path, seconds, seed):
    rng, end, n = random.Random(seed), time.monotonic() + seconds, 0
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    while time.monotonic() < end:
        n += 1
        at = rng.randrange(200)
        try:
            os.pwrite(fd, block(at, n), at * BLOCK)
            if n % 5 == 0:
                os.fsync(fd)
        except OSError:
            break
    return 0


def foreign(path):
    """Blocks that hold neither zeros nor a version of themselves; how many cannot be read."""
    wrong, refused = [], 0
    fd = os.open(path, os.O_RDONLY)
    for at in range(-(-os.fstat(fd).st_size // BLOCK)):
        try:
            b = os.pread(fd, BLOCK, at * BLOCK)
        except OSError:
            refused += 1
            continue
        n, v = struct.unpack("<QQ", b[:16])
        if b.strip(b"\0") and (n != at or b != block(n, v)):
            wrong.append(at)
    os.close(fd)
    return wrong, refused


def lying_disk(s):
    """Syncs that say yes and do nothing, then a power cut: what was promised is gone, but nothing else takes its place."""
    disk = s.loop_fs("liar", 200)
    if not disk:
        s.note("no loop device here: a lying disk not tested")
        return
    g = s.gateway("lies", "--log-size", "64MiB", "--writeback-age", "500ms", "--seal-after", "300ms")
    g.log = disk + "/log"
    g.mount()
    with Trouble(s, g, "fdatasync", "retval=0"):
        kids = [s.spawn(liar, g.path(f"f{k}"), 30, k) for k in range(3)]
        time.sleep(4)
        pids = g.pids()
        fd = os.open(disk, os.O_RDONLY)
        fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_FLUSH))
        os.close(fd)
        for p in pids:
            os.kill(p, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, pids)), 20)
    for k in kids:
        k.kill()
    g.detach()
    wait_until(lambda: sh(["umount", disk], 60).returncode == 0, 10, 0.1)
    s.check(sh(["mount", "-o", "loop", s.scratch + "/liar.img", disk], 60).returncode == 0, "(the disk is there again)")
    code = g.run("fsck", g.log).returncode
    s.check(code in (0, 1, 2), f"fsck of that log ends (exit {code})")
    with open(s.scratch + "/boot_id", "w") as f:
        f.write("00000001-0000-4000-8000-000000000002\n")
    sh(["mount", "--bind", s.scratch + "/boot_id", BOOT_ID], 20)
    try:
        r = g.mount(must=False)
    finally:
        sh(["umount", BOOT_ID], 20)
    if r.returncode:
        s.check(r.returncode == 2 and "panicked" not in r.stderr and 0 < len(r.stderr.strip().splitlines()) < 4,
                "the mount refuses in a line", r.stderr)
        return
    for k in range(3):
        at = g.path(f"f{k}")
        if not os.path.exists(at):
            continue
        wrong, refused = foreign(at)
        s.check(not wrong, f"file {k}: no block holds what nobody wrote there ({refused} cannot be read)", wrong[:20])
    g.umount("--timeout", "20s", timeout=60)


def main():
    with Suite("faults") as s:
        if FAKE:
            s.note("on plain directories nothing can be made to fail")
            s.check(True, "nothing to do")
            return
        failed_syncs(s)
        killed_while_latched(s)
        failed_writes(s)
        no_space(s)
        lying_disk(s)


if __name__ == "__main__":
    main()
