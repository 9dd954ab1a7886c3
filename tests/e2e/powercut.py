"""Power cuts for real: the log lies on an ext4 or XFS of its own, which is shut down under load without a flush; what no fsync had
brought to the device is gone, as after a power cut. Then the filesystem is mounted again, the log replayed, and checked:

- what an fsync answered for is there: the file, and everything the process did before it, anywhere;
- of each process only a suffix of what it did is lost, and no more than the commit interval (and a margin for this machine);
- a file that is replaced by rename, or truncated and written anew, is wholly the old or wholly the new one;
- a shared file holds a prefix of what was appended to it; SQLite's databases are whole and hold every commit.

powercut.py [--long] [--cuts N] [--seed S] [--fs NAME]  6 cuts, or 300; every third with the backing on the same disk
"""
import ctypes
import fcntl
import json
import os
import random
import signal
import struct
import sys
import time

from harness import FAKE, LONG, Suite, get, mounts, sh, wait_until
from killer_model import DIR, LINK, Model, data, walk
from killer_ops import Hands, pick, read_slog
from killer_postgres import Postgres
from killer_programs import Sqlite, noted

BOOT_ID = "/proc/sys/kernel/random/boot_id"
SHUTDOWN, NO_FLUSH = 0x8004587D, 2
WORKERS, CUTS = 3, 300 if LONG else 6
BOUND = 1 + 5  # commit interval, and what this machine may be late
SYNCS = ("fsync", "fsyncdir", "mmap")
PIECE = 3000


