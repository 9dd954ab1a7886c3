"""A flood larger than the log: it completes while the backing drains; a full log with the backing stuck refuses politely,
deletes still work, nothing acknowledged is lost, and service resumes without a remount."""
import errno
import os
import random
import time

from harness import FAKE, LONG, Suite, numbers, wait_until

BLOCK = 1 << 20


def block(seed, i):
    return random.Random(seed * 100003 + i).randbytes(BLOCK)


def pour(path, seed, mib, latencies):
    """Writes `mib` blocks; notes each that was acknowledged in `latencies`, so that a parent can count them."""
    with open(latencies, "w", buffering=1) as out, open(path, "wb", buffering=0) as f:
        for i in range(mib):
            b, t = block(seed, i), time.perf_counter()
            try:
                n = 0
                while n < BLOCK:
                    n += f.write(b[n:])
            except OSError as e:
                out.write(f"error {e.errno}\n")
                return 0 if e.errno == errno.ENOSPC else 1
            out.write(f"{time.perf_counter() - t}\n")
    return 0


def acknowledged(latencies):
    with open(latencies) as f:
        lines = f.read().split("\n")[:-1]
    return [float(x) for x in lines if not x.startswith("error")], [x for x in lines if x.startswith("error")]


def whole(path, seed, mib):
    with open(path, "rb") as f:
        return all(f.read(BLOCK) == block(seed, i) for i in range(mib))


def flood(s):
    log, mib = 64, 2048 if LONG else 320
    g = s.gateway("flood", "--log-size", f"{log}MiB")
    g.mount()
    kids = [s.spawn(pour, g.path(f"f{k}"), k, mib, f"{s.scratch}/lat{k}") for k in range(2)]
    removed = 0
    while any(k.poll() is None for k in kids):  # small work and deletes go on beside the flood
        p = g.path(f"small{removed}")
        with open(p, "wb") as f:
            f.write(b"s" * 1000)
        os.unlink(p)
        removed += 1
        time.sleep(0.02)
    s.check(all(k.code == 0 for k in kids), f"two writers of {mib} MiB through a {log} MiB log finish", [k.code for k in kids])
    for k in range(2):
        lat, errors = acknowledged(f"{s.scratch}/lat{k}")
        s.check(len(lat) == mib and not errors, f"writer {k}: no error (p50, p99, max {numbers(lat) if lat else None} us)", errors)
        s.check(not lat or max(lat) < 30, f"writer {k}: no call over 30 s")
    s.check(removed > 5, f"a small program made and deleted {removed} files beside it")
    s.check(all(whole(g.path(f"f{k}"), k, mib) for k in range(2)), "both read back whole")
    os.unlink(g.path("f1"))
    r = g.umount("--timeout", "10m", timeout=700)
    s.check(r.returncode == 0, "umount returns 0", r.stderr)
    names = [n for n in os.listdir(g.backing) if n != ".forelog"]
    s.check(names == ["f0"] and whole(g.backing + "/f0", 0, mib), "the backing holds what was kept, whole, and nothing deleted", names)


def gone(path):
    os.unlink(path)
    return not os.path.exists(path)


def synced(path):
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    return True


def small(path):
    with open(path, "wb", buffering=0) as f:
        for _ in range(32):
            if f.write(b"s" * 65536) != 65536:
                return False
        os.fsync(f.fileno())
    return True


def resumes(path):
    try:
        with open(path, "wb", buffering=0) as f:
            return f.write(b"a" * BLOCK) == BLOCK
    except OSError:
        return False


def stuck(s):
    """The backing frozen: writers end in ENOSPC at write, reads and deletes work, and after the thaw all goes on."""
    back = s.loop_fs("frozen", 512)
    if not back:
        s.note("no loop device here: the full log with a stuck backing not tested")
        return
    g = s.gateway("stuck", "--log-size", "64MiB", backing=back)
    g.mount()
    with open(g.path("victim"), "wb") as f:
        f.write(b"v" * (4 << 20))
    s.freeze(back)
    try:
        kid = s.spawn(pour, g.path("big"), 7, 200, s.scratch + "/lat-stuck")
        ended = kid.join(150)
        lat, errors = acknowledged(s.scratch + "/lat-stuck")
        s.check(ended == 0 and errors == [f"error {errno.ENOSPC}"], "the writer gets ENOSPC at write, after declared backpressure",
                f"exit {ended}, {errors}, {len(lat)} MiB acknowledged")
        s.note(f"{len(lat)} MiB acknowledged before it, slowest call {max(lat, default=0):.1f} s")
        s.check(s.within(35, small, g.path("small")), "no client holds more than its share: another one still writes and syncs 2 MiB")
        s.check(s.within(35, whole, g.path("big"), 7, len(lat)), "what was acknowledged reads back whole at 100 %")
        s.check(s.within(35, gone, g.path("victim")), "a delete works at 100 %")
        s.check(s.within(35, synced, g.path("big")), "what was acknowledged can be synced")
    finally:
        s.thaw(back)
    s.check(s.within(90, wait_until, lambda: resumes(g.path("after")), 60, 0.5), "service resumes without a remount")
    r = g.umount(timeout=300)
    s.check(r.returncode == 0 and whole(back + "/big", 7, len(lat)) and not os.path.exists(back + "/victim") and os.path.getsize(back + "/small") == 2 << 20,
            "umount returns 0; the backing holds all that was acknowledged", r.stderr)


def paused(s):
    """The backing is frozen for a while and comes back: the writer only waits."""
    back = s.loop_fs("pausedisk", 512)
    if not back:
        s.note("no loop device here: the full log with a paused backing not tested")
        return
    g = s.gateway("paused", "--log-size", "64MiB", backing=back)
    g.mount()
    s.freeze(back, 60)
    try:
        kid = s.spawn(pour, g.path("big"), 9, 120, s.scratch + "/lat-paused")
        full = wait_until(lambda: g.status().get("prediction", {}).get("stalls", 0) > 0, 50, 0.2)
        s.check(full, "a writer fills the log while the backing is frozen")
        time.sleep(2)
    finally:
        s.thaw(back)
    ended = kid.join(120)
    lat, errors = acknowledged(s.scratch + "/lat-paused")
    s.check(ended == 0 and len(lat) == 120 and not errors, "it waits, and goes on without an error when the backing is back", (ended, len(lat), errors))
    r = g.umount("--timeout", "60s", timeout=120)
    s.check(r.returncode == 0 and whole(back + "/big", 9, 120), "and all of it is in the backing", r.stderr)


def main():
    with Suite("backpressure") as s:
        flood(s)
        if not FAKE:
            try:
                paused(s)
                stuck(s)
            except OSError as e:
                s.check(False, "the stuck backing ran to its end", e)


if __name__ == "__main__":
    main()
