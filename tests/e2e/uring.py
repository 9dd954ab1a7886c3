"""Requests over io_uring: switched on for the suite where the kernel has it, and put back at its end.

uring.py [STEP]...   all steps, or some by name
Any other suite runs over it with FORELOG_TRANSPORT=uring, as long as the kernel's parameter says Y.
"""
import errno
import hashlib
import mmap
import os
import re
import subprocess
import sys
import time

import maketree
from harness import BIN, FAKE, GONE_ERRNOS, Suite, get, mounts, put, sh, wait_until
from posix_suite import tool
from tree import compare, snapshot

PARAMETER = "/sys/module/fuse/parameters/enable_uring"
WRITERS, SYNCS = 24, 40
# More than a CPU's ring has entries for would make the others wait; these are fewer.
READERS = 60
FSX = """flen = 262144
[opsize]
max = 32768
[weights]
read = 10
write = 10
mapread = 5
mapwrite = 5
truncate = 5
fsync = 0.2
posix_fallocate = 1
punch_hole = 4
copy_file_range = 4
"""


def switch(to):
    with open(PARAMETER, "w") as f:
        f.write(to)


def transport(g):
    return g.status().get("transport")


def chosen(s):
    """What is asked for is done, or refused in one line; `auto` takes what there is."""
    g = s.gateway("chosen")
    switch("N")
    r = g.mount("--transport", "uring", must=False)
    s.check(r.returncode == 2 and "echo Y" in r.stderr and r.stderr.count("\n") == 1 and not g.mounted(),
            "--transport uring while it is switched off: refused, with what to do", f"exit {r.returncode}: {r.stderr}")
    for flag, parameter, want in (("auto", "N", "device"), ("auto", "Y", "uring"), ("uring", "Y", "uring"), ("device", "Y", "device")):
        switch(parameter)
        g.mount("--transport", flag)
        s.check(transport(g) == want, f"--transport {flag}, kernel says {parameter}: {want}", transport(g))
        put(g.path("f"), flag.encode())
        r = g.umount()
        s.check(r.returncode == 0 and get(g.backing + "/f") == flag.encode(), f"and it drains ({flag}, {parameter})", r.stderr)
    switch("Y")


def strace(g, when, *more):
    """The gateway in front under strace, which fails its threads' calls into their rings."""
    p = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_enter", "-e", f"inject=io_uring_enter:error=ENOMEM:when={when}",
                          BIN, *g.mount_command("-f", *more)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    g.suite.undo.append(p.kill)
    return p


def not_taken(s):
    """A kernel that takes no ring: `auto` goes on over the device, `uring` fails; and if it does not even hear that, the mount fails."""
    g = s.gateway("not-taken")
    p = strace(g, "1")
    s.check(wait_until(g.mounted, 20) and wait_until(lambda: transport(g) == "device", 20), "auto, and no ring is taken: over the device", g.status().get("transport"))
    s.check(s.within(20, lambda: put(g.path("f"), b"f", sync=True) is None and get(g.path("f")) == b"f"), "and it serves")
    s.check(g.umount().returncode == 0 and wait_until(lambda: p.poll() is not None, 20), "and drains")
    for flag, when, what in (("uring", "1", "uring, and no ring is taken"), ("auto", "1+", "the kernel cannot even be told so")):
        p = strace(g, when, "--transport", flag)
        ended = wait_until(lambda: p.poll() is not None, 20)
        said = p.stderr.read() if ended else ""
        s.check(ended and p.returncode == 2 and not g.mounted() and "panicked" not in said, f"{what}: the mount fails and nothing hangs", said[-300:])


def cpu_bound(cpu, fn, *args):
    os.sched_setaffinity(0, {cpu})
    return fn(*args)