def option(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def option_text(name):
    return sys.argv[sys.argv.index(name) + 1]


# ---- the workers

def work(root, k, model, seed, serial, journal, seconds):
    """Random operations, each noted before and after; ends when the mount says no."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    log = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(what):
        os.write(log, json.dumps(what).encode() + b"\n")
    hands = Hands(root, k, rng, lambda what: None)
    os.umask(0)
    while time.monotonic() < end:
        serial += 1
        op = pick(model, rng, serial)
        if op["op"] == "truncate" and not op["len"]:
            op["len"] = 1  # what is cut to nothing comes back if it was not written anew: `rewriter` looks at that
        note({"start": serial, **op})
        try:
            hands.do(model, op)
        except (OSError, ValueError):
            return 0
        except AssertionError as e:
            note({"wrong": str(e)})
            return 1
        note({"done": serial, "at": time.monotonic()})
        model.apply(op)
    return 0


def stopped(pid):
    """True when every thread of the process stands still."""
    for t in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{t}/stat") as f:
            if f.read().rpartition(")")[2].split()[0] not in "Tt":
                return False
    return True


def version(n, k):
    """Content that says which version it is, in every part."""
    return b"".join(b"%08d.%d." % (n, k) + bytes([65 + n % 26]) * (PIECE - 11) for _ in range(4 + n % 40))


def version_of(b):
    """The version that `b` is wholly, or None."""
    try:
        n, k = int(b[:8]), int(b[9:10])
    except ValueError:
        return None
    return n if b == version(n, k) else None


def version_began(b, n):
    return any(version(n, k).startswith(b) for k in range(7))


def replacer(root, journal, seconds, how):
    """One file, again and again in new versions: by a new file renamed over it, or truncated and written anew; at times synced."""
    log, end = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), time.monotonic() + seconds
    rng, n, at = random.Random(journal), 0, f"{root}/{how}"
    try:
        if os.path.exists(at):
            with open(at, "rb") as f:
                n = version_of(f.read()) or 0
        while time.monotonic() < end:
            n += 1
            os.write(log, b"begin %d\n" % n)
            new = at + ".new" if how == "renamed" else at
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            b = version(n, n % 7)
            for i in range(0, len(b), 4096):
                os.write(fd, b[i:i + 4096])
            synced = rng.random() < 0.1
            if synced and how == "rewritten":
                os.fsync(fd)
            os.close(fd)
            if how == "renamed":
                os.rename(new, at)
                if synced:
                    fd = os.open(root, os.O_RDONLY)
                    os.fsync(fd)
                    os.close(fd)
            os.write(log, b"done %d %f\n" % (n, time.monotonic()))
            if synced:
                os.write(log, b"synced %d\n" % n)
    except OSError:
        return 0


# ---- what may be there afterwards

def read_log(path, most):
    """(operations with `at` if done, how many a sync answered for before the cut, what a worker complained of)"""
    ops, synced, wrong, size = [], 0, None, 0
    with open(path, "rb") as f:
        for line in f.read().split(b"\n"):
            size += len(line) + 1
            if not line.endswith(b"}"):
                continue
            j = json.loads(line)
            if "start" in j:
                ops.append(j)
            elif "wrong" in j and size <= most:  # later the log cannot be read any more
                wrong = j["wrong"]
            elif "done" in j:
                ops[-1]["at"] = j["at"]
                if size <= most and ops[-1]["op"] in SYNCS:
                    synced = len(ops)
    return ops, synced, wrong


class Seen:
    """A directory read into memory once, to hold many models against."""

    def __init__(self, root):
        self.nodes = {}
        for p, st in walk(root).items():
            at = os.path.join(root, p)
            if os.path.islink(at):
                self.nodes[p] = (LINK, os.readlink(at))
            elif os.path.isdir(at):
                self.nodes[p] = (DIR, st.st_mode & 0o7777, st.st_uid, st.st_gid)
            else:
                with open(at, "rb") as f:
                    body = f.read()
                x = {k: os.getxattr(at, k) for k in os.listxattr(at) if k.startswith("user.")}
                self.nodes[p] = ("file", st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_nlink, x, body)

    def against(self, model, partly=None):
        """None if the model may have become this; else the first difference. `partly`: an operation that may be halfway."""
        names = model.names
        if names.keys() != self.nodes.keys():
            more, less = sorted(self.nodes.keys() - names.keys()), sorted(names.keys() - self.nodes.keys())
            return f"names: {len(more)} too many {more[:3]}, {len(less)} too few {less[:3]}"
        loose = names.get(partly["p"]) if partly else None
        for p, n in names.items():
            s = self.nodes[p]
            if n.kind == LINK or s[0] == LINK:
                ok = s == (LINK, n.target)
            elif n.kind == DIR or s[0] == DIR:
                ok = s == (DIR, n.mode, n.uid, n.gid)
            else:
                links = sum(1 for m in names.values() if m is n)
                ok = s[:6] == ("file", n.mode, n.uid, n.gid, links, n.xattrs)
                ok = ok and (s[6] == n.data or n is loose and self.begun(partly, bytes(n.data), s[6]))
            if not ok:
                at = next((i for i, (a, b) in enumerate(zip(s[-1], n.data)) if a != b), "none") if s[0] == "file" else "-"
                return f"{p}: {[x if not isinstance(x, bytes) else len(x) for x in s]}, wanted {[n.kind, n.mode, n.uid, n.gid, n.xattrs, len(n.data)]}, first difference at {at}"
        return None

    @staticmethod
    def begun(op, old, got):
        """`got` is `old` with a beginning of the write `op`."""
        new, off = data(op), op["off"]
        for n in range(len(new) + 1):
            if off + n >= len(got) or got[off + n:off + n + 1] != new[n:n + 1]:
                break
        want = (old.ljust(off, b"\0") if n else old)
        return got == want[:off] + new[:n] + want[off + n:] if n else got == old


class Cut:
    def __init__(self, s, fs, seed, same_disk, n):
        self.s, self.n, self.rng = s, n, random.Random(seed)
        self.disk = s.dir(f"disk-{fs}")
        self.fs, self.img = fs, s.scratch + f"/{fs}.img"
        self.j = s.dir(f"j{n}")
        self.seed, self.commits = seed, 0
        backing = self.disk + f"/backing{n}" if same_disk else None
        self.g = s.gateway(f"gw{n}", "--log-size", "96MiB", "--segment-max", "8MiB",
                           *self.rng.choice(((), ("--writeback-age", "300ms", "--seal-after", "200ms"), ("--writeback-age", "1s"))), backing=backing)
        self.g.log = self.disk + f"/log{n}"
        self.programs = [Sqlite(m, f"{self.j}/sql-{m}") for m in ("wal", "delete")]
        self.postgres = Postgres(self.s.scratch, self.j + "/pg")
        if n // 2 % 2:
            self.programs.append(self.postgres)

    def attach(self):
        r = sh(["mount", "-o", "loop", self.img, self.disk], 60)
        if r.returncode:
            raise RuntimeError(f"mount of {self.img}: {r.stderr}")

    def cut(self):
        fd = os.open(self.disk, os.O_RDONLY)
        fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_FLUSH))
        os.close(fd)

    def run(self):
        g, s = self.g, self.s
        self.attach()
        os.makedirs(g.backing, exist_ok=True)
        g.mount()
        os.makedirs(g.path("w"))
        for k in range(WORKERS):
            os.mkdir(g.path(f"w/{k}"))
        fd = os.open(g.path("w"), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        if self.postgres in self.programs:
            s.check(self.postgres.install(g.mnt), "PostgreSQL is installed")
            s.undo.append(self.postgres.end)
        logs = [f"{self.j}/w{k}" for k in range(WORKERS)]
        kids = [s.spawn(work, g.path(f"w/{k}"), k, Model(), self.seed * 10 + k, 0, logs[k], 60) for k in range(WORKERS)]
        kids += [s.spawn(replacer, g.mnt, f"{self.j}/{how}", 60, how) for how in ("renamed", "rewritten")]
        kids += [s.spawn(p.loop, g.mnt, 60) for p in self.programs]
        if self.postgres in self.programs:  # it takes its time to begin
            wait_until(lambda: os.path.exists(self.postgres.journal) and os.path.getsize(self.postgres.journal) > 200, 8)
        time.sleep(self.rng.uniform(0.5, 4))
        # As one moment: the gateway must not go on with a log that is gone (it would drain what it can).
        pids = g.pids()
        for p in pids:
            os.kill(p, signal.SIGSTOP)
        wait_until(lambda: all(stopped(p) for p in pids), 10)
        texts = logs + [f"{self.j}/{how}" for how in ("renamed", "rewritten")] + [p.journal for p in self.programs]
        sizes = {t: os.path.getsize(t) if os.path.exists(t) else 0 for t in texts}
        at = time.monotonic()
        self.cut()
        g.finish_kill(pids)
        for k in kids:
            k.kill()
        self.postgres.end()
        g.detach()
        for _ in range(50):
            if sh(["umount", self.disk], 60).returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"the disk {self.disk} cannot be unmounted")
        self.attach()
        if os.environ.get("FORELOG_KEEP_LOG"):
            sh(["cp", "-a", g.log, f"/var/tmp/fl-log-{self.seed}"], 60)
        t = time.monotonic()
        self.after_a_boot(g.mount)
        took = time.monotonic() - t
        sh(["rm", "-rf", f"/var/tmp/fl-case-{self.seed}"], 60)
        problems, lost = self.check(logs, sizes, at)
        s.check(not problems, f"cut {self.n} on {self.fs}{', the backing too' if self.disk in g.backing else ''}, seed {self.seed}: "
                f"lost at the end {lost} operations; mounted in {took:.2f} s", "\n    ".join(problems[:12]))
        if problems:
            g.show_log()
            if os.environ.get("FORELOG_KEEP_LOG"):
                keep = f"/var/tmp/fl-case-{self.seed}"
                os.makedirs(keep)
                for x in (g.log_file, g.backing, self.j):
                    sh(["cp", "-a", x, keep], 60)
                sh(["mv", f"/var/tmp/fl-log-{self.seed}", keep + "/log"], 60)
        sh(["rm", "-rf", f"/var/tmp/fl-log-{self.seed}"], 60)
        r = g.umount("--timeout", "20s", timeout=60)
        if not s.check(r.returncode == 0, f"cut {self.n}: umount returns 0", r.stderr):
            with open(g.log_file) as f:
                print("".join("       " + x[:250] for x in f.readlines() if "writeback" in x or "recover" in x)[-2500:])
        left = [d for k, m in enumerate(self.settled) if m and (d := Seen(f"{g.backing}/w/{k}").against(m))]
        s.check(not left, f"cut {self.n}: the backing has what was recovered", left)
        self.leave()
        return not problems

    def leave(self):
        for p in (self.g.backing, self.g.log):
            sh(["rm", "-rf", p], 60)
        sh(["umount", self.disk], 60)

    def quiet(self):
        """Nobody syncs and nothing is drained: what is older than the commit interval is there all the same."""
        g, s = self.g, self.s
        self.attach()
        os.makedirs(g.backing, exist_ok=True)
        g.options = ["--writeback-age", "10m"]
        g.mount()
        os.makedirs(g.path("a/b"))
        data = os.urandom(300_000)
        for n in range(3):
            with open(g.path(f"a/{n}"), "wb") as f:
                f.write(data)
        os.rename(g.path("a/1"), g.path("a/b/1"))
        os.unlink(g.path("a/2"))
        time.sleep(BOUND / 2)
        pids = g.pids()
        for p in pids:
            os.kill(p, signal.SIGSTOP)
        wait_until(lambda: all(stopped(p) for p in pids), 10)
        self.cut()
        g.finish_kill(pids)
        g.detach()
        wait_until(lambda: sh(["umount", self.disk], 60).returncode == 0, 10, 0.1)
        self.attach()
        self.after_a_boot(g.mount)
        there = sorted(os.path.join(d, x)[len(g.mnt):] for d, _, files in os.walk(g.mnt) for x in files)
        whole = there == ["/a/0", "/a/b/1"] and all(get(g.mnt + x) == data for x in there)
        s.check(whole, f"quiet, on {self.fs}: what was done {BOUND / 2} s before a cut survives it, unsynced", there)
        s.check(g.umount("--timeout", "20s", timeout=60).returncode == 0, f"quiet, on {self.fs}: umount returns 0")
        self.leave()

    def after_a_boot(self, fn):
        """After a power cut the machine has another boot id; by it the gateway knows that more than a process died."""
        with open(self.s.scratch + "/boot_id", "w") as f:
            f.write(f"{self.rng.getrandbits(32):08x}-0000-4000-8000-{self.rng.getrandbits(48):012x}\n")
        r = sh(["mount", "--bind", self.s.scratch + "/boot_id", BOOT_ID], 20)
        if r.returncode:
            raise RuntimeError(f"a boot id of our own: {r.stderr}")
        try:
            fn()
        finally:
            sh(["umount", BOOT_ID], 20)

    def check(self, logs, sizes, at):
        g, out, lost = self.g, [], []
        slog = {}
        self.settled = [None] * WORKERS
        for k, path in enumerate(logs):
            ops, synced, wrong = read_log(path, sizes[path])
            if wrong:
                out.append(f"w{k}: while running: {wrong}")
            kept, why = self.prefix(k, ops, synced)
            if kept is None:
                out.append(f"w{k}: no prefix of {synced}..{len(ops)} operations gives what is there: {why}")
                continue
            old = [i for i, op in enumerate(ops) if op.get("at", at) < at - BOUND]
            if old and kept <= old[-1]:
                out.append(f"w{k}: operation {old[-1]} was done {at - ops[old[-1]]['at']:.1f} s before the cut and is lost")
            lost.append(len(ops) - kept)
            slog[k] = ([op["n"] for op in ops if op["op"] == "slog"], [op["n"] for op in ops[:synced] if op["op"] == "slog"])
        out += self.shared(slog)
        for how in ("renamed", "rewritten"):
            out += self.whole(how, sizes)
        for p in self.programs:
            self.commits += len(noted(p.journal)[1])
            self.forget_after(p.journal, sizes[p.journal])
            out += p.verify(g.mnt)
        return out, lost

    def prefix(self, k, ops, synced):
        """How many operations are there, at least `synced`; the model of them is kept."""
        model, seen, why = Model(), Seen(self.g.path(f"w/{k}")), None
        for i in range(len(ops) + 1):
            if i >= synced:
                flight = ops[i] if i < len(ops) and ops[i]["op"] in ("write", "append") else None
                d = seen.against(model)
                if d is None or flight and seen.against(model, flight) is None:
                    self.settled[k] = model if d is None else None
                    return i, None
                why = why or f"after {i}: {d}"
            if i < len(ops) and ops[i]["op"] not in ("slog", "read", *SYNCS[:2]):
                model.apply(ops[i])
        tail = [{k: v for k, v in op.items() if k in ("op", "p", "q", "off", "len", "at", "k")} for op in ops[max(0, synced - 2):]]
        return None, f"{why}; after all: {seen.against(model)}; operations from {max(0, synced - 2)} on: {tail}"

    def shared(self, slog):
        path = self.g.path("w/shared.log")
        try:
            seen = read_slog(path) if os.path.exists(path) else {}
        except AssertionError as e:
            return [str(e)]
        out = []
        for k, (begun, synced) in slog.items():
            got = seen.get(k, [])
            if got != begun[:len(got)]:
                out.append(f"shared.log: w{k}'s records are no prefix of what it wrote")
            if len(got) < len(synced):
                out.append(f"shared.log: w{k}: {len(got)} records, {len(synced)} were synced")
        return out

    def whole(self, how, sizes):
        """Wholly one version, not older than the last synced."""
        begun, synced, size = [0], 0, 0
        with open(f"{self.j}/{how}") as f:
            for line in f:
                size += len(line)
                word, n = line.split()[:2]
                if word == "begin":
                    begun.append(int(n))
                if word == "synced" and size <= sizes[f"{self.j}/{how}"]:
                    synced = int(n)
        p = self.g.path(how)
        if not os.path.exists(p):
            return [f"{how}: gone, version {synced} was synced"] if synced else []
        with open(p, "rb") as f:
            b = f.read()
        n = version_of(b) if b else 0
        if n is None and how == "rewritten" and synced == 0 and version_began(b, 1):
            return []  # the first version replaces nothing
        if n is None:
            return [f"{how}: {len(b)} bytes that are no version as a whole"]
        return [] if synced <= n <= begun[-1] else [f"{how}: is version {n}, {synced} was synced, {begun[-1]} begun"]

    @staticmethod
    def forget_after(path, size):
        """What a program noted as done after the cut began does not count."""
        with open(path, "rb") as f:
            raw = f.read()
        with open(path, "wb") as f:
            f.write(raw[:size] + b"".join(x + b"\n" for x in raw[size:].split(b"\n") if x.startswith(b"begin ")))


def alone():
    """In a mount namespace of our own: one that somebody else makes meanwhile would keep our disks mounted, and a filesystem that was
    shut down comes back only when nobody has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000) or sh(["mount", "--make-rprivate", "/"], 20).returncode:  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "a mount namespace of our own")


