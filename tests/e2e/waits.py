"""A umount(2) by anybody and a sync(2) that wait: root's mounts over rings stand on a loop device (`fuseblk`), for which the kernel
passes both on. FUSE over io_uring is switched on for the suite and put back at its end.

waits.py [--long] [STEP]...   all steps, or some by name; 200 MiB in front of a slow backing, or 1 GiB
"""
import ctypes
import errno
import fcntl
import os
import struct
import subprocess
import sys
import time

from harness import BIN, FAKE, GONE_ERRNOS, LONG, Suite, alive, fails, get, leftovers, mounts, put, sh, wait_until
from powercut import BOOT_ID, NO_FLUSH, SHUTDOWN
from tree import compare, snapshot
from uring import PARAMETER, switch

MIB = 1 << 20
BYTES = (1024 if LONG else 200) * MIB
LIBC = ctypes.CDLL(None, use_errno=True)
MNT_FORCE, MNT_DETACH = 1, 2


def umount2(path, flags=0):
    """The bare call, as a machine's shutdown makes it: no helper is asked. Returns the errno."""
    return 0 if LIBC.umount2(path.encode(), flags) == 0 else ctypes.get_errno()


def entry(mnt):
    """Type and source of a mount, as /proc/self/mounts has them."""
    with open("/proc/self/mounts") as f:
        return next(((x[2], x[0]) for x in map(str.split, f) if x[1] == mnt), None)


def loops(text):
    """Loop devices whose label holds `text`."""
    return [x for x in sh(["losetup", "-nO", "NAME,BACK-FILE"], 20).stdout.splitlines() if text in x]


