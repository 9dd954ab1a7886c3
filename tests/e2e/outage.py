"""The backing is in trouble: it hangs, is read-only, full, or refuses; then it is well again."""
import errno
import os
import signal
import time

from harness import FAKE, Suite, fails, get, put, sh, wait_until

PATIENCE = 30  # no call takes longer, but declared backpressure


def refused(s, what, fn, *args):
    """The call ends in time with EIO."""
    began = time.monotonic()
    code = s.spawn(lambda: fails(fn, *args)).join(PATIENCE + 10)
    took = time.monotonic() - began
    s.check(code == errno.EIO and took < PATIENCE, f"{what}: EIO after {took:.0f} s", "still waits" if code is None else errno.errorcode.get(code, code))


def local(s, g, tag):
    """What needs nothing of the backing."""
    def work():
        put(g.path(f"{tag}-a"), b"a" * 100_000, sync=True)
        os.rename(g.path(f"{tag}-a"), g.path(f"{tag}-b"))
        put(g.path(f"{tag}-gone"), b"x")
        os.unlink(g.path(f"{tag}-gone"))
        return get(g.path(f"{tag}-b")) == b"a" * 100_000
    s.check(s.within(PATIENCE, work), f"{tag}: writes, fsync, rename, removal and reads of what is local go on")


def hanging(s):
    """The backing is a mount of another gateway, which is stopped: every call into it waits, as in a dead NFS server's."""
    below = s.gateway("below")
    for d in ("cold", "other"):
        os.makedirs(f"{below.backing}/sub/{d}")
        for n in range(3):
            put(f"{below.backing}/sub/{d}/f{n}", os.urandom(200_000))
    below.mount()
    g = s.gateway("above", "--writeback-age", "1s", backing=below.mnt + "/sub")
    g.mount()
    s.check(len(get(g.path("cold/f0"))) == 200_000, "a file of it is read")
    put(g.path("before"), b"b")  # from here on it knows the names there
    pid = below.pids()[0]
    os.kill(pid, signal.SIGSTOP)
    s.undo.append(lambda: os.path.exists(f"/proc/{pid}") and os.kill(pid, signal.SIGCONT))
    local(s, g, "hung")
    refused(s, "a file that is not local", get, g.path("cold/f1"))
    refused(s, "a directory that is not known", os.listdir, g.path("other"))
    local(s, g, "hung-on")
    s.check(wait_until(lambda: g.status().get("state") == "degraded" and "not answer" in (g.status().get("reason") or ""), 30, 0.5),
            "status says that the backing does not answer", g.status().get("reason"))
    began = time.monotonic()
    r = g.run("flush", g.mnt, "--timeout", "2s")
    s.check(r.returncode == 3 and time.monotonic() - began < 10, "flush with a timeout: exit 3", f"{r.returncode} {r.stderr}")
    os.kill(pid, signal.SIGCONT)
    s.check(wait_until(lambda: fails(get, g.path("cold/f1")) == 0 and fails(os.listdir, g.path("other")) == 0, 60, 0.5), "it answers again: so do reads")
    r = g.run("flush", g.mnt, "--timeout", "60s")
    s.check(r.returncode == 0, "flush returns 0", r.stderr)
    # Once more, and unmounted while it hangs.
    os.kill(pid, signal.SIGSTOP)
    put(g.path("late"), b"late" * 1000)
    r = g.umount("--timeout", "3s", timeout=60)
    s.check(r.returncode == 3 and "remain" in r.stderr + r.stdout, "umount while it hangs: exit 3, and says what remains", f"{r.returncode} {r.stderr}")
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not g.pids(), 20, 0.5)
    if g.mounted():
        g.detach()
    g.mount()
    s.check(get(g.path("late")) == b"late" * 1000, "the next mount has it")
    s.check(g.umount().returncode == 0, "umount returns 0")
    s.check(below.umount().returncode == 0 and get(below.backing + "/sub/late") == b"late" * 1000
            and get(below.backing + "/sub/hung-b") == b"a" * 100_000 and not os.path.exists(below.backing + "/sub/hung-gone"), "the backing has all of it")


