"""The big program set on one mount, then a clean unmount: the backing must equal a control copy, and what programs last saw."""
import mmap
import os
import random
import sqlite3
import struct
import time

import maketree
from harness import LONG, Suite, leftovers, sh
from tree import compare, snapshot, subtree

FIXED = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
         "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
TAR = "--xattrs --xattrs-include='*' --numeric-owner"


def must(s, what, cmd, env=None, cwd=None, timeout=600):
    t = time.monotonic()
    r = sh(cmd, timeout, env={**os.environ, **(env or {})}, cwd=cwd)
    s.check(r.returncode == 0, f"{what} ({time.monotonic() - t:.1f} s)", r.stderr[-600:] + r.stdout[-200:])
    return r


def sources(s, plain=False):
    """What the programs copy from, on a plain disk: the big tree, a smaller one, a tar of it, a git repository."""
    src, mid = s.scratch + "/src", s.scratch + "/mid"
    maketree.make(src, seed=11, mib=300, small=4000, plain=plain)
    maketree.make(mid, seed=12, mib=24, small=1200, plain=plain)
    must(s, "tar of the source", f"tar {TAR} -S --format=posix -C {mid} -cf {s.scratch}/mid.tar .")
    repo = s.dir("repo")
    rng = random.Random(3)
    for c in range(12):
        for i in range(25):
            os.makedirs(f"{repo}/d{i % 6}", exist_ok=True)
            with open(f"{repo}/d{i % 6}/f{rng.randrange(90)}.txt", "w") as f:
                f.write("".join(f"line {rng.randrange(50)}\n" for _ in range(rng.randrange(400))))
        git(repo, ("init -q -b main . && " if c == 0 else "") + f"git add -A && git commit -q -m c{c}", c)
    return src, mid, repo


def git(cwd, args, when=0):
    day = f"2024-01-{when % 28 + 1:02d}T00:00:00Z"
    return sh("git " + args, 300, cwd=cwd, env={**os.environ, **FIXED, "GIT_AUTHOR_DATE": day, "GIT_COMMITTER_DATE": day})


def run_git(s, at, repo):
    os.mkdir(at)
    r = git(at, f"clone -q --no-hardlinks {repo} clone")
    s.check(r.returncode == 0, "git clone", r.stderr)
    clone = at + "/clone"
    for c in range(6):
        for i in range(10):
            with open(f"{clone}/new{c}_{i}.txt", "w") as f:
                f.write(f"{c} {i}\n" * 100)
        r = git(clone, f"add -A && git commit -q -m m{c}", c)
        s.check(r.returncode == 0, f"git commit {c}", r.stderr)
    for what, cmd in (("branch and merge", "checkout -q -b side HEAD~2 && echo s > side.txt && git add -A && git commit -q -m side"
                       " && git checkout -q main && git merge -q -m merge side"),
                      ("bare push", "init -q --bare ../bare && git push -q ../bare main"), ("gc", "gc -q"),
                      ("fsck", "fsck --full --strict --no-progress")):
        r = git(clone, cmd)
        s.check(r.returncode == 0, f"git {what}", r.stdout + r.stderr)
    r = git(clone, "status --porcelain")
    s.check(r.returncode == 0 and r.stdout == "", "git status is clean", r.stdout + r.stderr)
    return git(clone, "rev-parse HEAD").stdout


def run_cargo(s, at):
    os.makedirs(at + "/src")
    for name, text in (("Cargo.toml", '[package]\nname = "tiny"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n'),
                       ("src/lib.rs", "pub fn sum(v: &[u64]) -> u64 { v.iter().sum() }\n"),
                       ("src/main.rs", 'fn main() { println!("{}", tiny::sum(&[1, 2, 39])); }\n')):
        with open(f"{at}/{name}", "w") as f:
            f.write(text)
    env = {"CARGO_TARGET_DIR": at + "/target", "CARGO_TERM_COLOR": "never"}
    must(s, "cargo build", "cargo build --offline", env, at, 120)
    r = must(s, "the built program runs", at + "/target/debug/tiny")
    s.check(r.stdout == "42\n", "and says 42", r.stdout)
    r = must(s, "cargo build again", "cargo build --offline", env, at, 120)
    s.check("Compiling" not in r.stderr, "cargo finds nothing to build again", r.stderr)


