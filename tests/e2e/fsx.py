"""fsx, every kind of operation it knows, a gateway killed between the runs; and two processes at one file, held against one model.

fsx.py [--long] [--seed N]   100,000 operations in 2 runs and 10,000 by two; with --long a million in 20 and 200,000 by two
"""
import ctypes
import fcntl
import hashlib
import mmap
import os
import random
import re
import sys
import time

from harness import FAKE, LONG, Suite, sh
from posix_suite import tool

RUNS, OPS = (20, 50_000) if LONG else (2, 50_000)
ROUNDS, PAIR_OPS = (10, 20_000) if LONG else (2, 5_000)
FSX = """flen = 262144
[opsize]
max = 32768
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 5
invalidate = 1
truncate = 5
fsync = 0.2
fdatasync = 0.2
posix_fallocate = 1
punch_hole = 4
sendfile = 2
posix_fadvise = 1
copy_file_range = 4
"""

FILE_MAX, PIECE = 300_000, 40_000
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def again(s, g):
    """A kill and a remount, as after a crash."""
    g.kill9()
    g.detach()
    g.mount()


def runs(s, g, seed):
    exe = tool(s, "fsx")
    if not exe:
        return {}
    config, keep = s.scratch + "/fsx.toml", s.dir("fsx-artifacts")
    with open(config, "w") as f:
        f.write(FSX)
    seen = {}
    for n in range(RUNS):
        name, t, this = f"fsx.{n}", time.monotonic(), seed + n
        while True:
            r = sh([exe, "-q", "-f", config, "-P", keep, "-N", str(OPS), "-S", str(this), g.path(name)], 900)
            text = (r.stdout + r.stderr).strip()
            # fsx takes EINVAL for a call of its own with length 0, on any filesystem, for "not supported".
            if not re.search(r"POSIX_FALLOCATE[^\n]*\( *0x0 bytes\)$", text):
                break
            s.note(f"seed {this} makes fsx allocate 0 bytes and give up: another one")
            this += 1000
        s.check(r.returncode == 0 and "A-OK" in text, f"fsx seed {this}: {OPS} operations ({time.monotonic() - t:.0f} s)", text[-1500:])
        seen[name] = digest(g.path(name))
        again(s, g)
        bad = [x for x in seen if digest(g.path(x)) != seen[x]]
        s.check(not bad, "after a kill: every file as fsx left it", bad)
    return seen


# ---- two processes, one file

class Pair:
    """The model: the file's bytes and its size, in memory that both processes share; a lock on the file itself orders them."""

    def __init__(self):
        self.bytes = mmap.mmap(-1, FILE_MAX)
        self.head = mmap.mmap(-1, 4096)

    @property
    def size(self):
        return int.from_bytes(self.head[:8], "little")

    @size.setter
    def size(self, n):
        if n < self.size:
            self.bytes[n:self.size] = bytes(self.size - n)
        self.head[:8] = n.to_bytes(8, "little")

    def put(self, off, data):
        self.bytes[off:off + len(data)] = data
        if off + len(data) > self.size:
            self.size = off + len(data)


