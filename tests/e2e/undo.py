#!/usr/bin/env python3
"""Undo: --keep-log, `forelog versions`, `forelog undo`. Random work on a tree, with its state at several moments noted; each of
them comes back exactly, also over a remount and a kill -9; and what cannot be told is refused in one line."""
import datetime
import errno
import glob
import json
import os
import random
import shutil
import sys
import time

from harness import BIN, LONG, Suite, fails, get, put, sh, wait_until
from stores import RcloneServe, Seaweed
from tree import compare, snapshot

SKIP = ("group", "nlink")  # a file that had two names may come back as two files


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")


def moment(root):
    """The tree as it is, and a moment at which it is so."""
    time.sleep(0.03)
    seen = snapshot(root)
    time.sleep(0.03)
    at = now()
    time.sleep(0.03)
    return at, seen


def undo(g, path, at, *more):
    return g.run("undo", path, "--to", at, "-q", *more)


def same(s, g, root, at, want, what):
    r = undo(g, root, at, "--delete")
    diffs = compare(want, snapshot(root), SKIP)
    s.check(r.returncode == 0 and not diffs, what, f"exit {r.returncode} {r.stderr[-600:]} {diffs}")


class Work:
    """Random changes of a tree. `odd`: what ends some names."""

    def __init__(self, root, seed, odd="\n"):
        self.root, self.r, self.n, self.odd = root, random.Random(seed), 0, odd

    def files(self):
        return [os.path.join(d, f) for d, _, fs in os.walk(self.root) for f in fs]

    def dirs(self):
        return [d for d, _, _ in os.walk(self.root)]

    def name(self):
        self.n += 1
        return os.path.join(self.r.choice(self.dirs()), self.r.choice([f"n{self.n}", f"a{self.n % 7}", f"ä {self.n}{self.odd}"]))

    def step(self):
        r, files = self.r, self.files()
        files_only = [f for f in files if not os.path.islink(f)]
        what = r.choice("create create append write write truncate grow replace rename rename remove chmod utime mkdir rmtree link punch movedir".split())
        f = r.choice(files_only) if files_only else None
        try:
            if what == "create" or f is None:
                p = self.name()
                if not os.path.isdir(p):
                    put(p, r.randbytes(r.choice([0, 1, 100, 5000, 70000, 400000])))
            elif what == "append":
                with open(f, "ab") as o:
                    o.write(r.randbytes(r.randrange(1, 20000)))
            elif what in ("write", "punch"):
                with open(f, "r+b") as o:
                    o.seek(r.randrange(0, 100000))
                    o.write(r.randbytes(r.randrange(1, 30000)) if what == "write" else bytes(9000))
            elif what == "truncate":
                os.truncate(f, r.randrange(0, 1 + os.path.getsize(f)))
            elif what == "grow":
                os.truncate(f, os.path.getsize(f) + r.randrange(1, 50000))
            elif what == "replace":
                put(f + ".new", r.randbytes(r.randrange(0, 50000)))
                os.rename(f + ".new", f)
            elif what == "rename":
                to = self.name()
                if not os.path.isdir(to):
                    os.rename(f, to)
            elif what == "remove":
                os.unlink(f)
            elif what == "chmod":
                os.chmod(f, r.choice([0o600, 0o644, 0o755, 0o444]))
            elif what == "utime":
                os.utime(f, ns=(r.randrange(10**18), r.randrange(10**18)))
            elif what == "mkdir":
                os.makedirs(self.name(), exist_ok=True)
            elif what == "link":
                os.symlink("x" * r.randrange(1, 60), self.name())
            elif what == "rmtree":
                d = [x for x in self.dirs() if x != self.root]
                if d and r.random() < 0.4:
                    shutil.rmtree(r.choice(d))
            elif what == "movedir":
                d = [x for x in self.dirs() if x != self.root]
                if d:
                    x = r.choice(d)
                    to = os.path.join(self.root, f"moved{self.n}")
                    self.n += 1
                    os.rename(x, to)
        except (FileExistsError, IsADirectoryError, NotADirectoryError, OSError) as e:
            if getattr(e, "errno", 0) in (5, 107, 28):
                raise


def old_tree(g, seed):
    """What the backing holds before the first mount."""
    w = Work(os.path.join(g.backing, "t"), seed)
    os.makedirs(w.root, exist_ok=True)
    for d in ("a", "a/b", "c"):
        os.makedirs(os.path.join(w.root, d), exist_ok=True)
    for n in range(12):
        put(os.path.join(w.root, w.r.choice(["", "a", "a/b", "c"]), f"old{n}"), w.r.randbytes(w.r.choice([0, 10, 9000, 300000])))