def main():
    alone()
    names = [option_text("--fs")] if "--fs" in sys.argv else ["ext4", "xfs"]
    cuts, seed = option("--cuts", CUTS), option("--seed", random.SystemRandom().randrange(10**6))
    with Suite("powercut") as s:
        s.note(f"seed {seed}, {cuts} cuts")
        made = []
        for fs, mkfs in (("ext4", "mkfs.ext4 -q -F"), ("xfs", "mkfs.xfs -q -f")):
            img = f"{s.scratch}/{fs}.img"
            with open(img, "wb") as f:
                f.truncate(700 << 20)
            if fs in names and sh(f"{mkfs} {img}", 60).returncode == 0:
                made.append(fs)
        s.undo.append(lambda: [sh(["umount", BOOT_ID], 20) for m in mounts() if m == BOOT_ID])
        if FAKE or not s.check(made, "a filesystem for the log can be made"):
            return
        done = commits = 0
        for n, fs in enumerate(made):
            Cut(s, fs, seed, False, -1 - n).quiet()
        for n in range(cuts):
            cut = Cut(s, made[n % len(made)], seed + n, n % 3 == 2, n)
            whole = cut.run()
            commits += cut.commits
            if not whole:
                s.note(f"again: --seed {seed + n} --cuts 1")
                break
            done += 1
        s.headline = f"{done} power cuts on {' and '.join(made)}, {commits} commits of databases, seed {seed}"


if __name__ == "__main__":
    main()
