"""How a gateway begins and ends: refusals, SIGTERM, busy and timed-out unmounts, kills, lazy unmounts, fsck of damaged logs."""
import hashlib
import os
import shutil
import signal
import socket
import time

import lifecycle_odd
from harness import BIN, FAKE, Suite, alive, get, mounts, pids_naming, put, sh, wait_until

MARK = b"forelog-damage-marker:"


def one_line(r):
    return 0 < len(r.stderr.strip().splitlines()) <= 3 and "panicked" not in r.stderr


def refusals(s):
    """A mount that cannot be says why, in the foreground of the person who asked."""
    g = s.gateway("refuse")
    plain, full = s.scratch + "/plain-file", s.dir("full")
    put(plain, b"x")
    put(full + "/x", b"x")
    for what, args in (("missing backing", (s.scratch + "/none", g.mnt)), ("backing is a file", (plain, g.mnt)),
                       ("missing mount point", (g.backing, s.scratch + "/none")), ("mount point is a file", (g.backing, plain)),
                       ("mount point not empty", (g.backing, full)), ("backing = mount point", (g.backing, g.backing)),
                       ("mount point inside the backing", (g.backing, s.dir("refuse/backing/sub")))):
        r = g.run("mount", *args, "--log-dir", g.log)
        s.check(r.returncode == 2 and one_line(r), f"refused in one line: {what}", f"exit {r.returncode}: {r.stderr}")
        unmount_all(g, args[1])
    for what, more in (("size", ("--log-size", "many")), ("unknown flag", ("--no-such-flag",)), ("duration", ("--seal-after", "5 parsecs"))):
        r = g.run("mount", g.backing, g.mnt, "--log-dir", g.log, *more)
        s.check(r.returncode == 1 and "panicked" not in r.stderr, f"usage error exits 1: bad {what}", f"exit {r.returncode}: {r.stderr}")
        unmount_all(g, g.mnt)
    s.check(g.run("status", g.mnt).returncode == 2, "status of no mount exits 2")
    s.check(g.run("umount", g.mnt).returncode == 2, "umount of no mount exits 2")
    s.check(g.run("fsck", s.scratch + "/none").returncode == 2, "fsck of no log exits 2")


def unmount_all(g, *mnts):
    """After a mount that should have been refused, so that the next check starts clean."""
    for m in mnts:
        if m in mounts():
            g.run("umount", m)


def double_mount(s):
    g = s.gateway("double")
    g.mount()
    pid = str(g.status().get("pid"))
    other, logs = s.dir("double/other"), s.dir("double/other-log")
    for what, args in (("log", (s.dir("double/back2"), other, "--log-dir", g.log)), ("backing", (g.backing, other, "--log-dir", logs))):
        t = time.monotonic()
        r = g.run("mount", *args)
        took = time.monotonic() - t
        s.check(r.returncode == 2 and pid in r.stderr and socket.gethostname() in r.stderr,
                f"second mount of the same {what} refused, naming host and pid {pid}", f"exit {r.returncode}: {r.stderr}")
        s.check(took < 1, f"within 1 s ({took:.2f} s)")
    put(g.path("still"), b"works")
    s.check(g.umount().returncode == 0 and get(g.backing + "/still") == b"works", "the first mount is untouched by it")
    g.mount()
    s.check(g.umount().returncode == 0, "and the same log mounts again at once")


def terminated(s):
    """SIGTERM and SIGINT drain, unmount and exit."""
    for sig in (signal.SIGTERM, signal.SIGINT):
        g = s.gateway(sig.name.lower())
        g.mount()
        data = os.urandom(3 << 20)
        put(g.path("f"), data)
        os.link(g.path("f"), g.path("g"))
        pids = g.pids()
        os.kill(pids[0], sig)
        s.check(wait_until(lambda p=pids: not any(map(alive, p)), 60), f"{sig.name}: the gateway ends")
        s.check(not g.mounted() and get(g.backing + "/f") == data and os.stat(g.backing + "/g").st_nlink == 2,
                f"{sig.name}: unmounted, everything is in the backing")
        s.check(g.run("fsck", g.log).returncode == 0, f"{sig.name}: fsck exits 0")


def busy(s):
    g = s.gateway("busy")
    g.mount()
    with open(g.path("open"), "wb") as f:
        f.write(b"before")
        f.flush()
        r = g.umount()
        s.check(r.returncode == 2 and g.mounted() and one_line(r), "umount with an open file: exit 2, one line, still mounted",
                f"exit {r.returncode}: {r.stderr}")
        f.write(b" after")
    put(g.path("new"), b"n")
    s.check(get(g.path("open")) == b"before after" and g.status().get("state") == "serving", "and it still serves")
    s.check(g.umount().returncode == 0 and get(g.backing + "/open") == b"before after", "then umount returns 0")


