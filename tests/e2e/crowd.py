"""Eight processes at one tree and one set of inodes, held against a reference model while the writeback, the sealing and the
recycling of segments never rest.

The model lives in memory that all share. Each operation takes the locks of what it touches (in a fixed order) for the call and
the change of the model together, so at any moment the model says what the mount must say; operations that touch different
things run at the same time. Every few operations a process compares what it can see: a file's bytes, a directory's names.
Afterwards the whole tree is compared, then again after a kill -9 and a remount, and in the backing.

crowd.py [--long] [--seed N]
"""
import fcntl
import mmap
import os
import random
import struct
import sys
import time
import traceback

from harness import FAKE, LONG, Suite

PROCESSES = 8
SECONDS = 120 if LONG else 12
DIRS, NAMES, FILES = 6, 10, 40
SIZE_MAX = 64 << 10
SLOT = 16  # of a name: file + 1, or 0
REC = 8 + SIZE_MAX  # of a file: size, bytes


class Model:
    """Names: DIRS x NAMES slots that hold a file's number. Files: links, size and bytes. All in shared memory."""

    def __init__(self, locks):
        self.names = mmap.mmap(-1, DIRS * NAMES * SLOT)
        self.files = mmap.mmap(-1, FILES * REC)
        self.count = mmap.mmap(-1, 4096)
        self.locks = locks

    def open_locks(self):
        self.fd = os.open(self.locks, os.O_RDWR)

    def hold(self, things):
        """Locks bytes of a file that stand for names and files; lowest first, so nobody waits in a circle."""
        for t in sorted(set(things)):
            fcntl.lockf(self.fd, fcntl.LOCK_EX, 1, t)

    def drop(self):
        fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def name(self, d, n):
        return struct.unpack_from("<q", self.names, (d * NAMES + n) * SLOT)[0] - 1

    def set_name(self, d, n, f):
        struct.pack_into("<q", self.names, (d * NAMES + n) * SLOT, f + 1)

    def size(self, f):
        return struct.unpack_from("<q", self.files, f * REC)[0]

    def set_size(self, f, n):
        old, at = self.size(f), f * REC + 8
        if n < old:
            self.files[at + n:at + old] = bytes(old - n)
        struct.pack_into("<q", self.files, f * REC, n)

    def data(self, f):
        return self.files[f * REC + 8:f * REC + 8 + self.size(f)]

    def put(self, f, off, b):
        self.files[f * REC + 8 + off:f * REC + 8 + off + len(b)] = b
        if off + len(b) > self.size(f):
            self.set_size(f, off + len(b))

    def links(self, f):
        return sum(1 for d in range(DIRS) for n in range(NAMES) if self.name(d, n) == f)


NAME_LOCK = 0  # byte d * NAMES + n
FILE_LOCK = 10_000  # byte of a file
FREE_LOCK = 20_000  # of the search for an unused file number


