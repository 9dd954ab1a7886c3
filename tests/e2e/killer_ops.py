"""The worker of the kill test: makes up operations, notes each in a journal outside the mount, does it, notes that it is done."""
import ctypes
import json
import mmap
import os
import random
import struct
import time
import zlib

from harness import DEAD_ERRNOS
from killer_model import DIR, FILE, LINK, WRITES, data

LIBC = ctypes.CDLL(None, use_errno=True)
KINDS = ("write", 26), ("append", 12), ("create", 12), ("rename", 8), ("unlink", 6), ("fsync", 6), ("truncate", 4), ("mmap", 5), \
        ("link", 4), ("symlink", 3), ("mkdir", 4), ("rmdir", 2), ("read", 8), ("punch", 2), ("chmod", 2), ("chown", 2), ("utime", 2), \
        ("setxattr", 2), ("rmxattr", 1), ("fsyncdir", 2), ("slog", 6)
FILES_MOST = 120
SKIP = os.environ.get("FORELOG_KILLER_SKIP", "").split(",")  # operations to leave out, to narrow a failure down


def pick(model, rng, serial):
    """The next operation that is valid on `model`."""
    names, files, dirs = model.names, model.of(FILE), model.of(DIR)
    while True:
        k = rng.choices([k for k, _ in KINDS], [w * (k not in SKIP) for k, w in KINDS])[0]
        parent = rng.choice(dirs + ["", "", ""])
        fresh = os.path.join(parent, f"{rng.choice('abc é')}{serial}")
        if k in ("create", "mkdir", "symlink"):
            if len(names) < FILES_MOST and fresh.count("/") < 6:
                return {"op": k, "p": fresh, "mode": rng.choice((0o600, 0o644, 0o755)), "target": f"t/{serial}" * rng.choice((1, 40))}
        elif k == "slog":
            return {"op": k, "n": serial}
        elif k == "fsyncdir":
            return {"op": k, "p": parent}
        elif k == "rmdir":
            empty = [d for d in dirs if not any(x.startswith(d + "/") for x in names)]
            if empty:
                return {"op": k, "p": rng.choice(empty)}
        elif k == "rename" and names:
            op = pick_rename(names, files, rng, fresh)
            if op:
                return op
        elif k == "unlink":
            p = rng.choice(files + model.of(LINK) or [None])
            if p and len(files) > 5:
                return {"op": k, "p": p}
        elif files:
            return pick_on_file(k, rng.choice(files), names, rng, fresh)


def pick_rename(names, files, rng, fresh):
    p = rng.choice(list(names))
    if names[p].kind == FILE and rng.random() < 0.5:
        q = rng.choice(files)  # over an existing file
        return {"op": "rename", "p": p, "q": q} if q != p else None
    return None if fresh.startswith(p + "/") else {"op": "rename", "p": p, "q": fresh}


def pick_on_file(k, p, names, rng, fresh):
    size = len(names[p].data)
    op = {"op": k, "p": p, "seed": rng.getrandbits(48)}
    if k in WRITES:
        most = rng.choice((100, 4096, 4096, 40000, 40000, 300000))
        op["len"] = rng.choice((4096, rng.randint(1, most)))
        op["off"] = size if k == "append" else rng.randint(0, size + rng.choice((0, 0, 9000)))
        if k == "mmap":
            if not size:
                return {"op": "read", "p": p}
            op["off"] = rng.randrange(size)
            op["len"] = min(op["len"], size - op["off"])
        if op["off"] + op["len"] > 2 << 20:
            return {"op": "truncate", "p": p, "len": 100}
    elif k == "truncate":
        op["len"] = rng.choice((0, rng.randint(0, size + 5000)))
    elif k == "punch":
        op["off"] = rng.randint(0, size)
        op["len"] = rng.randint(1, 30000)
    elif k == "link":
        op["q"] = fresh
    elif k == "chmod":
        op["mode"] = rng.choice((0o600, 0o640, 0o777, 0o744))
    elif k == "chown":
        op["uid"], op["gid"] = (rng.randrange(5), rng.randrange(5)) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    elif k == "utime":
        op["ns"] = rng.randrange(2 * 10**18)
    elif k == "setxattr":
        op["k"], op["len"] = f"user.{rng.choice('xyz')}", rng.randrange(300)
    elif k == "rmxattr":
        if not names[p].xattrs:
            return {"op": "read", "p": p}
        op["k"] = rng.choice(sorted(names[p].xattrs))
    return op