def slow_backing(s):
    """A frozen filesystem is as slow as a backing can be: umount gives up in time, says what is left, and nothing is lost."""
    back = s.loop_fs("frozen", 256)
    if not back or sh(["fsfreeze", "--help"]).returncode:
        s.note("no loop device or fsfreeze here: timed-out unmount not tested")
        return
    g = s.gateway("slow", "--writeback-age", "1h", backing=back)
    g.mount()
    data = os.urandom(20 << 20)
    put(g.path("f"), data)
    s.freeze(back, 90)
    try:
        t = time.monotonic()
        r = g.umount("--timeout", "3s", timeout=60)
        took = time.monotonic() - t
        s.check(r.returncode == 3 and any(c.isdigit() for c in r.stderr + r.stdout), "umount that times out exits 3 and says how much is left",
                f"exit {r.returncode}: {r.stderr} {r.stdout}")
        s.check(took < 15, f"in about its time ({took:.1f} s of 3 s)")
    finally:
        s.thaw(back)
    if g.mounted():
        s.check(get(g.path("f")) == data, "still mounted, still whole")
    else:
        wait_until(lambda: not g.pids(), 60)
        g.mount()
    r = g.umount(timeout=120)
    s.check(r.returncode == 0 and get(back + "/f") == data, "once the backing is back, umount returns 0 and all is there", r.stderr)


def no_wait(s):
    g = s.gateway("nowait", "--writeback-age", "1h")
    g.mount()
    data = os.urandom(8 << 20)
    put(g.path("f"), data)
    t = time.monotonic()
    r = g.umount("--no-wait")
    s.check(r.returncode in (0, 3) and time.monotonic() - t < 10, "umount --no-wait returns at once, 3 when bytes remain", r.stderr)
    resume(s, g, "umount --no-wait", {"f": data})


def resume(s, g, what, files):
    """After an end without a drain the next mount has everything and can drain it."""
    wait_until(lambda: not g.mounted() and not g.pids(), 60)
    g.mount()
    s.check(all(get(g.path(n)) == d for n, d in files.items()), f"{what}: the next mount shows all of it")
    r = g.umount()
    s.check(r.returncode == 0 and all(get(os.path.join(g.backing, n)) == d for n, d in files.items()),
            f"{what}: and drains it", r.stderr)


def lazy(s):
    g = s.gateway("lazy", "--writeback-age", "1h")
    g.mount()
    data = os.urandom(5 << 20)
    put(g.path("f"), data)
    os.mkdir(g.path("d"))
    os.rename(g.path("f"), g.path("d/f"))
    sh(["umount", "-l", g.mnt])
    resume(s, g, "umount -l", {"d/f": data})


def killed(s):
    g = s.gateway("killed", "--writeback-age", "1h")
    g.mount()
    files = {f"f{i}": os.urandom(1 << 18) for i in range(20)}
    fd = os.open(g.path("kept-open"), os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"acknowledged, never closed")
    for n, d in files.items():
        put(g.path(n), d)
    g.kill9()
    try:
        os.close(fd)
    except OSError:
        pass  # the mount is dead, as it should be
    g.detach()
    s.check(g.run("fsck", g.log).returncode == 0, "kill -9: fsck of the log exits 0: nothing in it is damaged")
    g.mount()
    s.check(get(g.path("kept-open")) == b"acknowledged, never closed", "kill -9: writes of an open file are there")
    s.check(all(get(g.path(n)) == d for n, d in files.items()), "kill -9: all files are there")
    s.check(g.umount().returncode == 0 and sorted(os.listdir(g.backing))[-1] == "kept-open", "kill -9: umount returns 0")


def log_bytes(log):
    """{path: hash} of a log directory: fsck must not change it."""
    return {os.path.join(t, n): hashlib.blake2b(get(os.path.join(t, n))).digest() for t, _, ns in os.walk(log) for n in ns
            if os.path.isfile(os.path.join(t, n))}


def flip(log, marker):
    """Flips one byte within the record that holds `marker`; true if it was found."""
    for top, _, names in os.walk(log):
        for n in names:
            p = os.path.join(top, n)
            at = get(p).find(marker)
            if at >= 0:
                with open(p, "r+b") as f:
                    f.seek(at + len(marker) + 100)
                    b = f.read(1)
                    f.seek(-1, 1)
                    f.write(bytes([b[0] ^ 0x40]))
                return True
    return False