class Worker:
    def __init__(self, path, pair, seed):
        self.path, self.m, self.rng = path, pair, random.Random(seed)
        self.fd = os.open(path, os.O_RDWR)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.buf = mmap.mmap(-1, 64 << 10)

    def span(self, inside):
        size = self.m.size
        top = size if inside else FILE_MAX
        if top <= 0:
            return 0, 0
        off = self.rng.randrange(top)
        return off, self.rng.randrange(1, min(PIECE, top - off) + 1)

    def fallocate(self, mode, off, n):
        if LIBC.fallocate(self.fd, mode, off, n):
            raise OSError(ctypes.get_errno(), "fallocate")

    def expect(self, got, off, n, how):
        want = self.m.bytes[off:min(off + n, self.m.size)]
        if bytes(got) != want:
            at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
            raise AssertionError(f"{how} {off}+{n} of {self.m.size}: {len(got)} bytes, wanted {len(want)}, first difference at {off + at}")

    def step(self):
        m, rng = self.m, self.rng
        k = rng.choice("wwwwrrrrRMmtTpzfcsdoDW")
        if k == "w":
            off, n = self.span(False)
            data = rng.randbytes(n)
            assert os.pwrite(self.fd, data, off) == n
            m.put(off, data)
        elif k == "r":
            off, n = self.span(True)
            self.expect(os.pread(self.fd, n, off), off, n, "read")
        elif k == "R":  # through a descriptor of its own
            fd = os.open(self.path, os.O_RDONLY)
            self.expect(os.pread(fd, FILE_MAX, 0), 0, FILE_MAX, "whole read")
            os.close(fd)
        elif k in "mM" and m.size:
            off, n = self.span(True)
            with mmap.mmap(self.fd, m.size) as view:
                if k == "M":
                    view[off:off + n] = data = rng.randbytes(n)
                    m.put(off, data)
                else:
                    self.expect(view[off:off + n], off, n, "mapped read")
        elif k in "tT":
            n = rng.randrange(FILE_MAX) if k == "t" else min(FILE_MAX, m.size + rng.randrange(3000))
            os.ftruncate(self.fd, n)
            m.size = n
        elif k in "pz":
            off, n = self.span(True)
            if n:
                self.fallocate(3 if k == "p" else 0x11, off, n)
                m.bytes[off:min(off + n, m.size)] = bytes(min(off + n, m.size) - off)
        elif k == "f":
            off, n = self.span(False)
            os.posix_fallocate(self.fd, off, n)
            m.size = max(m.size, off + n)
        elif k == "c" and m.size > 2:
            a, n = self.span(True)
            b = rng.randrange(FILE_MAX - n)
            if a + n <= b or b + n <= a:
                done = os.copy_file_range(self.fd, self.fd, n, a, b)
                assert done == n, f"copied {done} of {n}"
                m.put(b, m.bytes[a:a + n])
        elif k == "s":
            (os.fsync if rng.random() < 0.5 else os.fdatasync)(self.fd)
        elif k == "d":
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        elif k == "o":
            os.close(self.fd)
            self.fd = os.open(self.path, os.O_RDWR)
            assert os.fstat(self.fd).st_size == m.size, f"size {os.fstat(self.fd).st_size}, wanted {m.size}"
        elif k == "D" and m.size:
            off = rng.randrange(m.size) // 4096 * 4096
            n = os.preadv(self.direct, [self.buf], off)
            self.expect(self.buf[:n], off, len(self.buf), "direct read")
        elif k == "W":
            off, n = rng.randrange(60) * 4096, rng.randrange(1, 8) * 4096
            self.buf[:n] = data = rng.randbytes(n)
            assert os.pwritev(self.direct, [memoryview(self.buf)[:n]], off) == n
            m.put(off, data)
        return k


def pair_worker(path, pair, seed, ops):
    w = Worker(path, pair, seed)
    gate = os.open(path, os.O_RDONLY)
    for n in range(ops):
        fcntl.flock(gate, fcntl.LOCK_EX)
        try:
            w.step()
        except (AssertionError, OSError) as e:
            print(f"       operation {n}, seed {seed}: {e}", flush=True)
            return 1
        finally:
            fcntl.flock(gate, fcntl.LOCK_UN)


def pair(s, g, seed):
    path, model = g.path("pair"), Pair()
    os.close(os.open(path, os.O_CREAT | os.O_RDWR))
    for n in range(ROUNDS):
        t = time.monotonic()
        kids = [s.spawn(pair_worker, g.path("pair"), model, seed * 100 + n * 2 + k, PAIR_OPS // 2) for k in range(2)]
        codes = [k.join(600) for k in kids]
        s.check(codes == [0, 0], f"two processes, one file: {PAIR_OPS} operations, seed {seed}, round {n} ({time.monotonic() - t:.0f} s)", codes)
        if codes != [0, 0]:
            return None
        if not FAKE:
            again(s, g)
        with open(path, "rb") as f:
            got = f.read()
        s.check(got == model.bytes[:model.size], "after a kill: the file is the model's", f"{len(got)} bytes, wanted {model.size}")
    return digest(path)


def main():
    seed = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else random.SystemRandom().randrange(1 << 20)
    with Suite("fsx") as s:
        s.note(f"seed {seed}")
        g = s.gateway("gw", "--log-size", "512MiB", "--writeback-age", "400ms", "--seal-after", "200ms")
        g.mount()
        seen = runs(s, g, seed)
        last = pair(s, g, seed)
        r = g.umount("--timeout", "5m", timeout=400)
        s.check(r.returncode == 0, "umount returns 0", r.stderr)
        if last:
            seen["pair"] = last
        bad = [x for x in seen if digest(os.path.join(g.backing, x)) != seen[x]]
        s.check(not bad, "the backing holds the same", bad)
        s.headline = f"{RUNS * OPS} operations, {RUNS + ROUNDS} kills, seed {seed}"


if __name__ == "__main__":
    main()