def run_sqlite(s, at, mode, n=2000):
    os.makedirs(at, exist_ok=True)
    db = sqlite3.connect(f"{at}/{mode}.db", isolation_level=None, timeout=10)
    got = db.execute(f"pragma journal_mode={mode}").fetchone()[0]
    s.check(got == mode, f"sqlite journal_mode={mode}", got)
    db.execute("pragma synchronous=full")
    db.execute("create table t(id integer primary key, a text)")
    for i in range(n):
        db.execute("insert into t(a) values(?)", (f"row {i} " + "x" * (i % 200),))
    s.check(db.execute("select count(*) from t").fetchone()[0] == n and
            db.execute("pragma integrity_check").fetchone()[0] == "ok", f"sqlite {mode}: {n} transactions, integrity_check ok")
    db.close()


def page(i, round_):
    return random.Random(i * 1000003 + round_).randbytes(4096)


def mmap_writer(path, pages, out):
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), pages * 4096) as m:
        for round_ in range(2):
            for i in range(pages):
                m[i * 4096:(i + 1) * 4096] = page(i, round_)
                if i % 64 == 63:
                    m.flush()
                os.write(out, struct.pack("<II", i, round_))
        m.flush()


def mmap_reader(path, pages, inp):
    with open(path, "rb") as f, mmap.mmap(f.fileno(), pages * 4096, access=mmap.ACCESS_READ) as m:
        while raw := os.read(inp, 8):
            i, r = struct.unpack("<II", raw)
            # a page is checked in its final round only while the writer is past it, so both views must agree
            if r == 1 and (m[i * 4096:(i + 1) * 4096] != page(i, 1) or os.pread(f.fileno(), 4096, i * 4096) != page(i, 1)):
                print(f"page {i}: mmap or read shows other bytes than the writer stored")
                return 1
    return 0


def run_mmap(s, at, pages=1024):
    os.makedirs(at, exist_ok=True)
    path = at + "/shared"
    with open(path, "wb") as f:
        f.truncate(pages * 4096)
    r, w = os.pipe()
    reader = s.spawn(lambda: (os.close(w), mmap_reader(path, pages, r))[1])
    writer = s.spawn(mmap_writer, path, pages, w)
    os.close(r)
    os.close(w)
    s.check(writer.join(120) == 0 and reader.join(120) == 0, "shared mmap: the reader sees what the writer stores")
    with open(path, "rb") as f:
        s.check(all(f.read(4096) == page(i, 1) for i in range(pages)), "shared mmap: read() sees it after msync")


def work(s, top, src, mid, repo):
    """Everything of the set below `top`; deterministic but for times of the moment, the git index and cargo's target."""
    must(s, "cp -a of 300 MB", f"cp -a {src} {top}/cp")
    os.mkdir(top + "/tar")
    must(s, "tar x", f"tar {TAR} -p -xf {s.scratch}/mid.tar -C {top}/tar")
    r = must(s, "rsync -aHX --checksum", f"rsync -aHX --checksum --numeric-ids {mid}/ {top}/rsync/")
    r = must(s, "rsync again", f"rsync -aHXi --checksum --numeric-ids {mid}/ {top}/rsync/")
    s.check(r.stdout == "", "the second rsync copies nothing", r.stdout[:300])
    head = run_git(s, top + "/git", repo)
    run_cargo(s, top + "/crate")
    for mode in ("wal", "delete"):
        run_sqlite(s, top + "/sqlite", mode, 2000)
    run_mmap(s, top + "/mmap")
    return head