class Worker:
    def __init__(self, root, model, seed):
        self.root, self.m, self.rng = root, model, random.Random(seed)
        model.open_locks()

    def path(self, d, n):
        return f"{self.root}/d{d}/n{n}"

    def spot(self):
        return self.rng.randrange(DIRS), self.rng.randrange(NAMES)

    def step(self):
        """One operation under its locks; names first, then the file that a name holds (looked up under the name's lock)."""
        m, rng = self.m, self.rng
        a, b = self.spot(), self.spot()
        kind = rng.choice("cclluuRRwwwwwttpmrrrrsa")
        names = {a} | ({b} if kind in "lR" else set())
        m.hold([NAME_LOCK + d * NAMES + n for d, n in names])
        try:
            f, g = m.name(*a), m.name(*b)
            held = {x for x in ((f, g) if kind in "lR" else (f,)) if x >= 0}
            m.hold([FILE_LOCK + x for x in held])
            self.act(kind, a, b, f, g)
        finally:
            m.drop()

    def act(self, kind, a, b, f, g):
        m, rng, p = self.m, self.rng, self.path(*a)
        if kind == "c" and f < 0:
            m.hold([FREE_LOCK])
            used = {m.name(d, n) for d in range(DIRS) for n in range(NAMES)}
            free = [x for x in range(FILES) if x not in used]
            new = rng.choice(free) if free else -1
            if free:
                m.hold([FILE_LOCK + new])
            # Looked at again: while its names were looked through it may have been renamed to where the look had been.
            if free and not m.links(new):
                m.set_size(new, 0)
                m.set_name(*a, new)
                os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_RDWR))
        elif kind == "c":
            try:
                os.open(p, os.O_CREAT | os.O_EXCL | os.O_RDWR)
                raise AssertionError(f"{p}: made twice")
            except FileExistsError:
                pass
        elif f < 0:
            assert not os.path.lexists(p), f"{p}: is there, should not be"
        elif kind == "l" and g < 0:
            try:
                os.link(p, self.path(*b))
            except FileNotFoundError:
                # The kernel's own: a stat that is answered between an unlink of another name and the kernel's count of
                # it makes it count twice, and link(2) refuses a file with no links without asking us. It asks again now.
                seen = os.lstat(p).st_nlink
                print(f"       link refused by the kernel, links {seen}", flush=True)
                assert seen > 0, f"{p}: no links"
                os.link(p, self.path(*b))
            m.set_name(*b, f)
        elif kind == "u":
            os.unlink(p)
            m.set_name(*a, -1)
        elif kind == "R" and a != b:
            os.rename(p, self.path(*b))
            if f != g:  # two links of one file: nothing happens
                m.set_name(*b, f)  # first: a file without a name counts as unused
                m.set_name(*a, -1)
        elif kind in "wtpmrsa":
            self.content(kind, p, f)

    def content(self, kind, p, f):
        m, rng = self.m, self.rng
        fd = os.open(p, os.O_RDWR)
        try:
            size = m.size(f)
            if kind == "w":
                off = rng.randrange(SIZE_MAX - 1)
                b = rng.randbytes(rng.randrange(1, min(20_000, SIZE_MAX - off) + 1))
                assert os.pwrite(fd, b, off) == len(b)
                m.put(f, off, b)
            elif kind == "t":
                n = rng.randrange(SIZE_MAX)
                os.ftruncate(fd, n)
                m.set_size(f, n)
            elif kind == "p" and size:
                n = min(SIZE_MAX, size + rng.randrange(5000))
                os.posix_fallocate(fd, 0, n)
                m.set_size(f, max(size, n))
            elif kind == "m" and size:
                with mmap.mmap(fd, size) as view:
                    off = rng.randrange(size)
                    b = rng.randbytes(min(3000, size - off))
                    view[off:off + len(b)] = b
                m.put(f, off, b)
            elif kind == "s":
                os.fsync(fd)
            elif kind == "a" and size < SIZE_MAX - 1000:
                b = rng.randbytes(rng.randrange(1, 1000))
                extra = os.open(p, os.O_WRONLY | os.O_APPEND)
                os.write(extra, b)
                os.close(extra)
                m.put(f, size, b)
            else:
                got, want = os.pread(fd, SIZE_MAX, 0), m.data(f)
                assert got == want, f"{p}: {len(got)} bytes, wanted {len(want)}, first difference at {next((i for i, (x, y) in enumerate(zip(got, want)) if x != y), -1)}"
        finally:
            os.close(fd)


def work(root, model, seed, seconds, k):
    w, end, n = Worker(root, model, seed), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            w.step()
        except (AssertionError, OSError) as e:
            print(f"       process {k}, operation {n}, seed {seed}: {type(e).__name__} {e} in `{traceback.extract_tb(e.__traceback__)[-1].line}`", flush=True)
            return 1
        n += 1
        struct.pack_into("<q", model.count, k * 8, n)
    return 0


