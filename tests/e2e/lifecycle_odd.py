"""Ends and beginnings that are rarer: an older version's log, a log that was moved, many mounts at once, clocks that jump, a mount
point that a dead gateway left, a boot at which the backing is not there yet."""
import fcntl
import glob
import os
import shutil
import signal
import struct
import subprocess
import time

from harness import BIN, HERE, get, mounts, pids_naming, put, sh, wait_until

OLD = "/var/tmp/fl-old-log"  # a log knows its backing's path, so the old one must stand where it was made
FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")


def upgrade(s):
    """A log of format 2 (records without tags), left by kill -9 of the release that wrote it: taken over, drained, written on."""
    os.makedirs(OLD, exist_ok=True)
    s.undo.append(lambda: shutil.rmtree(OLD, ignore_errors=True))
    g = s.gateway("old", backing=OLD + "/backing")
    g.log = OLD + "/log"
    s.undo.append(lambda: [(os.kill(p, 9), sh(["umount", "-l", g.mnt], 20)) for p in pids_naming(OLD + "/log")])
    r = sh(["tar", "--xattrs", "-xJf", os.path.join(os.path.dirname(HERE), "fixtures/log-2.tar.xz"), "-C", OLD], 60)
    s.check(r.returncode == 0, "(the old log is unpacked)", r.stderr)
    r = g.run("fsck", g.log)
    s.check(r.returncode == 0, "an older version's log: fsck finds it clean", r.stdout + r.stderr)
    g.mount()

    def whole(root):
        return (get(root + "/d/synced") == b"synced " * 1000 and get(root + "/plain") == get(root + "/d/linked") == b"plain " * 500
                and os.readlink(root + "/sym") == "d/synced" and get(root + "/d/moved") == b"moved" and get(root + "/replaced") == b"new" * 200
                and get(root + "/stored") == b"flushed first and then more" and get(root + "/d/later") == b"later"
                and not os.path.lexists(root + "/gone") and os.stat(root + "/plain").st_mode & 0o777 == 0o640
                and os.stat(root + "/plain").st_nlink == 2 and os.getxattr(root + "/plain", "user.note") == b"kept")
    s.check(whole(g.mnt), "an older version's log: everything that was acknowledged is there")
    with open(g.path("stored"), "ab") as f:
        f.write(b"!")
        f.flush()
        os.fsync(f.fileno())
    g.kill9()
    g.detach()
    g.mount()
    s.check(get(g.path("stored")) == b"flushed first and then more!", "and it is written on, and recovered again")
    with open(g.path("stored"), "r+b") as f:
        f.truncate(27)
    r = g.umount()
    s.check(r.returncode == 0 and whole(g.backing), "an older version's log: umount returns 0, the backing has it all", r.stderr)


def newer(s):
    """What a newer version wrote is not touched."""
    g = s.gateway("newer", "--writeback-age", "1h")
    g.mount()
    put(g.path("f"), b"x" * 1000, True)
    g.kill9()
    g.detach()
    files = sorted(glob.glob(g.log + "/checkpoint*"))
    for name in files:
        with open(name, "r+b") as f:
            f.seek(8)
            f.write(bytes([99]))
    before = [get(name) for name in files]
    r = g.mount(must=False)
    s.check(r.returncode == 2 and "newer" in r.stderr and "panicked" not in r.stderr and [get(name) for name in files] == before,
            "a newer version's log is refused by name and left as it is", f"exit {r.returncode}: {r.stderr}")
    if g.mounted():
        g.umount()


def moved(s):
    """The log directory is moved to another place, as to a larger disk."""
    g = s.gateway("moved", "--writeback-age", "1h")
    g.mount()
    data = os.urandom(1 << 20)
    put(g.path("f"), data)
    g.kill9()
    g.detach()
    to = s.scratch + "/another-disk/log"
    os.makedirs(os.path.dirname(to))
    sh(["cp", "-a", g.log, to], 60)
    shutil.rmtree(g.log)
    g.log = to
    g.mount()
    s.check(get(g.path("f")) == data, "a log directory that was moved is taken up where it is now")
    r = g.umount()
    s.check(r.returncode == 0 and get(g.backing + "/f") == data, "and drained", r.stderr)