class Hands:
    """Does operations on the real directory; keeps some files open across them, as real programs do."""

    def __init__(self, root, worker, rng, note):
        self.root, self.worker, self.rng, self.held, self.note = root, worker, rng, {}, note

    def fd(self, model, p):
        """An open descriptor of the file, with whether the caller is to close it."""
        n = model.names[p]
        if id(n) in self.held:
            return self.held[id(n)][1], False
        fd = os.open(os.path.join(self.root, p), os.O_RDWR)
        if self.rng.random() < 0.4:
            if len(self.held) > 8:
                os.close(self.held.pop(next(iter(self.held)))[1])
            self.held[id(n)] = (n, fd)
            return fd, False
        return fd, True

    def do(self, model, op):
        k, at = op["op"], os.path.join(self.root, op.get("p", ""))
        if k == "create":
            fd = os.open(at, os.O_CREAT | os.O_EXCL | os.O_RDWR, op["mode"])
            os.close(fd)
        elif k == "mkdir":
            os.mkdir(at, op["mode"])
        elif k == "symlink":
            os.symlink(op["target"], at)
        elif k == "unlink":
            self.unlink(model, op, at)
        elif k == "rmdir":
            os.rmdir(at)
        elif k == "link":
            os.link(at, os.path.join(self.root, op["q"]))
        elif k == "rename":
            os.rename(at, os.path.join(self.root, op["q"]))
        elif k == "chmod":
            os.chmod(at, op["mode"])
        elif k == "chown":
            os.chown(at, op["uid"], op["gid"])
        elif k == "utime":
            os.utime(at, ns=(op["ns"], op["ns"]))
        elif k == "setxattr":
            os.setxattr(at, op["k"], data(op))
        elif k == "rmxattr":
            os.removexattr(at, op["k"])
        elif k == "fsyncdir":
            fd = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(fd)
            os.close(fd)
        elif k == "slog":
            fd = os.open(os.path.join(self.root, "..", "shared.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(fd, slog_record(self.worker, op["n"]))
            os.close(fd)
        else:
            self.on_file(model, op)

    def on_file(self, model, op):
        k = op["op"]
        fd, mine = self.fd(model, op["p"])
        if k in ("write", "append"):
            b, n = data(op), 0
            while n < len(b):
                n += os.pwrite(fd, b[n:], op["off"] + n)
                if n < len(b):  # the gateway died within this call: what it counted is acknowledged all the same
                    self.note({"part": n})
        elif k == "truncate":
            os.ftruncate(fd, op["len"])
        elif k == "punch":
            if LIBC.fallocate(fd, 3, ctypes.c_long(op["off"]), ctypes.c_long(op["len"])):
                raise OSError(ctypes.get_errno(), "fallocate(PUNCH_HOLE)")
        elif k == "mmap":
            with mmap.mmap(fd, len(model.names[op["p"]].data)) as m:
                m[op["off"]:op["off"] + op["len"]] = data(op)
                m.flush()
        elif k == "fsync":
            (os.fsync if self.rng.random() < 0.5 else os.fdatasync)(fd)
        elif k == "read":
            want = bytes(model.names[op["p"]].data)
            got = os.pread(fd, len(want) + 1, 0)
            if got != want:
                raise AssertionError(f"read of {op['p']} gives other bytes than were written: {self.how_wrong(fd, got, want)}")
        if mine:
            os.close(fd)

    @staticmethod
    def how_wrong(fd, got, want):
        """Where it differs, and whether a second look, and one past the kernel's cache, are right."""
        bad = [i for i in range(max(len(got), len(want))) if got[i:i + 1] != want[i:i + 1]]
        again = os.pread(fd, len(want) + 1, 0) == want
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        fresh = os.pread(fd, len(want) + 1, 0)
        zeros = not any(got[i] for i in bad if i < len(got))
        return (f"{len(got)} of {len(want)} bytes, {len(bad)} differ in {bad[0]}..{bad[-1]}, all zeros there: {zeros}, "
                f"inode {os.fstat(fd).st_ino}, links {os.fstat(fd).st_nlink}; again right: {again}, past the cache right: {fresh == want}")

    def unlink(self, model, op, at):
        os.unlink(at)
        n = model.names[op["p"]]
        held = self.held.pop(id(n), None)
        if held and sum(1 for m in model.names.values() if m is n) == 1:  # open but nameless: must go on working
            b = self.rng.randbytes(5000)
            os.pwrite(held[1], b, len(n.data))
            got, want = os.pread(held[1], 1 << 22, 0), bytes(n.data) + b
            if got != want:
                raise AssertionError(f"an unlinked open file gives other bytes: {op['p']}: {self.how_wrong(held[1], got, want)}")
        if held:
            os.close(held[1])


def slog_record(worker, n):
    body = struct.pack("<HQ", worker, n) + bytes([65 + worker]) * 50
    return body + struct.pack("<I", zlib.crc32(body))


def read_slog(path):
    """Worker -> the serials found, in file order; raises on a record that nobody wrote."""
    seen, size = {}, len(slog_record(0, 0))
    with open(path, "rb") as f:
        raw = f.read()
    if len(raw) % size:
        raise AssertionError(f"shared.log: {len(raw)} bytes are no whole number of records")
    for i in range(0, len(raw), size):
        worker, n = struct.unpack_from("<HQ", raw, i)
        if raw[i:i + size] != slog_record(worker, n):
            raise AssertionError(f"shared.log: record at {i} was never written")
        seen.setdefault(worker, []).append(n)
    return seen


def work(root, worker, model, seed, serial, journal, seconds):
    """Runs until the gateway dies (exit 0), something is wrong (exit 1), or `seconds` are over (exit 0)."""
    rng = random.Random(seed)
    log = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(what):
        os.write(log, json.dumps(what).encode() + b"\n")

    hands = Hands(root, worker, rng, note)
    os.umask(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        serial += 1
        op = pick(model, rng, serial)
        note({"start": serial, **op})
        try:
            hands.do(model, op)
        except OSError as e:
            if e.errno in DEAD_ERRNOS:
                note({"dead": serial, "errno": e.errno})
                return 0
            note({"wrong": serial, "why": str(e)})
            return 1
        except AssertionError as e:
            note({"wrong": serial, "why": str(e)})
            return 1
        note({"done": serial})
        model.apply(op)
    return 0


def read_journal(path):
    """(finished operations, the one in flight or None, what a worker complained of or None, last serial)"""
    done, flight, wrong, last = [], None, None, 0
    try:
        with open(path, "rb") as f:
            lines = f.read().split(b"\n")
    except FileNotFoundError:
        return done, flight, wrong, last
    for line in lines:
        if not line.endswith(b"}"):
            continue  # the worker was killed while noting; what it had not noted it had not begun
        j = json.loads(line)
        if "start" in j:
            flight, last = j, j["start"]
        elif "done" in j:
            done.append(flight)
            flight = None
        elif "part" in j:
            flight["part"] = j["part"]
        elif "wrong" in j:
            wrong = f"{flight}: {j['why']}"
    return done, flight, wrong, last