def moments(s, seed):
    g = s.gateway(f"moments{seed}", "--log-size", "256MiB", "--keep-log", "10m", "--writeback-age", "200ms", "--seal-after", "300ms")
    old_tree(g, seed)
    g.mount()
    root = g.path("t")
    w = Work(root, seed)
    seen = [moment(root)]
    for n in range(6):
        for _ in range(25):
            w.step()
        seen.append(moment(root))
        if n % 2:
            time.sleep(0.4)
    s.check(g.flush().returncode == 0, "all is in the backing")
    order = list(range(len(seen)))
    w.r.shuffle(order)
    for n in order:
        same(s, g, root, *seen[n], f"seed {seed}: the tree of moment {n}")
    for _ in range(20):
        w.step()
    seen.append(moment(root))
    g.kill9()
    g.detach()
    g.mount()
    for n in (len(seen) - 1, 2, 0, 5):
        same(s, g, root, *seen[n], f"seed {seed}: moment {n} after a kill -9")
    for _ in range(20):
        w.step()
    seen.append(moment(root))
    for _ in range(5):
        w.step()
    r = g.umount()
    s.check(r.returncode == 0 and not [x for x in os.listdir(g.backing) if x.startswith(".undo")], "a clean unmount", r.stderr)
    diffs = compare(snapshot(os.path.join(g.backing, "t")), snapshot(os.path.join(g.backing, "t")), SKIP)
    s.check(not diffs, "(the backing can be read)")
    g.mount()
    for n in (len(seen) - 1, 1, 4):
        same(s, g, root, *seen[n], f"seed {seed}: moment {n} after a remount")
    s.check(g.umount().returncode == 0, "umount")


def kinds(s):
    """Each kind of change, alone."""
    g = s.gateway("kinds", "--log-size", "64MiB", "--keep-log", "5m", "--writeback-age", "0s", "--seal-after", "200ms")
    b = os.path.join(g.backing, "d")
    os.makedirs(b + "/deep/er")
    big = os.urandom(3 << 20)
    for n in ("overwritten", "truncated", "appended", "replaced", "renamed", "removed", "unlinked", "mode"):
        put(os.path.join(b, n), big[: 200000] + n.encode())
    put(b + "/deep/er/leaf", big)
    put(b + "/empty", b"")
    long_name = os.fsdecode(b"\xff\n" + b"x" * 253)
    put(os.path.join(b, long_name), b"odd")
    with open(b + "/sparse", "wb") as f:
        f.truncate(1 << 40)
        f.seek(1 << 39)
        f.write(b"far out")
    os.setxattr(b + "/mode", "user.k", b"v1")
    g.mount()
    d = g.path("d")
    at, want = now(), snapshot(d, content=False)
    hashes = {n: get(os.path.join(d, n)) for n in os.listdir(d) if os.path.isfile(os.path.join(d, n)) and n != "sparse"}
    time.sleep(0.05)
    with open(d + "/overwritten", "r+b") as f:
        f.seek(1000)
        f.write(b"NEW" * 1000)
    os.truncate(d + "/truncated", 17)
    with open(d + "/appended", "ab") as f:
        f.write(b"more" * 5000)
    put(d + "/x", b"replacement")
    os.rename(d + "/x", d + "/replaced")
    os.rename(d + "/renamed", d + "/renamed2")
    os.unlink(d + "/removed")
    fd = os.open(d + "/unlinked", os.O_RDWR)
    os.unlink(d + "/unlinked")
    os.pwrite(fd, b"after", 5)
    os.close(fd)
    os.chmod(d + "/mode", 0o600)
    os.setxattr(d + "/mode", "user.k", b"v2")
    shutil.rmtree(d + "/deep")
    put(d + "/empty", b"not any more")
    put(os.path.join(d, long_name), b"changed")
    with open(d + "/sparse", "r+b") as f:
        f.seek(1 << 39)
        f.write(b"FAR")
        f.truncate((1 << 39) + 3)
    put(d + "/made", b"later")
    g.flush()
    before = snapshot(d, content=False)
    r = g.run("undo", d, "--to", at, "--dry-run")
    s.check(r.returncode == 0 and "restore" in r.stdout and "leave" in r.stdout and not compare(before, snapshot(d, content=False)),
            "--dry-run tells, and changes nothing", r.stdout + r.stderr)
    out = s.dir("out")
    r = g.run("undo", d, "--to", at, "--output", out)
    diffs = compare(want, snapshot(out + "/d", content=False), SKIP)
    s.check(r.returncode == 0 and not diffs and not compare(before, snapshot(d, content=False)), "--output writes it elsewhere, and changes nothing here",
            f"{r.stderr} {diffs}")
    s.check(os.stat(out + "/d/sparse").st_blocks < 1000, "a sparse file of 1 TiB comes back sparse")
    r = undo(g, d, at)
    s.check(r.returncode == 0 and os.path.exists(d + "/made") and "left" in r.stdout, "what did not exist then stays", r.stdout + r.stderr)
    r = undo(g, d, at, "--delete")
    diffs = compare(want, snapshot(d, content=False), SKIP)
    s.check(r.returncode == 0 and not diffs, "with --delete it is the tree of that moment", f"{r.stderr} {diffs}")
    bad = [n for n, data in hashes.items() if get(os.path.join(d, n)) != data]
    s.check(not bad and get(d + "/deep/er/leaf") == big, "and all contents", bad)
    with open(d + "/sparse", "rb") as f:
        f.seek((1 << 39) - 1)
        s.check(f.read(9) == b"\0far out\0", "the sparse one too")
    s.check(g.umount().returncode == 0, "umount")
    s.check(get(b + "/overwritten") == hashes["overwritten"] and not os.path.exists(b + "/made"), "and so it is in the backing")