def fill(g, bytes_, name="f"):
    piece = os.urandom(MIB)
    with open(g.path(name), "wb") as f:
        for n in range(bytes_ // MIB):
            f.write(n.to_bytes(8, "little") + piece[8:])


def ended(g, pid, seconds=60):
    return wait_until(lambda: not alive(pid), seconds)


def chosen(s):
    """What is asked for is done, or refused in one line; `auto` takes what there is."""
    g = s.gateway("chosen")
    switch("N")
    for flags, why in ((("--wait-umount", "yes"), "echo Y"), (("--wait-umount", "yes", "--transport", "device"), "--transport")):
        r = g.mount(*flags, must=False)
        s.check(r.returncode == 2 and why in r.stderr and r.stderr.count("\n") == 1 and not g.mounted(), f"{' '.join(flags)} without rings: refused, with what to do", r.stderr)
    for flag, parameter, kind in (("auto", "N", "fuse.forelog"), ("no", "Y", "fuse.forelog"), ("auto", "Y", "fuseblk.forelog"), ("yes", "Y", "fuseblk.forelog")):
        switch(parameter)
        g.mount("--wait-umount", flag)
        st = g.status()
        s.check(entry(g.mnt) == (kind, g.backing) and st["umount_waits"] == ("blk" in kind), f"--wait-umount {flag}, rings {parameter}: {kind}, shown with its backing",
                f"{entry(g.mnt)} {st.get('umount_waits')}")
        put(g.path("f"), flag.encode())
        if "blk" in kind:
            df, found = sh(["df", g.mnt], 20).stdout.splitlines()[-1], sh(["findmnt", "-no", "SOURCE,FSTYPE", g.mnt], 20).stdout.split()
            s.check(df.startswith(g.backing) and df.endswith(g.mnt) and found == [g.backing, kind], "df and findmnt show the backing", f"{df} {found}")
            s.check(os.statvfs(g.mnt).f_blocks == os.statvfs(g.backing).f_blocks and os.stat(g.path("f")).st_blksize == 4096, "space is the backing's")
            s.check(len(loops(g.backing)) == 1, "it stands on one loop device, labelled with the backing", loops(""))
            s.check(sh(["fsfreeze", "-f", g.mnt], 20).returncode != 0 and get(g.path("f")) == flag.encode(), "it cannot be frozen, and serves")
        r = g.umount()
        s.check(r.returncode == 0 and get(g.backing + "/f") == flag.encode(), f"`forelog umount` drains it ({flag}, {parameter})", r.stderr)
        s.check(not loops(g.backing), "and no loop device is left", loops(g.backing))


def plain(s):
    """umount(2) returns only when the backing holds all of it; then the log is free at once."""
    g = s.gateway("plain", "--log-size", "2GiB" if LONG else "512MiB", "--upload-limit", f"{BYTES // MIB // 5}M/s", "--writeback-age", "10m")
    g.mount()
    os.makedirs(g.path("d/e"))
    put(g.path("d/e/x"), b"x")
    os.symlink("x", g.path("d/e/l"))
    fill(g, BYTES)
    before, pid = snapshot(g.mnt), g.status()["pid"]
    held = g.status()["log"]["dirty_bytes"]
    began = time.monotonic()
    kid = s.spawn(umount2, g.mnt)
    wait_until(lambda: not g.mounted(), 30)
    wait_until(lambda: (g.status().get("reason") or "").startswith("a umount"), 3)
    seen = g.status()
    s.check(kid.poll() is None and seen.get("state") == "draining" and "umount waits" in (seen.get("reason") or ""), "status says that a umount waits", f"{seen.get('state')} {seen.get('reason')}")
    s.check(kid.join(300) == 0, f"umount(2) with {held // MIB} MiB only in the log returns", kid.code)
    took = time.monotonic() - began
    after = snapshot(g.backing)
    s.check(not compare(before, after), f"after {took:.1f} s, and the backing holds all of it", compare(before, after))
    s.check(not leftovers(g.backing), "with no name of ours", leftovers(g.backing))
    r = g.mount(must=False)
    s.check(r.returncode == 0 and g.status()["log"]["dirty_bytes"] == 0, "it can be mounted again at once, with nothing left in the log", r.stderr)
    s.check(ended(g, pid), "the first gateway has ended")
    s.headline = f"a umount of {held // MIB} MiB held {took:.1f} s"
    for name, cmd in (("umount -i", ["umount", "-i", g.mnt]), ("fusermount3 -u", ["fusermount3", "-u", g.mnt]), ("umount -l of a mount not in use", ["umount", "-i", "-l", g.mnt])):
        if not g.mounted():
            g.mount()
        put(g.path("f"), os.urandom(20 * MIB))
        want = get(g.path("f"))
        r = sh(cmd, 120)
        s.check(r.returncode == 0 and get(g.backing + "/f") == want and not g.mounted(), f"{name} waits too", r.stderr)
    s.check(not loops(g.backing), "no loop device is left", loops(g.backing))


def bypassed(s):
    """What cannot wait returns, and the gateway drains on: past the time limit, -f, -l while files are open, the end of another namespace's mount."""
    # The limit counts a batch after it, so there must be more than one.
    g = s.gateway("bypassed", "--log-size", "512MiB", "--upload-limit", "20M/s", "--writeback-age", "10m")
    g.mount("--umount-timeout", "1s")
    fill(g, 100 * MIB)
    pid = g.status()["pid"]
    began = time.monotonic()
    kid = s.spawn(umount2, g.mnt)
    code = kid.join(60)
    took = time.monotonic() - began
    s.check(code == 0 and took >= 1 and alive(pid), f"--umount-timeout 1s: the umount returned after {took:.1f} s, and the gateway drains on", code)
    s.check(ended(g, pid) and get(g.backing + "/f")[:8] == bytes(8) and os.path.getsize(g.backing + "/f") == 100 * MIB, "to its end")
    s.check(b"bytes are still only in the log" in get(g.log_file), "its log says how much was left")

    g.options = ["--writeback-age", "10m"]
    g.mount()
    fill(g, 10 * MIB)
    pid = g.status()["pid"]
    s.check(umount2(g.mnt, MNT_FORCE) == 0 and not g.mounted() and ended(g, pid), "umount -f: it drains on and ends")
    s.check(os.path.getsize(g.backing + "/f") == 10 * MIB, "with all in the backing")

    g.mount()
    pid = g.status()["pid"]
    f = open(g.path("open"), "wb")
    f.write(b"a" * 5000)
    f.flush()
    s.check(umount2(g.mnt) == errno.EBUSY, "umount of a mount in use: EBUSY")
    s.check(umount2(g.mnt, MNT_DETACH) == 0 and not g.mounted(), "umount -l takes it off the tree")
    f.write(b"b" * 5000)
    time.sleep(1.5)
    f.close()
    s.check(ended(g, pid) and get(g.backing + "/open") == b"a" * 5000 + b"b" * 5000, "after the last close it drains and ends")

    g.mount()
    pid = g.status()["pid"]
    put(g.path("ns"), b"n" * 5000)
    other = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sleep", "600"], stdin=subprocess.DEVNULL)
    s.undo.append(other.kill)
    time.sleep(0.5)
    s.check(umount2(g.mnt) == 0 and alive(pid), "while another namespace has it, its umount here does not end it")
    time.sleep(1.5)
    other.kill()
    other.wait()
    s.check(ended(g, pid) and get(g.backing + "/ns") == b"n" * 5000, "when that namespace is gone it drains and ends")
    s.check(not loops(g.backing), "no loop device is left", loops(g.backing))


def killed(s):
    """kill -9, alone and while a umount waits; two mounts at once."""
    g, h = s.gateway("killed", "--log-size", "512MiB", "--writeback-age", "10m"), s.gateway("beside", "--writeback-age", "10m")
    g.mount()
    h.mount()
    s.check(len({x.split()[0] for x in loops(g.backing) + loops(h.backing)}) == 2, "two mounts at once, each on its own loop device")
    data = os.urandom(3 * MIB)
    put(g.path("f"), data)
    put(h.path("h"), data)
    g.kill9()
    error = fails(os.stat, g.path("f"))
    s.check(error in GONE_ERRNOS, "kill -9: calls get an error", errno.errorcode.get(error, error))
    r = g.run("umount", g.mnt)
    s.check(r.returncode == 3 and not g.mounted() and wait_until(lambda: not loops(g.backing), 10), "`forelog umount` takes it off, and the loop device is free", r.stderr)
    g.mount()
    put(g.path("f2"), data)
    g.kill9()
    g.mount("--upload-limit", "5M/s")
    s.check(get(g.path("f")) == data and get(g.path("f2")) == data, "a mount over the dead one has all of it")
    fill(g, 100 * MIB, "g")
    kid = s.spawn(umount2, g.mnt)
    wait_until(lambda: not g.mounted(), 10)
    time.sleep(0.5)
    s.check(kid.poll() is None, "a umount waits")
    g.kill9()
    s.check(kid.join(30) == 0, "kill -9 meanwhile: it returns", kid.code)
    g.mount()
    s.check(get(g.path("f")) == data and os.path.getsize(g.path("g")) == 100 * MIB, "and the next mount has all of it")
    for x, f in ((g, "f"), (h, "h")):
        pid = x.status()["pid"]
        os.kill(pid, 15)
        s.check(ended(x, pid) and get(x.backing + "/" + f) == data and not x.mounted(), "SIGTERM drains and unmounts")
    s.check(not loops(s.scratch), "no loop device is left", loops(s.scratch))


def synced(s):
    """sync(2) and syncfs(2), then a power cut of the log's disk: nothing from before is lost."""
    img, disk = s.scratch + "/log.img", s.dir("disk")
    with open(img, "wb") as f:
        f.truncate(256 * MIB)
    if sh(f"mkfs.ext4 -q -F {img}", 60).returncode:
        return s.check(False, "an ext4 for the log")
    g = s.gateway("synced", "--log-size", "96MiB", "--segment-max", "8MiB", "--writeback-age", "10m", "--commit-interval", "10m", "--seal-after", "1h")
    g.log = disk + "/log"
    # syncfs is the one that shows it: sync(2) brings the log's own ext4 to its disk as well.
    for how in ("syncfs", "sync"):
        sh(["mount", "-o", "loop", img, disk], 60)
        g.mount()
        os.makedirs(g.path(f"{how}/a"))
        put(g.path(f"{how}/old"), b"old" * 1000, sync=True)
        for n in range(200):
            put(g.path(f"{how}/a/{n}"), b"%d" % n * 500)
        os.rename(g.path(f"{how}/a/1"), g.path(f"{how}/moved"))
        os.unlink(g.path(f"{how}/a/2"))
        anew = os.open(g.path(f"{how}/old"), os.O_WRONLY | os.O_TRUNC)
        os.write(anew, b"new" * 2000)
        st = g.status()["log"]
        s.check(st["durable_lsn"] < st["appended_lsn"], f"(before the {how} not all is durable)", st)
        if how == "sync":
            os.sync()
        else:
            fd = os.open(g.mnt, os.O_RDONLY)
            s.check(LIBC.syncfs(fd) == 0, "syncfs returns 0")
            os.close(fd)
        want = snapshot(g.path(how))
        pids = g.pids()
        os.kill(pids[0], 19)
        fd = os.open(disk, os.O_RDONLY)
        fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_FLUSH))
        os.close(fd)
        g.finish_kill(pids)
        fails(os.close, anew)
        g.detach()
        off = wait_until(lambda: sh(["umount", disk], 60).returncode == 0, 10, 0.1)
        # Another namespace may have it a little longer; mounted again it would be the one that is shut down.
        s.check(off and wait_until(lambda: not sh(["losetup", "-j", img], 20).stdout, 20, 0.1), "(the log's disk is off)")
        sh(["mount", "-o", "loop", img, disk], 60)
        boot = s.scratch + "/boot_id"
        put(boot, b"%08x-0000-4000-8000-%012x\n" % (os.getpid(), time.monotonic_ns() & 0xffffffffffff))
        sh(["mount", "--bind", boot, BOOT_ID], 20)
        try:
            g.mount()
        finally:
            sh(["umount", BOOT_ID], 20)
        s.check(not compare(want, snapshot(g.path(how))), f"{how}, then a power cut: nothing is lost", compare(want, snapshot(g.path(how))))
        s.check(umount2(g.mnt) == 0 and not compare(want, snapshot(f"{g.backing}/{how}")), "and a plain umount drains it")
        sh(["umount", disk], 60)


def main():
    with Suite("waits") as s:
        if FAKE or not os.path.exists(PARAMETER) or not os.path.exists("/dev/loop-control"):
            s.note("no binary, a kernel without FUSE over io_uring, or no loop devices: nothing to test")
            return
        before = get(PARAMETER).decode().strip()
        s.undo.append(lambda: switch(before))
        named = [a for a in sys.argv[1:] if not a.startswith("-")]
        switch("Y")
        for step in (chosen, plain, bypassed, killed, synced):
            if not named or step.__name__ in named:
                step(s)


if __name__ == "__main__":
    main()