def lister(root, seconds):
    """Lists and stats everything without locks: what it sees may be old or new, but no call may fail in an odd way."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for top, dirs, files in os.walk(root):
            for f in files:
                try:
                    os.stat(os.path.join(top, f))
                except FileNotFoundError:
                    pass
            if len(files) != len(set(files)):
                print(f"       {top}: a name twice", flush=True)
                return 1


def compare(model, root):
    out = []
    for d in range(DIRS):
        want = {f"n{n}" for n in range(NAMES) if model.name(d, n) >= 0}
        got = set(os.listdir(f"{root}/d{d}"))
        if got != want:
            out.append(f"d{d}: has {sorted(got - want)} too many, {sorted(want - got)} too few")
        for n in range(NAMES):
            f = model.name(d, n)
            p = f"{root}/d{d}/n{n}"
            if f < 0 or not os.path.exists(p):
                continue
            with open(p, "rb") as x:
                if x.read() != model.data(f):
                    out.append(f"d{d}/n{n}: its bytes differ")
            if os.stat(p).st_nlink != model.links(f):
                out.append(f"d{d}/n{n}: {os.stat(p).st_nlink} links, wanted {model.links(f)}")
    return out


def tree_of_one(root, k, seed, seconds):
    """Directories made, renamed into each other and removed by several processes in one parent: only its own may it count on."""
    rng, end, mine = random.Random(seed), time.monotonic() + seconds, []
    while time.monotonic() < end:
        p = f"{root}/{k}-{rng.randrange(30)}"
        try:
            os.makedirs(f"{p}/x/y", exist_ok=True)
            q = f"{root}/{rng.randrange(4)}-{rng.randrange(30)}/x/y/{k}-{rng.randrange(5)}"
            os.rename(p, q)
            mine.append(q)
        except OSError as e:
            if e.errno not in (2, 17, 20, 22, 39):  # what others may cause
                print(f"       process {k}: {e}", flush=True)
                return 1


def main():
    seed = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else random.SystemRandom().randrange(1 << 20)
    with Suite("crowd") as s:
        s.note(f"seed {seed}")
        g = s.gateway("gw", "--log-size", "64MiB", "--segment-size", "1MiB", "--writeback-age", "50ms", "--seal-after", "50ms")
        g.mount()
        locks = s.scratch + "/locks"
        with open(locks, "w") as f:
            f.truncate(30_000)
        model, root = Model(locks), g.path("tree")
        for d in range(DIRS):
            os.makedirs(f"{root}/d{d}")
        kids = [s.spawn(work, root, model, seed * 100 + k, SECONDS, k) for k in range(PROCESSES)] + [s.spawn(lister, root, SECONDS)]
        codes = [k.join(SECONDS + 60) for k in kids]
        done = sum(struct.unpack_from(f"<{PROCESSES}q", model.count))
        s.check(codes == [0] * len(kids), f"{PROCESSES} processes, {done} operations, every look as the model has it (None: a call hangs)", codes)
        os.mkdir(g.path("dirs"))
        movers = [s.spawn(tree_of_one, g.path("dirs"), k, seed + k, SECONDS / 3) for k in range(4)]
        codes = [k.join(SECONDS + 60) for k in movers]
        s.check(codes == [0] * 4, "directories moved into each other by 4 processes", codes)
        moved = sorted(os.path.relpath(t, g.mnt) for t, _, _ in os.walk(g.path("dirs")))
        st = g.status()
        s.check(FAKE or st.get("writeback", {}).get("errors", 0) == 0, "no error in the writeback", st.get("writeback"))
        bad = compare(model, root)
        s.check(not bad, "the whole tree is the model's", "\n".join(bad[:10]))
        if not FAKE:
            g.kill9()
            g.detach()
            g.mount()
            bad = compare(model, root)
            s.check(not bad, "and after a kill", "\n".join(bad[:10]))
            now = sorted(os.path.relpath(t, g.mnt) for t, _, _ in os.walk(g.path("dirs")))
            s.check(now == moved, "the moved directories too", sorted(set(now) ^ set(moved))[:10])
        r = g.umount("--timeout", "5m", timeout=400)
        s.check(r.returncode == 0, "umount returns 0", r.stderr)
        bad = compare(model, g.backing + "/tree")
        s.check(not bad, "and in the backing", "\n".join(bad[:10]))
        now = sorted(os.path.relpath(t, g.backing) for t, _, _ in os.walk(g.backing + "/dirs"))
        s.check(now == moved, "and the moved directories", sorted(set(now) ^ set(moved))[:10])
        s.headline = f"{done} operations, seed {seed}"


if __name__ == "__main__":
    main()