def basics(s):
    """What programs do, from each CPU."""
    g = s.gateway("basics", "--transport", "uring")
    g.mount()
    want = s.scratch + "/want"
    maketree.make(want, seed=3, mib=8, small=400)
    r = sh(["cp", "-a", want + "/.", g.mnt], 120)
    s.check(r.returncode == 0, "a tree with everything is copied in", r.stderr)
    s.check(not compare(snapshot(want), snapshot(g.mnt)), "and reads back the same", compare(snapshot(want), snapshot(g.mnt)))
    for cpu in sorted(os.sched_getaffinity(0)):
        s.check(s.within(60, cpu_bound, cpu, calls, g.path(f"cpu{cpu}")), f"each kind of call works on CPU {cpu}")
    names = [f"{n:05}-{'x' * (n % 200)}" for n in range(3000)]
    os.mkdir(g.path("many"))
    for n in names:
        open(g.path("many", n), "wb").close()
    s.check(sorted(os.listdir(g.path("many"))) == names, "3,000 names of all lengths are listed, each once")
    s.check({e.name for e in os.scandir(g.path("many")) if e.stat().st_size == 0} == set(names), "and with their attributes")
    before = snapshot(g.mnt)
    r = g.umount()
    s.check(r.returncode == 0, "umount returns 0", r.stderr)
    s.check(not compare(before, snapshot(g.backing)), "the backing holds the same", compare(before, snapshot(g.backing)))


def refusal(fn, *args):
    try:
        fn(*args)
        return 0
    except OSError as e:
        return e.errno


