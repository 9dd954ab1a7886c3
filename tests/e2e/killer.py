"""kill -9 of the gateway at random moments of mixed work; after each remount all that was acknowledged is there, nothing else.

killer.py [--long] [--cycles N] [--seed S]: 6 cycles, or 50. A failure names the seed; the same seed makes the same operations
(the moment of the kill is the machine's own).
"""
import os
import random
import signal
import subprocess
import sys
import time

from harness import BIN, FAKE, LONG, Suite, leftovers, wait_until
from killer_model import Model
from killer_ops import read_journal, read_slog, work
from killer_postgres import Postgres
from killer_programs import Copy, Git, Sqlite, noted
from tree import compare, snapshot

WORKERS = 4
AGES = (("--writeback-age", "300ms", "--seal-after", "200ms"), ("--writeback-age", "2s"), ())


def option(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


class Killer:
    def __init__(self, s, g, seed):
        self.s, self.g, self.seed = s, g, seed
        self.rng = random.Random(seed)
        self.models = [Model() for _ in range(WORKERS)]
        self.serial = [0] * WORKERS
        self.slog = {w: set() for w in range(WORKERS)}
        self.slog_flight = {}
        self.ops = 0
        j = s.dir("journals")
        self.journals = j
        self.programs = [Sqlite("wal", j + "/wal"), Sqlite("delete", j + "/delete"), Copy(s.scratch, j + "/copy"), Git(j + "/git")]
        self.postgres = Postgres(s.scratch, j + "/pg")

    def populate(self):
        for w in range(WORKERS):
            os.mkdir(self.g.path(f"w{w}"))
        if not FAKE and self.s.check(self.postgres.install(self.g.mnt), "PostgreSQL is installed"):
            self.s.undo.append(self.postgres.end)
            self.programs.append(self.postgres)

    # ---- one cycle

    def cycle(self, n):
        paths = [f"{self.journals}/{n}.{w}" for w in range(WORKERS)]
        kids = [self.s.spawn(work, self.g.path(f"w{w}"), w, self.models[w], self.seed * 1000 + n * 10 + w, self.serial[w], paths[w], 60)
                for w in range(WORKERS)]
        progs = [self.s.spawn(p.loop, self.g.mnt, 60) for p in self.programs]
        pids = self.g.pids()
        if n % 2 and self.postgres in self.programs:  # it takes its time to begin
            size = self.journal_size()
            wait_until(lambda: self.journal_size() > size + 200, 8)
        wait = self.rng.uniform(0.2, 2.5)
        time.sleep(wait)
        early = [i for i, k in enumerate(kids + progs) if k.poll() is not None]
        self.kill(kids, progs, pids)
        stuck = [k.pid for k, p in zip(kids + progs, [None] * WORKERS + self.programs) if p is not self.postgres and k.join(30) is None]
        self.s.check(not stuck, f"cycle {n}: every call on the dead mount returned", f"pids {stuck}")
        for k in kids + progs:
            k.kill()
        if not self.postgres.end():
            self.s.check(False, f"cycle {n}: PostgreSQL's processes ended with the mount")
        self.g.detach()
        if early:
            self.s.check(False, f"cycle {n}: no worker ended before the kill at {wait:.2f} s", f"{early} did")
        interrupted = self.interrupt_recovery()
        t = time.monotonic()
        self.g.mount(*AGES[n % len(AGES)])
        took = time.monotonic() - t
        wrong, flights, count = self.replay_journals(paths)
        problems = wrong + self.verify(flights)
        self.ops += count
        self.s.check(not problems, f"cycle {n}: killed after {wait:.2f} s{interrupted}, {count} operations kept, "
                     f"in flight {[f['op'] if f else '-' for f in flights]}, mounted in {took:.2f} s", "\n    ".join(problems[:15]))
        return not problems

    def journal_size(self):
        return os.path.getsize(self.postgres.journal) if os.path.exists(self.postgres.journal) else 0

    def kill(self, kids, progs, pids):
        if FAKE:  # nothing to kill: the workers die instead, in the middle of whatever they do
            for k in kids + progs:
                k.kill()
        else:
            self.g.finish_kill(pids)

    def interrupt_recovery(self):
        """Sometimes kills the next mount too, while it recovers."""
        if FAKE or self.rng.random() > 0.4:
            return ""
        ms = self.rng.randrange(1, 200)
        p = subprocess.Popen([BIN, *self.g.mount_command("--foreground")], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(ms / 1000)
        p.send_signal(signal.SIGKILL)
        p.wait()
        self.g.detach()
        return f", recovery killed after {ms} ms"

    def replay_journals(self, paths):
        """Brings the models up to what was acknowledged; returns complaints, operations in flight, and how many were done."""
        wrong, flights, count = [], [], 0
        for w, path in enumerate(paths):
            done, flight, why, last = read_journal(path)
            for op in done:
                self.models[w].apply(op)
                if op["op"] == "slog":
                    self.slog[w].add(op["n"])
            if flight and flight["op"] == "slog":
                self.slog_flight[w, flight["n"]] = True
            self.serial[w] = max(last, self.serial[w])
            flights.append(flight)
            count += len(done)
            if why:
                wrong.append(f"w{w}: while running: {why}")
        return wrong, flights, count

    def verify(self, flights):
        out = []
        for w, model in enumerate(self.models):
            out += [f"w{w}: {d}" for d in model.settle(self.g.path(f"w{w}"), flights[w])]
        out += self.check_slog(self.g.mnt)
        for p in self.programs:
            out += p.verify(self.g.mnt)
        return out + self.strangers(self.g.mnt)

    def check_slog(self, root):
        path = os.path.join(root, "shared.log")
        if not os.path.exists(path):
            return ["shared.log: gone"] if any(self.slog.values()) else []
        try:
            seen = read_slog(path)
        except AssertionError as e:
            return [str(e)]
        out = []
        for w in range(WORKERS):
            got = seen.get(w, [])
            out += [f"shared.log: record {n} of w{w} lost" for n in sorted(self.slog[w] - set(got))]
            extra = [n for n in got if n not in self.slog[w] and (w, n) not in self.slog_flight]
            out += [f"shared.log: record {n} of w{w} was never begun" for n in extra]
            if got != sorted(set(got)):
                out.append(f"shared.log: records of w{w} twice or out of order")
            self.slog[w] = set(got)
        return out

    def strangers(self, root):
        known = {f"w{w}" for w in range(WORKERS)} | {p.top for p in self.programs} | {"shared.log", ".forelog"}
        return [f"{n}: nobody made it" for n in set(os.listdir(root)) - known]


def main():
    cycles, seed = option("--cycles", 50 if LONG else 6), option("--seed", random.SystemRandom().randrange(10**6))
    with Suite("killer") as s:
        s.note(f"seed {seed}, {cycles} cycles")
        g = s.gateway("gw", "--log-size", "512MiB")
        g.mount()
        k = Killer(s, g, seed)
        k.populate()
        for n in range(cycles):
            if not k.cycle(n):
                s.note(f"stopped at cycle {n}; again with --seed {seed}")
                break
        commits = ", ".join(f"{len(noted(p.journal)[1])} {p.top}" for p in k.programs)
        s.headline = f"{n + 1} kills, {k.ops} operations acknowledged, done by programs: {commits}; seed {seed}"
        seen = snapshot(g.mnt)
        r = g.umount("--timeout", "10m", timeout=700)
        s.check(r.returncode == 0, "umount returns 0", r.stderr)
        diffs = compare(seen, snapshot(g.backing))
        s.check(not diffs, "backing equals the tree as last seen", "\n    ".join(diffs))
        bad = [f"w{w}: {d}" for w, m in enumerate(k.models) for d in m.diffs(os.path.join(g.backing, f"w{w}"))]
        bad += k.check_slog(g.backing) + k.strangers(g.backing) + leftovers(g.backing)
        s.check(not bad, "backing equals the model of all acknowledged operations", "\n    ".join(bad[:15]))


if __name__ == "__main__":
    main()
