"""Real programs that run while the gateway is killed: SQLite, cp -a and git, each with its own journal of what succeeded."""
import os
import shutil
import sqlite3
import subprocess
import time

import maketree
from harness import sh
from tree import compare, snapshot

ENV = {**os.environ, "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
       "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


def note(fd, text):
    os.write(fd, text.encode() + b"\n")


def noted(path):
    """(serials begun, serials done), from a journal of lines `begin N` and `done N`."""
    begun, done = [], []
    if os.path.exists(path):
        with open(path) as f:
            for line in f:
                word, _, n = line.strip().partition(" ")
                (begun if word == "begin" else done).append(int(n))
    return set(begun), done


def run_quiet(cmd, cwd=None):
    return subprocess.run(cmd, cwd=cwd, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


class Program:
    """`step(n)` raises or returns false when it failed; the parent later calls `verify`."""

    def __init__(self, top, journal):
        self.top, self.journal = top, journal

    def loop(self, root, seconds):
        log = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        n = max(noted(self.journal)[0], default=0)
        end = time.monotonic() + seconds
        at = os.path.join(root, self.top)
        self.begin(at)
        while time.monotonic() < end:
            n += 1
            note(log, f"begin {n}")
            try:
                if not self.step(at, n):
                    return 0
            except (OSError, sqlite3.Error):
                return 0
            note(log, f"done {n}")
        return 0

    def begin(self, at):
        pass


class Sqlite(Program):
    """Every COMMIT that returned is there, in order, and nothing that was never inserted."""

    def __init__(self, mode, journal):
        super().__init__("sql-" + mode, journal)
        self.mode, self.db = mode, None

    def begin(self, at):
        try:
            os.makedirs(at, exist_ok=True)
            self.db = sqlite3.connect(at + "/t.db", isolation_level=None, timeout=10)
            self.db.execute(f"pragma journal_mode={self.mode}")
            # Without `extra` SQLite itself does not sync the unlink that commits in mode DELETE.
            self.db.execute(f"pragma synchronous={'extra' if self.mode == 'delete' else 'full'}")
            self.db.execute("create table if not exists t(id integer primary key, a text)")
        except (OSError, sqlite3.Error):
            self.db = None

    def step(self, at, n):
        if not self.db:
            return False
        self.db.execute("begin immediate")
        self.db.execute("insert into t values(?, ?)", (n, "r" * (n % 3000)))
        self.db.execute("commit")
        return True

    def verify(self, root):
        """Problems found. A commit in flight may have happened; an unreturned id is then forgotten."""
        path = os.path.join(root, self.top, "t.db")
        begun, done = noted(self.journal)
        if not os.path.exists(path):
            return [f"{self.top}: database gone, {len(done)} commits lost"] if done else []
        db = sqlite3.connect(path, isolation_level=None, timeout=10)
        try:
            if (r := db.execute("pragma integrity_check").fetchone()[0]) != "ok":
                return [f"{self.top}: integrity_check: {r}"]
            if not db.execute("select count(*) from sqlite_master").fetchone()[0]:
                return [f"{self.top}: table gone"] if done else []
            have = {i: len(a) for i, a in db.execute("select id, a from t")}
        finally:
            db.close()
        out = [f"{self.top}: commit {n} lost" for n in done if n not in have]
        out += [f"{self.top}: row {n} was never inserted" for n in have if n not in begun]
        return out + [f"{self.top}: row {n} has {size} bytes" for n, size in have.items() if size != n % 3000]


class Copy(Program):
    """A `cp -a` that returned 0 is whole; one that was cut short holds beginnings of files and nothing else."""

    def __init__(self, scratch, journal):
        super().__init__("copies", journal)
        self.src = scratch + "/copy-src"
        if not os.path.exists(self.src):
            maketree.make(self.src, seed=5, mib=5, small=120)
            shutil.rmtree(self.src + "/holes")
        self.want = snapshot(self.src)

    def begin(self, at):
        try:
            os.makedirs(at, exist_ok=True)
        except OSError:
            pass

    def step(self, at, n):
        if n > 3 and run_quiet(["rm", "-rf", f"{at}/{n - 3}"]):
            return False
        return run_quiet(["cp", "-a", self.src, f"{at}/{n}"]) == 0

    def verify(self, root):
        begun, done = noted(self.journal)
        at, out = os.path.join(root, self.top), []
        if not os.path.isdir(at):
            return [f"copies: gone, after {len(done)} finished"] if done else []
        last = max(begun, default=0)
        kept = [n for n in done if n > last - 3]  # older ones were removed, or were being removed
        for n in sorted(int(x) for x in os.listdir(at)):
            if n in kept:
                out += [f"copies/{n}: {d}" for d in compare(self.want, snapshot(f"{at}/{n}"))]
            else:
                if n not in (last, last - 3):
                    out.append(f"copies/{n}: was removed, or never made")
                out += self.partial(f"{at}/{n}", n)
                shutil.rmtree(f"{at}/{n}")
        return out + [f"copies/{n}: finished, and gone" for n in kept if not os.path.isdir(f"{at}/{n}")]

    def partial(self, path, n):
        out, got = [], snapshot(path, content=False)
        for p in got:
            if p not in self.want:
                out.append(f"copies/{n}: {os.fsdecode(p)!r} never existed")
            elif "size" in got[p] and "size" in self.want[p]:
                with open(os.path.join(os.fsencode(path), p), "rb") as a, open(os.path.join(os.fsencode(self.src), p), "rb") as b:
                    if not b.read().startswith(a.read()):
                        out.append(f"copies/{n}: {os.fsdecode(p)!r} holds bytes that were not copied")
        return out


class Git(Program):
    """Every commit that returned is in the history, fsck is clean, and at most the commit in flight is there beside them."""

    def __init__(self, journal):
        super().__init__("git", journal)

    def begin(self, at):
        if not os.path.isdir(at + "/.git/refs/heads"):
            run_quiet(["git", "init", "-q", "-b", "main", at])

    def step(self, at, n):
        with open(f"{at}/file{n % 20}.txt", "a") as f:
            f.write(f"{n} " * (n % 500) + "\n")
        return run_quiet(["git", "add", "-A"], at) == 0 and run_quiet(["git", "commit", "-q", "-m", f"commit {n}"], at) == 0

    def verify(self, root):
        begun, done = noted(self.journal)
        at = os.path.join(root, self.top)
        if not os.path.isdir(at + "/.git/refs/heads"):
            return ["git: repository gone"] if done else []
        for top, _, files in os.walk(at + "/.git"):
            for f in files:
                if f.endswith(".lock"):
                    os.unlink(os.path.join(top, f))
        r = sh("git log --format=%s 2>/dev/null", 60, cwd=at, env=ENV)
        have = [int(x.split()[1]) for x in r.stdout.split("\n") if x]
        had = set(have)
        out = [f"git: commit {n} lost" for n in done if n not in had]
        out += [f"git: commit {n} was never made" for n in have if n not in begun]
        r = sh("git fsck --full --no-progress --no-dangling && git reset -q --hard && git status --porcelain --untracked-files=no", 120, cwd=at, env=ENV)
        if have and (r.returncode or r.stdout):
            out.append(f"git: fsck, reset or status: {(r.stdout + r.stderr)[-400:]}")
        return out