def calls(top):
    """Each kind of request once, with an outcome that can be told."""
    os.mkdir(top)
    p = top + "/f"
    fd = os.open(p, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    data = os.urandom(300_000)
    assert os.write(fd, data) == len(data) and os.pread(fd, 400_000, 0) == data
    os.fsync(fd)
    os.posix_fallocate(fd, 400_000, 100)
    assert os.fstat(fd).st_size == 400_100
    os.ftruncate(fd, 1 << 20)
    assert os.lseek(fd, 0, os.SEEK_HOLE) <= 1 << 20 and os.lseek(fd, 0, os.SEEK_DATA) == 0
    with mmap.mmap(fd, 1 << 20) as m:
        m[5:8] = b"abc"
        m.flush()
    assert os.pread(fd, 3, 5) == b"abc"
    out = os.open(top + "/copy", os.O_RDWR | os.O_CREAT, 0o600)
    assert os.copy_file_range(fd, out, 200_000, 0, 10) == 200_000 and os.pread(out, 200_000, 10) == os.pread(fd, 200_000, 0)
    os.close(out)
    os.close(fd)
    with open(p, "ab") as f:
        f.write(b"end")
    assert os.stat(p).st_size == (1 << 20) + 3
    sync = os.open(p, os.O_WRONLY | os.O_SYNC)
    os.pwrite(sync, b"sync", 0)
    os.close(sync)
    os.setxattr(p, "user.a", b"v" * 1000)
    assert os.getxattr(p, "user.a") == b"v" * 1000 and "user.a" in os.listxattr(p)
    os.removexattr(p, "user.a")
    assert refusal(os.getxattr, p, "user.a") == errno.ENODATA
    os.link(p, top + "/link")
    os.symlink("f" * 4000, top + "/sym")
    assert os.readlink(top + "/sym") == "f" * 4000 and os.stat(p).st_nlink == 2
    os.mkfifo(top + "/fifo")
    os.rename(top + "/link", top + "/moved")
    assert refusal(os.rmdir, top) == errno.ENOTEMPTY and refusal(os.stat, top + "/absent") == errno.ENOENT
    assert refusal(os.open, top + "/" + "n" * 256, os.O_CREAT | os.O_WRONLY) == errno.ENAMETOOLONG
    os.utime(p, ns=(-1_250_000_000, 1_500_000_001))
    assert os.stat(p).st_mtime_ns == 1_500_000_001 and os.stat(p).st_atime_ns == -1_250_000_000
    os.chmod(p, 0o4711)
    os.chown(p, 12, 34)
    assert os.stat(p).st_uid == 12 and os.statvfs(top).f_bsize > 0
    dirfd = os.open(top, os.O_RDONLY)
    os.fsync(dirfd)
    os.close(dirfd)
    return sorted(os.listdir(top)) == ["copy", "f", "fifo", "moved", "sym"]


def fsx(s):
    exe = tool(s, "fsx")
    if not exe:
        return
    g = s.gateway("fsx", "--transport", "uring", "--log-size", "256MiB", "--writeback-age", "400ms", "--seal-after", "200ms")
    g.mount()
    config = s.scratch + "/fsx.toml"
    with open(config, "w") as f:
        f.write(FSX)
    r = sh([exe, "-q", "-f", config, "-P", s.dir("fsx-artifacts"), "-N", "15000", "-S", "7", g.path("x")], 300)
    s.check(r.returncode == 0, "fsx: 15,000 operations on one file", (r.stdout + r.stderr)[-600:])
    r = g.umount()
    s.check(r.returncode == 0, "and it drains", r.stderr)


def syncer(path, n):
    fd = os.open(f"{path}/w{n}", os.O_WRONLY | os.O_CREAT, 0o644)
    for i in range(SYNCS):
        os.pwrite(fd, hashlib.sha256(b"%d %d" % (n, i)).digest() * 128, i * 4096)
        os.fsync(fd)
    return True


def syncs(s):
    """More syncs at once than CPUs; then the gateway is killed, and what was synced is there."""
    g = s.gateway("syncs", "--transport", "uring", "--writeback-age", "1h")
    g.mount()
    began = time.monotonic()
    crowd = [s.spawn(lambda n=n: 0 if syncer(g.mnt, n) else 1) for n in range(WRITERS)]
    s.check(all(c.join(120) == 0 for c in crowd), f"{WRITERS} processes with {SYNCS} syncs each", [c.code for c in crowd])
    s.headline = f"{WRITERS * SYNCS / (time.monotonic() - began):.0f} syncs a second"
    put(g.path("unsynced"), b"u" * 50_000)
    held = open(g.path("held"), "wb")
    held.write(b"h")
    g.kill9()
    error = refusal(os.stat, g.path("unsynced"))
    s.check(error in GONE_ERRNOS, "kill -9: calls get an error and do not wait", errno.errorcode.get(error, error))
    g.detach()
    refusal(held.close)
    g.mount()
    want = {f"w{n}": b"".join(hashlib.sha256(b"%d %d" % (n, i)).digest() * 128 for i in range(SYNCS)) for n in range(WRITERS)}
    bad = [n for n, data in want.items() if get(g.path(n)) != data]
    s.check(not bad and get(g.path("unsynced")) == b"u" * 50_000, "and the next mount has all of it", bad)
    s.check(transport(g) == "uring", "over rings again", transport(g))
    r = g.umount()
    s.check(r.returncode == 0 and not [n for n, data in want.items() if get(f"{g.backing}/{n}") != data], "umount drains it", r.stderr)


def open_files(s):
    """Unmounting what is in use is refused; taken off the tree it ends once nobody uses it."""
    g = s.gateway("busy", "--transport", "uring")
    g.mount()
    f = open(g.path("f"), "wb")
    f.write(b"a" * 5000)
    f.flush()
    r = g.umount()
    s.check(r.returncode == 2 and g.mounted(), "umount of a mount in use: refused", f"exit {r.returncode}: {r.stderr}")
    pid = g.status()["pid"]
    sh(["umount", "-l", g.mnt], 30)
    f.write(b"b" * 5000)
    f.close()
    s.check(wait_until(lambda: not os.path.exists(f"/proc/{pid}") or "Z" in get_state(pid), 30), "umount -l, then the last close: the gateway drains and ends")
    s.check(get(g.backing + "/f") == b"a" * 5000 + b"b" * 5000, "what was written in between is in the backing")


def get_state(pid):
    try:
        return get(f"/proc/{pid}/stat").rpartition(b")")[2].split()[0].decode()
    except OSError:
        return "Z"


def local_work(path):
    """What needs nothing of the backing."""
    with open(path, "r+b") as f:
        f.write(b"l" * 100_000)
        f.flush()
        os.fsync(f.fileno())
    os.chmod(path, 0o600)
    return get(path) == b"l" * 100_000


def slow_reads(s):
    """Many reads wait for a backing that hangs (in a directory of their own: the kernel holds it while a name is looked up);
    on each CPU everything else goes on."""
    below = s.gateway("below", "--transport", "device")
    os.makedirs(below.backing + "/sub/cold")
    for n in range(READERS):
        put(f"{below.backing}/sub/cold/f{n}", os.urandom(5000))
    below.mount()
    g = s.gateway("above", "--transport", "uring", backing=below.mnt + "/sub")
    g.mount()
    cpus = sorted(os.sched_getaffinity(0))
    for cpu in cpus:
        put(g.path(f"local{cpu}"), b"l")
    [os.stat(g.path(f"cold/f{n}")) for n in range(READERS)]
    pid = below.pids()[0]
    os.kill(pid, 19)
    s.undo.append(lambda: os.path.exists(f"/proc/{pid}") and os.kill(pid, 18))
    crowd = [s.spawn(lambda n=n: 0 if refusal(get, g.path(f"cold/f{n}")) == errno.EIO else 1) for n in range(READERS)]
    time.sleep(1)
    for cpu in cpus:
        began = time.monotonic()
        ok = s.within(10, cpu_bound, cpu, local_work, g.path(f"local{cpu}"))
        s.check(ok, f"{READERS} reads wait: a write, its fsync and a chmod on CPU {cpu} took {time.monotonic() - began:.1f} s")
    s.check(all(c.join(60) == 0 for c in crowd), "and the reads end with EIO", [c.code for c in crowd])
    os.kill(pid, 18)
    s.check(wait_until(lambda: refusal(get, g.path("cold/f1")) == 0, 30, 0.5), "once the backing is back they work")
    for x in (g, below):
        r = x.umount()
        s.check(r.returncode == 0, "umount returns 0", r.stderr)


def ring_threads(pid):
    found = {}
    for t in os.listdir(f"/proc/{pid}/task"):
        name = get(f"/proc/{pid}/task/{t}/comm").decode().strip()
        if name.startswith("ring-"):
            found[int(name[5:])] = int(t)
    return found


def dead_ring(s):
    """A ring's thread that cannot go on ends the mount with an error, instead of leaving everyone waiting."""
    g = s.gateway("dead", "--transport", "uring", "--writeback-age", "1h")
    g.mount()
    put(g.path("f"), b"acknowledged" * 1000)
    pid = g.status()["pid"]
    rings = ring_threads(pid)
    s.check(set(rings) == set(range(os.cpu_count())), "a ring for each CPU", rings)
    cpu = min(rings)
    strace = subprocess.Popen(["strace", "-qq", "-o", "/dev/null", "-p", str(rings[cpu]), "-e", "trace=io_uring_enter", "-e", "inject=io_uring_enter:error=EBADF"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    s.undo.append(strace.kill)
    time.sleep(0.5)
    caller = s.spawn(lambda: 0 if cpu_bound(cpu, refusal, os.listdir, g.mnt) or g.mnt not in mounts() else 1)
    s.check(caller.join(30) is not None, "its thread fails: who asks it is not left waiting")
    s.check(wait_until(lambda: not g.mounted(), 30), "the mount is gone")
    strace.terminate()
    strace.wait(10)
    log = get(g.log_file).decode(errors="replace")
    s.check(len(re.findall(r"ERROR.*the thread of ring", log)) == 1, "one line of the log says so", log[-500:])
    s.check(wait_until(lambda: get_state(pid) == "Z" or not os.path.exists(f"/proc/{pid}"), 60), "the gateway drains and ends")
    g.mount()
    s.check(get(g.path("f")) == b"acknowledged" * 1000, "nothing acknowledged is lost")
    r = g.umount()
    s.check(r.returncode == 0, "umount returns 0", r.stderr)


def main():
    with Suite("uring") as s:
        if FAKE or not os.path.exists(PARAMETER):
            s.note("no binary, or a kernel without FUSE over io_uring: nothing to test")
            return
        before = get(PARAMETER).decode().strip()
        s.undo.append(lambda: switch(before))
        named = [a for a in sys.argv[1:] if not a.startswith("-")]
        switch("Y")
        for step in (chosen, not_taken, basics, fsx, syncs, open_files, slow_reads, dead_ring):
            if not named or step.__name__ in named:
                step(s)


if __name__ == "__main__":
    main()