def versions(s):
    g = s.gateway("versions", "--log-size", "64MiB", "--keep-log", "5m", "--writeback-age", "0s")
    g.mount()
    f = g.path("f")
    put(f, b"one")
    time.sleep(0.05)
    at = now()
    time.sleep(2.1)
    with open(f, "ab") as o:
        o.write(b"two")
    os.chmod(f, 0o600)
    os.rename(f, g.path("g"))
    os.unlink(g.path("g"))
    r = g.run("versions", f, "--json")
    try:
        v = json.loads(r.stdout)["versions"]
    except ValueError:
        v = []
    what = [x["what"] for x in v]
    s.check(what[:2] == ["removed", "renamed"] and what[-1] == "created" and what.count("written") == 2 and "mode" in what,
            "versions tells what happened, the newest first", r.stdout + r.stderr)
    s.check([x["size"] for x in v if x["what"] == "written"] == [6, 3] and all(x["pid"] == os.getpid() for x in v), "sizes, and by whom", v)
    r = g.run("versions", g.mnt)
    s.check(r.returncode == 0 and "created" in r.stdout and "+" in r.stdout or "Z" in r.stdout, "of a directory, for people", r.stdout + r.stderr)
    r = undo(g, f, at)
    s.check(r.returncode == 0 and get(f) == b"one", "a file that is gone comes back by its old name", r.stdout + r.stderr)
    put(f, b"three")
    back = now()
    time.sleep(0.05)
    undo(g, f, at)
    r = undo(g, f, back)
    s.check(r.returncode == 0 and get(f) == b"three", "an undo can be undone", r.stderr)
    for words, want in (((g.path("never"), "--to", "1s"), "did not exist"), ((f, "--to", "4h"), "before what is kept"),
                        ((f, "--to", "soon"), "no moment"), (("/etc/passwd", "--to", "1s"), "not in a forelog mount")):
        r = g.run("undo", *words)
        s.check(r.returncode in (1, 2) and want in r.stderr and r.stderr.count("\n") == 1, f"refused in one line: {want}", r.stderr)
    r = sh(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", BIN, "undo", f, "--to", at], 60)
    s.check(r.returncode == 2 and get(f) == b"three", "another user may not undo", r.stderr)
    kept = os.path.join(g.log, "kept")
    modes = {oct(os.stat(p).st_mode & 0o777) for p in glob.glob(kept + "/*")}
    s.check(os.stat(kept).st_mode & 0o777 == 0o700 and modes == {"0o600"}, "what is kept is private", modes)
    s.check(g.umount().returncode == 0, "umount")


def bounds(s):
    """Little room, a short window, damage, no flag."""
    g = s.gateway("bounds", "--log-size", "16MiB", "--keep-log", "10m", "--writeback-age", "0s", "--seal-after", "100ms")
    g.mount()
    early = now()
    time.sleep(0.05)
    throttled = 0
    for n in range(60):
        put(g.path("f"), os.urandom(1 << 20))
        if n % 10 == 9:
            g.flush()
            used = sum(os.path.getsize(p) for p in glob.glob(g.log + "/*.seg") + glob.glob(g.log + "/kept/*"))
            s.check(used <= (18 << 20), f"log and what is kept stay within the log's size: {used >> 20} MiB")
            throttled = max([c["throttled_seconds"] for c in g.status()["clients"]] + [throttled])
    k = g.status()["kept"]
    s.check(k["on"] and k["given_up"] > 0 and k["segments"] > 0 and k["bytes"] <= 16 << 20, "the oldest is given up, and status says so", k)
    s.check(throttled < 2, "writers did not wait for it", throttled)
    r = undo(g, g.path("f"), early)
    s.check(r.returncode == 2 and "before what is kept" in r.stderr, "what was given up is refused", r.stderr)
    # damage
    at, _ = moment(g.mnt)
    put(g.path("f"), b"x" * 5000)
    g.flush()
    wait_until(lambda: False, 1)
    g.umount()
    g.mount()
    segs = sorted(glob.glob(g.log + "/kept/*.seg"), key=os.path.getmtime)
    s.check(len(segs) > 2, "segments are kept", segs)
    put(g.path("f"), b"y" * 5000)
    late, _ = moment(g.mnt)
    put(g.path("f"), b"later")
    for p in segs[:-1]:
        with open(p, "r+b") as f:
            f.seek(0)
            f.write(b"\0" * 5000)
    r = undo(g, g.path("f"), at)
    s.check(r.returncode == 2 and "damaged" in r.stderr, "a moment that a damaged segment would tell of is refused", r.stderr)
    r = undo(g, g.path("f"), late)
    s.check(r.returncode == 0 and get(g.path("f")) == b"y" * 5000, "a later one is not", r.stderr)
    s.check(g.umount().returncode == 0, "umount")
    r = g.run("fsck", g.log)
    s.check(r.returncode == 0, "the log itself is none the worse", r.stdout)
    g.options[3] = "0s"
    g.mount()
    put(g.path("f"), b"not kept")
    g.flush()
    s.check(not os.path.exists(g.log + "/kept") and not g.status()["kept"]["on"], "without the flag nothing is kept")
    r = undo(g, g.path("f"), "1s")
    s.check(r.returncode == 2 and "--keep-log" in r.stderr, "and undo says what to do", r.stderr)
    s.check(g.umount().returncode == 0, "umount")
    g.options[3] = "2s"
    g.mount()
    put(g.path("w"), b"1")
    at = now()
    for n in range(8):
        time.sleep(0.7)
        put(g.path("w"), str(n).encode())
        g.flush()
        g.run("flush", g.mnt)
    wait_until(lambda: g.status()["kept"]["oldest_seconds"] < 15, 20)
    wait_until(lambda: undo(g, g.path("w"), at, "--dry-run").returncode == 2, 30, 1)
    r = undo(g, g.path("w"), at)
    s.check(r.returncode == 2 and "before what is kept" in r.stderr and get(g.path("w")) == b"7", "what is older than the window is refused", r.stderr)
    s.check(g.umount().returncode == 0, "umount")


def buckets(s):
    """The same in front of two stores."""
    for store in (Seaweed(s, "weed"), RcloneServe(s, "rclone")):
        store.start()
        more = [] if store.obeys_conditions else ["--sole-writer"]
        g = s.gateway(store.name, "--log-size", "256MiB", "--keep-log", "10m", "--writeback-age", "200ms", "--seal-after", "300ms", *more, backing=store.url("u"))
        g.mount()
        root = g.path("t")
        os.mkdir(root)
        if not store.obeys_conditions:
            # Once it reads its directory again, that name is another.
            s.check(fails(put, g.path("a\nb"), b"") == errno.EINVAL, f"{store.name}: a name with a newline is refused")
        w, seen = Work(root, 5, "\n" if store.obeys_conditions else "+"), []
        for _ in range(3):
            for _ in range(15):
                w.step()
            seen.append(moment(root))
            g.flush()
        for n in (2, 1, 0):
            same(s, g, root, *seen[n], f"{store.name}: the tree of moment {n}")
        g.flush()
        s.check(g.umount().returncode == 0, f"{store.name}: umount")
        store.stop()


def main():
    with Suite("undo") as s:
        versions(s)
        kinds(s)
        for seed in range(int(os.environ.get("FORELOG_SEED", 1)), 40 if LONG else 3):
            moments(s, seed)
        bounds(s)
        buckets(s)


if __name__ == "__main__":
    sys.exit(main())
