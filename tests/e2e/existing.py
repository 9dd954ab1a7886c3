"""A backing that holds 200,000 files already: mounting asks nothing about them, they are listed and read at once, and nothing is
rewritten where nobody wrote.

existing.py [--long]
"""
import os
import random
import time

from harness import FAKE, Suite, wait_until

DIRS, PER_DIR = 200, 1000


def build(top):
    for d in range(DIRS):
        at = f"{top}/d{d:03}"
        os.mkdir(at)
        for i in range(PER_DIR):
            fd = os.open(f"{at}/f{i:03}", os.O_CREAT | os.O_WRONLY, 0o640)
            os.write(fd, b"%d %d" % (d, i))
            os.close(fd)
    os.symlink("d000/f000", top + "/link")
    os.link(top + "/d000/f001", top + "/hard")


def prints(top):
    """What a rewrite, a rename or a touch would change of each object: path -> inode, size, mode, owner, mtime, ctime."""
    out, stack = {}, [top]
    while stack:
        at = stack.pop()
        with os.scandir(at) as it:
            for e in it:
                st = e.stat(follow_symlinks=False)
                out[e.path[len(top):]] = (st.st_ino, st.st_size, st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, st.st_ctime_ns)
                if e.is_dir(follow_symlinks=False):
                    stack.append(e.path)
    return out


def mount_times(s, name, backing, n=3):
    g, took = s.gateway(name, "--log-size", "128MiB", backing=backing), []
    for _ in range(n):
        t = time.monotonic()
        g.mount()
        took.append(time.monotonic() - t)
        g.umount()
    return sorted(took)[n // 2]


def behind(s, g, full):
    """A name that something else adds or takes away in the backing is seen in a while, also in a directory listed before."""
    with open(full + "/d150/dropped-in", "w") as f:
        f.write("from elsewhere")
    s.check(wait_until(lambda: "dropped-in" in os.listdir(g.path("d150")), 60, 0.2), "a file added in the backing is listed")
    with open(g.path("d150/dropped-in")) as f:
        s.check(f.read() == "from elsewhere", "and read")
    os.unlink(full + "/d150/dropped-in")
    s.check(wait_until(lambda: "dropped-in" not in os.listdir(g.path("d150")), 60, 0.2), "one removed there is listed no more")
    os.utime(full + "/d150", ns=(0, 0))


def main():
    with Suite("existing") as s:
        full = s.dir("full")
        build(full)
        before = prints(full)
        s.note(f"{len(before)} objects in the backing")
        empty, took = mount_times(s, "e", s.dir("empty")), mount_times(s, "f", full)
        s.headline = f"mounted in {took * 1000:.0f} ms (an empty backing: {empty * 1000:.0f} ms)"
        s.check(FAKE or took < 3 * empty, "mounting takes no longer for what is there", s.headline)
        s.check(prints(full) == before, "mounting and unmounting changed nothing")
        g = s.gateway("gw", "--log-size", "128MiB", "--writeback-age", "300ms", backing=full)
        g.mount()
        t = time.monotonic()
        names = os.listdir(g.path("d123"))
        s.check(len(names) == PER_DIR, f"a directory is listed at once ({(time.monotonic() - t) * 1000:.1f} ms)", len(names))
        rng = random.Random(1)
        picks = [(rng.randrange(DIRS), rng.randrange(PER_DIR)) for _ in range(500)]

        def read(d, i):
            with open(g.path(f"d{d:03}/f{i:03}"), "rb") as f:
                return f.read()
        t = time.monotonic()
        bad = [p for p in picks if read(*p) != b"%d %d" % p]
        s.check(not bad, f"500 files here and there are read ({(time.monotonic() - t) * 1000:.0f} ms)", bad[:5])
        t = time.monotonic()
        seen = prints(g.mnt)
        s.note(f"all of it listed and looked at in {time.monotonic() - t:.1f} s")
        s.check({k: v[1:6] for k, v in seen.items() if k != "/.forelog"} == {k: v[1:6] for k, v in before.items()}, "all of it as it is in the backing")
        s.check(seen["/hard"][0] == seen["/d000/f001"][0], "hard links are one file")
        behind(s, g, full)
        touched = {"/d150", "/d007", "/d007/f007", "/d007/new", "/d008", "/d008/f008", "/d008/moved"}
        with open(g.path("d007/f007"), "a") as f:
            f.write(" more")
        with open(g.path("d007/new"), "w") as f:
            f.write("new")
        os.rename(g.path("d008/f008"), g.path("d008/moved"))
        r = g.umount()
        s.check(r.returncode == 0, "umount returns 0", r.stderr)
        now = prints(full)
        other = {k for k in now.keys() | before.keys() if now.get(k) != before.get(k)} - touched
        s.check(not other, "nothing is rewritten where nobody wrote", sorted(other)[:5])
        s.check(now["/d008/moved"][0] == before["/d008/f008"][0] and now["/d007/f007"][1] == before["/d007/f007"][1] + 5,
                "what was moved was moved, what was written is there")


if __name__ == "__main__":
    main()