def against_source(s, where, snap, src, mid):
    """The copying programs' results equal their sources in everything, mtimes to the nanosecond."""
    for part, want, drop in (("cp", src, ()), ("rsync", mid, ()), ("tar", mid, (b"attrs/socket",))):
        diffs = compare(want, subtree(snap, part), lambda p, f, d=drop: p in d)
        s.check(not diffs, f"{where}: {part} equals its source", "\n    ".join(diffs))


def volatile(path, field):
    """What two runs of the same work cannot share: times of the moment, git's index and packs, cargo's output."""
    copied = path.split(b"/")[0] in (b"cp", b"tar", b"rsync")
    built = path.startswith((b"crate/target", b"git/clone/.git/index", b"crate/Cargo.lock"))
    built = built or b"/objects/" in path or path.startswith(b"git/clone/.git/logs") or path.endswith(b"info/packs")
    return built or (field == "mtime" and not copied) or (path == b"." and field == "mode")


def sqlite_in(s, backing):
    for mode in ("wal", "delete"):
        db = sqlite3.connect(f"file:{backing}/sqlite/{mode}.db?immutable=1", uri=True)
        n, = db.execute("select count(*) from t").fetchone()
        s.check(n == 2000 and db.execute("pragma integrity_check").fetchone()[0] == "ok", f"backing: sqlite {mode} whole", n)
        db.close()


def main():
    with Suite("programs") as s:
        src, mid, repo = sources(s)
        want_src, want_mid = snapshot(src), snapshot(mid)
        g = s.gateway("gw", "--log-size", "1GiB")
        g.mount()
        t = time.monotonic()
        head = work(s, g.mnt, src, mid, repo)
        s.note(f"on the mount: {time.monotonic() - t:.0f} s")
        seen = snapshot(g.mnt)
        against_source(s, "mount", seen, want_src, want_mid)
        t = time.monotonic()
        r = g.umount("--timeout", "10m", timeout=700)
        if s.check(r.returncode == 0 and not g.mounted(), f"umount returns 0 ({time.monotonic() - t:.1f} s)", r.stderr):
            after_umount(s, g, seen, want_src, want_mid, head, (src, mid, repo))


def after_umount(s, g, seen, want_src, want_mid, head, inputs):
    got = snapshot(g.backing)
    diffs = compare(seen, got)
    s.check(not diffs, f"backing equals what programs saw, mtimes included ({len(got)} entries)", "\n    ".join(diffs))
    against_source(s, "backing", got, want_src, want_mid)
    sqlite_in(s, g.backing)
    s.check(not leftovers(g.backing), "no name of ours in the backing", leftovers(g.backing))
    r = git(g.backing + "/git/clone", "fsck --full --strict --no-progress && git --no-optional-locks status --porcelain")
    s.check(r.returncode == 0 and r.stdout == "", "backing: git fsck and status clean", r.stdout + r.stderr)
    control = s.dir("control")
    t = time.monotonic()
    same_head = work(s, control, *inputs)
    s.note(f"the same on the plain disk: {time.monotonic() - t:.0f} s")
    s.check(head == same_head and len(head) == 41, "git history equals the control's", f"{head} {same_head}")
    diffs = compare(snapshot(control), got, volatile)
    s.check(not diffs, "backing equals the control copy", "\n    ".join(diffs))
    if LONG or os.environ.get("FORELOG_FAKE") != "1":
        g.mount()
        diffs = compare(seen, snapshot(g.mnt))
        s.check(not diffs, "a fresh mount shows the same tree", "\n    ".join(diffs))
        st = g.status()
        s.check(st.get("log", {}).get("dirty_bytes", 0) == 0, "and its log is empty", st.get("log"))
        s.check(g.umount().returncode == 0, "umount of an unchanged mount returns 0")


if __name__ == "__main__":
    main()