def damage(s):
    """One flipped byte in a durable record: fsck says so, the file is never served wrong, all else is recovered."""
    g = s.gateway("damage", "--writeback-age", "1h")
    g.mount()
    bad = MARK + b"0" * 20000
    for i in range(8):
        put(g.path(f"good{i}"), b"good" * 5000 + bytes([i]), True)
        if i == 3:
            put(g.path("bad"), bad, True)
    g.kill9()
    g.detach()
    copied = s.scratch + "/damaged-log"
    shutil.copytree(g.log, copied, ignore=lambda d, ns: [n for n in ns if not os.path.isfile(os.path.join(d, n)) and
                                                         not os.path.isdir(os.path.join(d, n))])
    r = g.run("fsck", copied)
    s.check(r.returncode == 0, "fsck of a log left by kill -9 exits 0", r.stdout + r.stderr)
    if not s.check(flip(copied, MARK), "the written bytes stand in the log"):
        return
    before = log_bytes(copied)
    r = g.run("fsck", copied)
    s.check(r.returncode not in (0, 124) and "panicked" not in r.stderr, "fsck of the damaged log exits non-zero and says where",
            f"exit {r.returncode}: {r.stdout}{r.stderr}")
    s.note(f"fsck: exit {r.returncode}: {(r.stdout + r.stderr).strip()[:300]}")
    s.check(log_bytes(copied) == before, "fsck changes nothing")
    flip(g.log, MARK)
    g.mount()
    try:
        got = get(g.path("bad"))
        s.check(False, "a damaged range is an error, not other bytes", f"read gave {len(got)} bytes, {'equal' if got == bad else 'different'}")
    except OSError as e:
        s.check(e.errno == 5, "reading the damaged range gives EIO", e)
    s.check(all(get(g.path(f"good{i}")) == b"good" * 5000 + bytes([i]) for i in range(8)), "all other files are whole")
    g.kill9()
    g.detach()


def flushed(s):
    g = s.gateway("flush", "--writeback-age", "1h")
    g.mount()
    put(g.path("a"), b"a" * 100000)
    r = g.run("flush", g.mnt, g.path("a"))
    s.check(r.returncode == 0 and get(g.backing + "/a") == b"a" * 100000, "flush PATH puts it in the backing", r.stderr)
    put(g.path("b"), b"b")
    r = g.run("flush", g.mnt)
    s.check(r.returncode == 0 and get(g.backing + "/b") == b"b", "flush puts everything there", r.stderr)
    s.check(g.umount().returncode == 0, "umount after flush returns 0")


def read_only(s):
    g = s.gateway("ro")
    put(g.backing + "/old", b"old")
    g.mount("--read-only")
    s.check(get(g.path("old")) == b"old", "--read-only: reads")
    try:
        put(g.path("new"), b"x")
        s.check(False, "--read-only: a write is refused")
    except OSError as e:
        s.check(e.errno == 30, "--read-only: a write gives EROFS", e)
    s.check(g.umount().returncode == 0 and os.listdir(g.backing) in (["old"], [".forelog", "old"], ["old", ".forelog"]),
            "--read-only: the backing is as it was")


def exec_with_open_files(s):
    """exec() closes close-on-exec files while the kernel holds the process's exec lock, and each close is a FLUSH that waits
    for the gateway: one that reads /proc/TID/stat of that process to answer waits for ever."""
    g = s.gateway("exec")
    g.mount()

    def child(n):
        try:
            write_and_exec(n)
        except OSError as e:
            print(f"  ---- exec worker {n}: {e}")
            return 1

    def write_and_exec(n):
        fd = os.open(g.path(f"f{n % 3}"), os.O_CREAT | os.O_WRONLY)  # close-on-exec by default
        os.write(fd, b"x" * 5000)
        if os.fork() == 0:  # a process the gateway has not met: its first request is the FLUSH
            os.execv("/bin/true", ["true"])
        os.wait()
        os.execv("/bin/true", ["true"])

    kids = [s.spawn(child, n) for n in range(20)]
    end = time.monotonic() + 20
    done = [k.join(max(0.1, end - time.monotonic())) == 0 for k in kids]
    s.check(all(done), "exec of programs that hold files of the mount open", f"{done.count(False)} of {len(done)} hang")
    if not all(done):
        g.finish_kill(pids_naming(g.log))
        g.detach()
        return
    s.check(g.umount().returncode == 0, "and umount returns 0 after it")


STEPS = (*lifecycle_odd.STEPS, refusals, exec_with_open_files, double_mount, terminated, busy, slow_backing, no_wait, lazy, killed, damage, flushed, read_only)


def main():
    with Suite("lifecycle") as s:
        if FAKE:
            s.check(True, f"(fake) nothing to drive without {os.path.basename(BIN)}")
            return
        for step in STEPS:
            try:
                step(s)
            except (OSError, RuntimeError, IndexError) as e:
                s.check(False, f"{step.__name__} ran to its end", f"{type(e).__name__}: {e}")


if __name__ == "__main__":
    main()