def trouble(s, name, begin, end, why, size=256, mkfs="mkfs.ext4 -q -F"):
    """Something with the backing makes every change of it fail for a while."""
    disk = s.loop_fs(name + "-disk", size, mkfs)
    if not disk:
        s.note(f"no loop device here: {name} not tested")
        return
    back = disk + "/back"
    os.mkdir(back)
    put(back + "/old", b"old" * 1000)
    g = s.gateway(name, "--writeback-age", "300ms", backing=back)
    g.mount()
    sh(["sync", "-f", disk], 60)
    begin(disk, back)
    try:
        put(g.path("new"), os.urandom(3 << 20), sync=True)
        data = get(g.path("new"))
        put(g.path("old"), b"changed")
        local(s, g, name)
        s.check(wait_until(lambda: g.status().get("state") == "degraded", 30, 0.2), f"{name}: status says degraded")
        reason = g.status().get("reason") or ""
        s.check(any(w in reason for w in why), f"{name}: and why", reason)
        r = g.run("flush", g.mnt, "--timeout", "2s")
        s.check(r.returncode == 3, f"{name}: flush with a timeout exits 3", f"{r.returncode} {r.stderr}")
        g.kill9()
        g.detach()
        r = g.mount(must=False)
        mounted = g.mounted()
        s.check(mounted or (r.returncode == 2 and 0 < len(r.stderr.strip().splitlines()) < 3), f"{name}: after a death it mounts, or says in a line why not", r.stderr)
        if mounted:
            s.check(get(g.path("new")) == data and get(g.path("old")) == b"changed", f"{name}: with all that was written")
    finally:
        end(disk, back)
    if not g.mounted():
        g.mount()
    r = g.run("flush", g.mnt, "--timeout", "90s", timeout=120)
    s.check(r.returncode == 0, f"{name}: well again, flush returns 0", r.stderr)
    s.check(g.status().get("state") == "serving", f"{name}: status says serving", g.status().get("reason"))
    s.check(get(back + "/new") == data and get(back + "/old") == b"changed", f"{name}: the backing has all of it")
    s.check(g.umount().returncode == 0, f"{name}: umount returns 0")


def turn_read_only(disk, _):
    """As ext4 does after an error of its disk."""
    sh(f"mount -o remount,errors=remount-ro {disk} && echo forelog > /sys/fs/ext4/$(basename $(findmnt -no SOURCE {disk}))/trigger_fs_error", 20)


def turn_back(disk, _):
    wait_until(lambda: sh(["umount", disk], 20).returncode == 0, 10, 0.2)
    sh(f"e2fsck -fy {disk}.img; mount -o loop {disk}.img {disk}", 60)


def hog(disk, _):
    with open(disk + "/hog", "wb", buffering=0) as f:
        while not fails(f.write, bytes(1 << 20)):
            pass


def limit(disk, _):
    """Btrfs holds root to its quotas too."""
    sh(f"btrfs quota enable {disk} && btrfs quota rescan -w {disk} && btrfs qgroup limit 1M {disk} && sync -f {disk}", 60)


def main():
    with Suite("outage") as s:
        if FAKE:
            s.check(True, "plain directories have no trouble")
            return
        hanging(s)
        trouble(s, "read-only", turn_read_only, turn_back, ["Read-only"])
        trouble(s, "full", hog, lambda d, b: os.unlink(d + "/hog"), ["No space", "no storage space"], 64)
        trouble(s, "quota", limit, lambda d, b: sh(["btrfs", "quota", "disable", d], 60), ["uota"], 256, "mkfs.btrfs -q")
        trouble(s, "refusing", lambda d, b: sh(["chattr", "+i", b, b + "/.forelog/tmp", b + "/old"]), lambda d, b: sh(["chattr", "-i", b, b + "/.forelog/tmp", b + "/old"]),
                ["not permitted", "Permission denied"])


if __name__ == "__main__":
    main()
