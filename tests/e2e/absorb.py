"""What programs delete or overwrite within the writeback age never reaches the backing, and `absorbed_bytes` says so."""
import os
import time

from harness import FAKE, Suite, wait_until

AGE = 4
SIZE = 65536
KEPT = b"kept" * 5000


def watch(backing, found, stop):
    """Writes every temporary name or foreign byte ever seen in the backing to `found`, until `stop` exists."""
    with open(found, "w", buffering=1) as out:
        while not os.path.exists(stop):
            for top, dirs, files in os.walk(backing):
                if top == backing and ".forelog" in dirs:
                    dirs.remove(".forelog")
                out.writelines(f"{n}\n" for n in files + dirs if n.startswith("tmp"))
            time.sleep(0.01)


def temporary_files(g, seconds):
    """Compilers' and editors' habit: write, read back, delete. Returns the bytes written."""
    total, i, end = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        names = [g.path(f"tmp{i}.{k}") for k in range(8)]
        for n in names:
            with open(n, "wb") as f:
                total += f.write(os.urandom(SIZE))
        for n in names:
            with open(n, "rb") as f:
                assert len(f.read()) == SIZE
            os.unlink(n)
        i += 1
    return total


def rewritten(g, times=50):
    """One file overwritten again and again: only the last version matters. Returns the bytes that need not be stored."""
    for i in range(times):
        with open(g.path("again"), "r+b" if i else "wb") as f:
            f.write(bytes([i]) * SIZE)
    return (times - 1) * SIZE


def replaced(g, times=20):
    """A file replaced by rename, the way editors save."""
    for i in range(times):
        with open(g.path("tmp-save"), "wb") as f:
            f.write(bytes([i]) * SIZE)
        os.rename(g.path("tmp-save"), g.path("saved"))
    return (times - 1) * SIZE


def counters(g):
    w = g.status().get("writeback", {})
    return w.get("absorbed_bytes", 0), w.get("stored_bytes", 0)


def main():
    with Suite("absorb") as s:
        g = s.gateway("gw", "--log-size", "1GiB", "--writeback-age", f"{AGE}s")
        g.mount()
        found, stop = s.scratch + "/found", s.scratch + "/stop"
        watcher = s.spawn(watch, g.backing, found, stop)
        before = counters(g)
        with open(g.path("kept"), "wb") as f:
            f.write(KEPT)
        gone = temporary_files(g, 2) + rewritten(g) + replaced(g)
        s.note(f"{gone >> 20} MiB written that need not be stored")
        wait_until(lambda: counters(g)[0] - before[0] >= gone or FAKE, AGE + 20, 0.2)
        absorbed, stored = (a - b for a, b in zip(counters(g), before))
        r = g.umount()
        s.check(r.returncode == 0, "umount returns 0", r.stderr)
        with open(stop, "w"):
            pass
        watcher.join(10)
        with open(found) as f:
            seen = sorted(set(f.read().split()))
        if FAKE:
            s.check(seen, "(fake) the watcher sees temporary names in a backing that has them")
            return
        s.headline = f"{absorbed >> 20} of {gone >> 20} MiB absorbed, {stored} bytes stored"
        s.check(not seen, "no temporary name ever appeared in the backing", seen[:5])
        s.check(absorbed >= gone, f"absorbed_bytes grew by what needed no storing ({absorbed} of {gone})")
        s.check(stored < gone // 4, f"stored_bytes did not ({stored})")
        names = sorted(n for n in os.listdir(g.backing) if n != ".forelog")
        s.check(names == ["again", "kept", "saved"], "the backing holds the three files", names)
        for name, want in (("again", bytes([49]) * SIZE), ("kept", KEPT), ("saved", bytes([19]) * SIZE)):
            with open(os.path.join(g.backing, name), "rb") as f:
                s.check(f.read() == want, f"{name}: the last version")


if __name__ == "__main__":
    main()