def racers(s):
    """Many mounts at once of one log and one backing: one gets it, the others are told who."""
    g = s.gateway("race", "--writeback-age", "1h")
    dirs = [g.mnt] + [s.dir(f"race/mnt{i}") for i in range(7)]
    for turn in range(4):
        kids = []
        for i, d in enumerate(dirs):
            log = g.log if turn % 2 == 0 or i == 0 else s.dir(f"race/log{i}")  # the same log, or only the same backing
            kids.append(subprocess.Popen([BIN, "mount", g.backing, d, "--log-dir", log, "--log-file", g.log_file], stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        out = [(k.communicate(timeout=60)[1], k.returncode) for k in kids]
        up = [d for d in dirs if d in mounts()]
        codes = sorted(c for _, c in out)
        s.check(codes == [0] + [2] * 7 and len(up) == 1 and all("in use" in e for e, c in out if c == 2),
                f"of 8 mounts at once one succeeds (turn {turn})", f"codes {codes}, mounted {up}, {[e[:120] for e, c in out if c == 2]}")
        for d in up:
            put(d + f"/turn{turn}", b"here")
        if turn == 1:  # the last one dies and leaves its locks and its mount
            for p in pids_naming(s.scratch + "/race"):
                os.kill(p, signal.SIGKILL)
            wait_until(lambda: not pids_naming(s.scratch + "/race"), 10)
            for d in up:
                sh(["umount", "-l", d], 20)
        else:
            for d in up:
                s.check(g.run("umount", d).returncode == 0, f"and unmounts (turn {turn})")
    names = {f"turn{t}" for t in range(4)}
    if not names <= set(os.listdir(g.backing)):  # the one killed may have had a log of its own
        for i in range(1, 8):
            log = s.scratch + f"/race/log{i}"
            if os.path.isdir(log) and g.run("mount", g.backing, g.mnt, "--log-dir", log).returncode == 0:
                g.run("umount", g.mnt)
        if g.run("mount", g.backing, g.mnt, "--log-dir", g.log).returncode == 0:
            g.run("umount", g.mnt)
    s.check(names <= set(os.listdir(g.backing)), "what each winner wrote is in the backing", os.listdir(g.backing))


def clocks(s):
    """The wall clock goes forward by a month, then back by two, under load; with a death in the past."""
    if not FAKETIME:
        s.check(False, "libfaketime is installed", "apt-get install faketime")
        return
    g = s.gateway("clock", "--writeback-age", "2s")
    now = s.scratch + "/faketime"

    def jump(days):
        put(now + ".new", f"{days:+d}d".encode())
        os.rename(now + ".new", now)
    jump(0)
    env = {**os.environ, "LD_PRELOAD": FAKETIME[0], "FAKETIME_TIMESTAMP_FILE": now, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    def start():
        p = subprocess.Popen([BIN, *g.mount_command("--foreground")], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        s.undo.append(p.kill)
        return p, wait_until(g.mounted, 30)
    p, up = start()
    s.check(up, "(mounted under a clock of our own)")
    for step, days in enumerate((0, 30, -30, 400, -4000)):
        jump(days)
        for i in range(20):
            put(g.path(f"f{i}"), f"step {step} file {i}".encode() * 100, i % 3 == 0)
        put(g.path(f"only{step}"), b"o" * 5000)
        want = {f"only{step}": b"o" * 5000, **{f"f{i}": f"step {step} file {i}".encode() * 100 for i in range(20)}}
        drained = wait_until(lambda w=want: all(os.path.exists(f"{g.backing}/{n}") and get(f"{g.backing}/{n}") == d for n, d in w.items()), 40, 0.1)
        s.check(drained, f"the wall clock jumps to {days:+d} days: writes go on and reach the backing")
        st = g.status()
        s.check(st.get("state") == "serving" and 0 <= (st["log"]["oldest_dirty_seconds"] or 0) < 40 * 86400,
                f"and status stays sane at {days:+d} days", st.get("log"))
    put(g.path("f0"), b"in the past", True)
    put(g.path("f1"), b"in the past too")
    p.kill()
    p.wait()
    g.detach()
    jump(0)
    p, up = start()
    s.check(up and get(g.path("f0")) == b"in the past" and get(g.path("f1")) == b"in the past too" and get(g.path("f2")).startswith(b"step 4"),
            "after a death in the past and a start in the present the newest is what was written last")
    r = g.umount()
    p.wait(60)
    s.check(r.returncode == 0 and get(g.backing + "/f1") == b"in the past too", "and it is what the backing gets", r.stderr)


def left_mount(s):
    """A gateway died and nobody cleaned up: the next mount of the same place succeeds by itself."""
    g = s.gateway("left", "--writeback-age", "1h")
    g.mount()
    put(g.path("f"), b"kept")
    g.kill9()
    r = g.mount(must=False)
    s.check(r.returncode == 0 and get(g.path("f")) == b"kept", "mounting over what a dead gateway left", f"exit {r.returncode}: {r.stderr}")
    s.check(mounts().count(g.mnt) == 1, "leaves one mount there, not two", mounts().count(g.mnt))
    r = g.umount()
    s.check(r.returncode == 0 and get(g.backing + "/f") == b"kept" and not g.mounted(), "and unmounts", r.stderr)


def by_fusermount(s):
    g = s.gateway("fusermount", "--writeback-age", "1h")
    g.mount()
    data = os.urandom(4 << 20)
    put(g.path("f"), data)
    with open(g.path("open"), "wb") as f:
        r = sh(["fusermount3", "-u", g.mnt], 30)
        s.check(r.returncode != 0 and "busy" in r.stderr.lower() and g.mounted(), "fusermount3 -u of a busy mount is refused", r.stderr)
        f.write(b"still works")
    r = sh(["fusermount3", "-u", g.mnt], 30)
    s.check(r.returncode == 0, "fusermount3 -u", r.stderr)
    wait_until(lambda: not pids_naming(g.log), 60)
    g.mount()
    s.check(get(g.path("f")) == data and get(g.path("open")) == b"still works", "fusermount3 -u: the next mount has it all")
    s.check(g.umount().returncode == 0 and get(g.backing + "/f") == data, "fusermount3 -u: and drains it")


def boot_order(s):
    """At a boot the share may come after us, or not at all."""
    top = s.dir("boot")
    g = s.gateway("booting", "--writeback-age", "1h", backing=top + "/share")
    os.mkdir(g.backing)
    g.mount()
    put(g.path("f"), b"from before")
    g.kill9()
    g.detach()
    os.rename(g.backing, top + "/elsewhere")
    r = g.mount(must=False)
    s.check(r.returncode == 2 and g.backing in r.stderr and not g.mounted(), "boot without the backing: refused in a line that names it", r.stderr)
    os.mkdir(g.backing)
    r = g.mount(must=False)
    s.check(r.returncode == 2 and not g.mounted() and not os.listdir(g.backing), "boot with an empty directory in its place: refused, untouched", r.stderr)
    os.rmdir(g.backing)
    os.rename(top + "/elsewhere", g.backing)
    g.mount()
    seen, r = get(g.path("f")), g.umount()
    s.check(seen == b"from before" and r.returncode == 0 and get(g.backing + "/f") == b"from before",
            "boot with the backing: goes on where it was", (seen, r, os.listdir(g.backing)))
    t = time.monotonic()
    r = g.run("mount", top + "/none", g.mnt, "--log-dir", g.log)
    s.check(r.returncode == 2 and time.monotonic() - t < 10, "and another backing for the same log is refused", r.stderr)


def log_lost(s):
    """The log's disk dies under load and never comes back: the backing has each file whole, at a version it once had, not older than what
    was due to be stored by then."""
    disk = s.loop_fs("logdisk", 300)
    if not disk:
        s.check(False, "a filesystem for the log can be made")
        return
    g = s.gateway("lost", "--writeback-age", "1s", "--seal-after", "500ms")
    g.log = disk + "/log"
    g.mount()
    journal = s.scratch + "/lost-journal"

    def version(k, n):
        return f"{k}:{n}:".encode() + bytes([n % 251]) * (20_000 + (n * 7919) % 60_000)

    def load():
        with open(journal, "a", buffering=1) as j:
            for n in range(1, 100_000):
                for k in range(8):
                    try:
                        if k % 2:
                            put(g.path(f"f{k}.tmp"), version(k, n))
                            os.rename(g.path(f"f{k}.tmp"), g.path(f"f{k}"))
                        else:
                            put(g.path(f"f{k}"), version(k, n))
                    except OSError:
                        return 0
                    j.write(f"{k} {n} {time.monotonic()}\n")
                time.sleep(0.02)
    load = s.spawn(load)
    time.sleep(6)
    fd = os.open(disk, os.O_RDONLY)
    fcntl.ioctl(fd, 0x8004587D, struct.pack("I", 2))  # EXT4_IOC_SHUTDOWN, without a flush
    os.close(fd)
    died = time.monotonic()
    time.sleep(3)
    g.finish_kill(pids_naming(g.log))
    load.kill()
    g.detach()
    done = [(int(k), int(n), float(t)) for k, n, t in (x.split() for x in open(journal) if x.endswith("\n"))]
    bad = []
    for k in range(8):
        there = f"{g.backing}/f{k}"
        b = get(there) if os.path.exists(there) else b""
        n = int(b.split(b":")[1]) if b.count(b":") >= 2 else -1
        due = max((v for j, v, t in done if j == k and t < died - 1 - 3), default=0)  # age, and what a machine may be late
        if b and b != version(k, n):
            bad.append(f"f{k}: {len(b)} bytes that are no version as a whole")
        elif n < due:
            bad.append(f"f{k}: version {n}, but {due} was due")
    s.check(not bad and done, f"the log's disk is lost: 8 files, {len(done)} versions written, each whole in the backing and not too old", bad)


STEPS = (upgrade, newer, moved, racers, clocks, left_mount, by_fusermount, boot_order, log_lost)
