"""Programs that lean hard on a filesystem, each on a mount whose writeback is always busy: databases, builds, package managers,
archivers, editors, and what a process may do with files that moved under it.

apps.py [--long] [--part NAME]...
"""
import fcntl
import filecmp
import mmap
import os
import shutil
import sqlite3
import stat
import sys
import tempfile
import time

from apps_postgres import postgres
from harness import FAKE, LONG, Suite, sh, wait_until
from programs import git, must

SOURCES = 60 if LONG else 24


def put(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def get(path):
    with open(path) as f:
        return f.read()


# ---- SQLite

def bank(path, mode, writer, n):
    """`n` transfers between accounts, each in a transaction; busy locks are waited for."""
    db = sqlite3.connect(path, timeout=120, isolation_level=None)
    db.execute(f"pragma journal_mode={mode}")
    for i in range(n):
        db.execute("begin immediate")
        a, b = (writer * 7 + i) % 50, (writer * 13 + i * 3 + 1) % 50
        db.execute("update account set sum = sum - 1 where id = ?", (a,))
        db.execute("update account set sum = sum + 1 where id = ?", (b,))
        db.execute("insert into log(writer, n) values (?, ?)", (writer, i))
        db.execute("commit")
    db.close()


def sqlite(s, g, at):
    for mode in ("wal", "delete"):
        path, n, writers = f"{at}/{mode}.db", 200 if LONG else 60, 6
        db = sqlite3.connect(path, isolation_level=None)
        db.execute(f"pragma journal_mode={mode}")
        db.execute("create table account(id integer primary key, sum int)")
        db.execute("create table log(writer int, n int)")
        db.executemany("insert into account values (?, 1000)", [(i,) for i in range(50)])
        kids = [s.spawn(bank, path, mode, k, n) for k in range(writers)]
        codes = [k.join(300) for k in kids]
        s.check(codes == [0] * writers, f"SQLite {mode}: {writers} processes, {n} transactions each", codes)
        got = db.execute("select count(*), (select sum(sum) from account) from log").fetchone()
        s.check(got == (n * writers, 50_000), f"SQLite {mode}: every transaction is there, the books balance", got)
        copy = sqlite3.connect(path + ".backup")
        db.backup(copy)
        db.execute("delete from log where n % 2")
        db.execute("vacuum")
        for name, d, rows in (("after vacuum", db, n * writers // 2), ("the backup", copy, n * writers)):
            ok = d.execute("pragma integrity_check").fetchone()[0], d.execute("select count(*) from log").fetchone()[0]
            s.check(ok == ("ok", rows), f"SQLite {mode}: {name} is whole", ok)
            d.close()


# ---- git, builds

def repositories(s, g, at):
    src = s.dir("git-src")
    for c in range(8):
        for i in range(20):
            put(f"{src}/d{i % 4}/f{i}.txt", f"{c} {i}\n" * (50 + c))
        git(src, ("init -q -b main . && " if c == 0 else "") + f"git add -A && git commit -q -m c{c}", c)
    for what, cwd, cmd in (
        ("clone", at, f"clone -q --no-hardlinks {src} one"),
        ("worktree add", at + "/one", "worktree add -q ../two -b two"),
        ("commit there", at + "/two", "commit -q --allow-empty -m two && echo x > d0/x && git add -A && git commit -q -m x"),
        ("commit here", at + "/one", "commit -q --allow-empty -m one && echo y > d1/y && git add -A && git commit -q -m y"),
        ("rebase", at + "/two", "rebase -q main"), ("stash", at + "/two", "stash -q || true"),
        ("worktree remove", at + "/one", "worktree remove ../two"), ("repack", at + "/one", "repack -q -a -d -f"),
        ("gc", at + "/one", "gc -q --prune=now"), ("fsck", at + "/one", "fsck --full --strict --no-progress"),
        ("log", at + "/one", "log --oneline two | grep -q ' x$'"),
    ):
        r = git(cwd, cmd)
        s.check(r.returncode == 0, f"git {what}", r.stdout + r.stderr)
    put(at + "/one/.git/index.lock", "")
    r = git(at + "/one", "add -A")
    s.check(r.returncode != 0 and "index.lock" in r.stderr, "git respects a lock file", r.stderr)
    os.unlink(at + "/one/.git/index.lock")
    s.check(git(at + "/one", "status --porcelain").stdout == "", "git status is clean")


def builds(s, g, at):
    put(at + "/c/Makefile", "SRC := $(wildcard *.c)\nall: app\napp: $(SRC:.c=.o)\n\tgcc -o $@ $^\n%.o: %.c all.h\n\tgcc -O1 -c -o $@ $<\n")
    calls = "".join(f"int f{i}(int);" for i in range(SOURCES))
    put(at + "/c/all.h", calls + "\n")
    for i in range(SOURCES):
        put(f"{at}/c/f{i}.c", f'#include "all.h"\nint f{i}(int x) {{ return x + {i}; }}\n')
    put(at + "/c/main.c", '#include "all.h"\n#include <stdio.h>\nint main(void) { int n = 0; '
        + " ".join(f"n = f{i}(n);" for i in range(SOURCES)) + ' printf("%d\\n", n); return 0; }\n')
    must(s, "make -j8", "make -s -j8", cwd=at + "/c")
    r = must(s, "the program runs", at + "/c/app")
    s.check(r.stdout == f"{sum(range(SOURCES))}\n", "and is right", r.stdout)
    r = must(s, "make again", "make -j8", cwd=at + "/c")
    s.check("Nothing to be done" in r.stdout, "has nothing to do", r.stdout)
    os.utime(at + "/c/all.h")
    r = must(s, "make after a touch", "make -j8", cwd=at + "/c")
    s.check(r.stdout.count("gcc -O1") == SOURCES + 1, "builds all of it", r.stdout.count("gcc -O1"))


# ---- copying and archives

def rsync(s, g, at):
    src = s.dir("rsync-src")
    put(src + "/a", "a" * 300_000)
    put(src + "/d/b", "b")
    os.link(src + "/a", src + "/d/hard")
    os.symlink("../a", src + "/d/soft")
    with open(src + "/sparse", "wb") as f:
        f.truncate(64 << 20)
        f.seek(32 << 20)
        f.write(b"middle")
    must(s, "rsync -aHAX --sparse", f"rsync -aHAX --sparse {src}/ {at}/")
    st = os.stat(at + "/sparse")
    s.check(st.st_size == 64 << 20 and st.st_blocks * 512 < 1 << 20, "a sparse file stays sparse", (st.st_size, st.st_blocks))
    s.check(os.stat(at + "/a").st_ino == os.stat(at + "/d/hard").st_ino, "hard links stay hard links")
    with open(src + "/a", "r+") as f:
        f.seek(1000)
        f.write("changed")
    ino = os.stat(at + "/a").st_ino
    must(s, "rsync --inplace", f"rsync -aHAXI --inplace --no-whole-file {src}/ {at}/")
    s.check(os.stat(at + "/a").st_ino == ino and filecmp.cmp(src + "/a", at + "/a", False), "writes into the same file")
    r = must(s, "rsync -n --checksum", f"rsync -aHAXn --checksum -i {src}/ {at}/")
    s.check(r.stdout.strip() == "", "finds no difference", r.stdout)
    must(s, "rsync --delete --backup", f"rm {src}/d/b && rsync -aH --delete --backup --suffix=.old {src}/ {at}/")
    s.check(os.path.exists(at + "/d/b.old") and not os.path.exists(at + "/d/b"), "keeps a backup")


def archives(s, g, at):
    src = s.dir("tar-src")
    for i in range(120):
        put(f"{src}/d{i % 7}/f{i}", f"{i}\n" * i)
        os.chmod(f"{src}/d{i % 7}/f{i}", 0o600 + i % 0o77)
        os.chown(f"{src}/d{i % 7}/f{i}", 1000 + i % 3, 2000 + i % 5)
    os.symlink("d1", src + "/link")
    os.mkfifo(src + "/fifo")
    sh(f"tar -C {src} -cf {s.scratch}/a.tar . && cd {src} && find . | cpio -o -H newc > {s.scratch}/a.cpio 2>/dev/null")
    owner = lambda top: [(n, os.lstat(f"{d}/{n}")[:1] + os.lstat(f"{d}/{n}")[4:6]) for d, _, fs in os.walk(top) for n in sorted(fs)]
    for name, cmd in (("tar", f"tar -C {{}} -xpf {s.scratch}/a.tar"), ("cpio", f"cd {{}} && cpio -idm --quiet < {s.scratch}/a.cpio")):
        to = f"{at}/{name}"
        os.mkdir(to)
        must(s, f"{name} as root", cmd.format(to))
        same = sorted(owner(to)) == sorted(owner(src))
        s.check(same, f"{name}: owners and modes are kept")
        r = sh(f"diff -r --no-dereference -x fifo {src} {to}")
        s.check(r.returncode == 0, f"{name}: the content is", r.stdout[:300])
        to = f"{at}/{name}-user"
        os.mkdir(to)
        os.chown(to, 65534, 65534)
        inner = cmd.format(to).replace("-xpf", "-xf")
        must(s, f"{name} as another user", ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", f"umask 022; {inner}"])
        s.check({os.lstat(f"{d}/{n}").st_uid for d, _, fs in os.walk(to) for n in fs} == {65534}, f"{name}: then all is that user's")
    a = os.path.getsize(f"{s.scratch}/a.tar")
    must(s, "cp --reflink=auto", f"cp --reflink=auto {s.scratch}/a.tar {at}/copy && cp --reflink=auto {at}/copy {at}/copy2")
    s.check(os.path.getsize(at + "/copy2") == a and filecmp.cmp(f"{s.scratch}/a.tar", at + "/copy2", False), "copies all of it")
    r = sh(f"cp --reflink=always {at}/copy {at}/copy3")
    s.check(r.returncode != 0 and "not supported" in r.stderr.lower(), "cp --reflink=always is refused clearly", r.stderr)


# ---- editors, Python, package managers

def editors(s, g, at):
    put(at + "/text", "one\n")
    os.chmod(at + "/text", 0o640)
    os.chown(at + "/text", 1000, 1000)
    old = os.stat(at + "/text")
    for how in ("yes", "no", "auto"):
        r = sh(["vim", "-u", "NONE", "-N", "-es", "-c", f"set backup backupcopy={how} backupdir=. writebackup", "-c", "normal Gotwo",
                "-c", "wq", at + "/text"], 60, cwd=at, env={**os.environ, "TERM": "dumb"})
        s.check(r.returncode == 0 and get(at + "/text").endswith("two\n"), f"vim writes, backupcopy={how}", r.stderr)
    st = os.stat(at + "/text")
    s.check((st.st_mode, st.st_uid, st.st_gid) == (old.st_mode, old.st_uid, old.st_gid), "mode and owner survive", st)
    s.check(get(at + "/text") == "one\ntwo\ntwo\ntwo\n" and get(at + "/text~") == "one\ntwo\ntwo\n", "text and backup are right")
    put(at + "/saved.tmp", "new")
    with open(at + "/saved.tmp") as f:
        os.fsync(f.fileno())
    put(at + "/saved", "old")
    os.link(at + "/saved", at + "/saved.bak")
    os.rename(at + "/saved.tmp", at + "/saved")
    s.check((get(at + "/saved"), get(at + "/saved.bak")) == ("new", "old"), "write aside, back up, rename over")


def python(s, g, at):
    with tempfile.TemporaryFile(dir=at) as f:
        f.write(b"x" * 100_000)
        f.flush()
        s.check(os.fstat(f.fileno()).st_size == 100_000, "tempfile.TemporaryFile")
    with tempfile.NamedTemporaryFile(dir=at) as f:
        f.write(b"named")
        f.flush()
        s.check(open(f.name, "rb").read() == b"named", "tempfile.NamedTemporaryFile")
    with tempfile.TemporaryDirectory(dir=at) as d:
        put(d + "/deep/er/f", "x")
    s.check(os.listdir(at) == [], "all of it is gone", os.listdir(at))
    with open(at + "/map", "w+b") as f:
        f.truncate(1 << 20)
        with mmap.mmap(f.fileno(), 1 << 20) as m:
            m[5000:5005] = b"hello"
            m.flush()
            f.seek(5000)
            s.check(f.read(5) == b"hello", "read sees a shared map")
            os.pwrite(f.fileno(), b"world", 6000)
            s.check(m[6000:6005] == b"world", "a shared map sees a write")
            m.resize(2 << 20)
            m[(2 << 20) - 1] = 7
        s.check(os.fstat(f.fileno()).st_size == 2 << 20, "mmap.resize")
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY) as m:
            m[0:3] = b"cow"
        f.seek(0)
        s.check(f.read(3) == b"\0\0\0", "a private map writes nothing")
    must(s, "python -m venv", [sys.executable, "-m", "venv", "--without-pip", at + "/venv"])
    must(s, "its python runs", [at + "/venv/bin/python", "-c", "import sys; assert sys.prefix != sys.base_prefix"])
    must(s, "compileall -j2", [sys.executable, "-m", "compileall", "-q", "-j", "2", at + "/venv"])
    shutil.copytree(at + "/venv", at + "/copy", symlinks=True)
    shutil.rmtree(at + "/copy")
    s.check(not os.path.exists(at + "/copy"), "shutil.copytree and rmtree")


def packages(s, g, at):
    if shutil.which("npm"):
        put(at + "/npm/package.json", '{"name": "t", "version": "1.0.0", "dependencies": {"express": "4.19.2"}}')
        env = {"HOME": at, "npm_config_cache": at + "/npm-cache", "npm_config_update_notifier": "false"}
        r = must(s, "npm install", "npm install --no-audit --no-fund", env, at + "/npm")
        if r.returncode == 0:
            r = sh(["node", "-e", "require('express'); console.log('ok')"], 60, cwd=at + "/npm")
            s.check(r.stdout == "ok\n", "node loads it", r.stderr)
            must(s, "npm ci", "npm ci --no-audit --no-fund", env, at + "/npm")
    else:
        s.note("no npm here")
    os.makedirs(at + "/apt")
    r = must(s, "apt-get download", "apt-get -o APT::Sandbox::User=root download hello", cwd=at + "/apt")
    for deb in os.listdir(at + "/apt"):
        must(s, "dpkg -x", f"dpkg -x apt/{deb} root", cwd=at)
        s.check(sh([at + "/root/usr/bin/hello"]).returncode == 0, "and it runs from there")


def overlay(s, g, at):
    """Docker's overlay2 asks for xattrs, whiteouts and RENAME_WHITEOUT in the upper directory."""
    low, mnt = s.dir("overlay-low"), s.dir("overlay")
    put(low + "/d/f", "low")
    put(low + "/gone", "low")
    for d in ("upper", "work"):
        os.mkdir(f"{at}/{d}")
    r = sh(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={low},upperdir={at}/upper,workdir={at}/work", mnt])
    if not s.check(r.returncode == 0, "an overlay's upper directory", r.stderr):
        return
    s.undo.append(lambda: sh(["umount", mnt]))
    put(mnt + "/d/f", "up")
    os.unlink(mnt + "/gone")
    os.rename(mnt + "/d/f", mnt + "/d/g")
    put(mnt + "/gone", "again")
    os.mkdir(mnt + "/new")
    s.check((get(mnt + "/d/g"), get(mnt + "/gone"), sorted(os.listdir(mnt + "/d"))) == ("up", "again", ["g"]), "overlay: copied up, replaced, renamed")
    os.unlink(mnt + "/d/g")
    os.unlink(mnt + "/gone")
    st = os.lstat(at + "/upper/gone")
    s.check(stat.S_ISCHR(st.st_mode) and st.st_rdev == 0 and sorted(os.listdir(mnt)) == ["d", "new"], "overlay: a whiteout is where a name was", st)
    s.check(sh(["umount", mnt]).returncode == 0 and get(low + "/d/f") == "low", "overlay: the lower tree is untouched")


# ---- what moved under a process

def moved(s, g, at):
    os.makedirs(at + "/cwd/in")
    r = sh(f"cd {at}/cwd/in && rm -r {at}/cwd && ls -la . ; pwd -P; touch x 2>/dev/null && echo made; cd .. 2>/dev/null && ls")
    s.check("made" not in r.stdout, "nothing can be made in a removed directory", r.stdout + r.stderr)
    put(at + "/p/q/file", "before")
    with open(at + "/p/q/file", "r+") as f:
        os.rename(at + "/p/q/file", at + "/p/q/other")
        os.rename(at + "/p", at + "/r")
        f.write("AFTER!")
        f.flush()
        s.check(get(at + "/r/q/other") == "AFTER!", "an open file is written through renames of it and its directory")
        os.unlink(at + "/r/q/other")
        shutil.rmtree(at + "/r")
        f.seek(0)
        s.check(f.read() == "AFTER!" and os.fstat(f.fileno()).st_nlink == 0, "and lives on without a name")
        f.write("more")
        f.truncate(3)
        f.flush()
        os.fsync(f.fileno())
        f.seek(0)
        s.check(f.read() == "AFT", "and is written, cut and synced")
    locks(s, at)
    t = time.monotonic()
    put(at + "/rr/f", "x")
    with open(at + "/rr/f") as f:
        g.flush()
        s.check(FAKE or f.read() == "x", f"a flush with files open ({time.monotonic() - t:.1f} s)")


def hold(path, kind):
    with open(path, "r+") as f:
        (fcntl.flock if kind == "flock" else fcntl.lockf)(f, fcntl.LOCK_EX)
        put(path + ".held", "")
        time.sleep(30)


def locks(s, at):
    for kind in ("flock", "lockf"):
        path = f"{at}/{kind}"
        put(path, "x")
        kid = s.spawn(hold, path, kind)
        wait_until(lambda: os.path.exists(path + ".held"), 20)
        with open(path, "r+") as f:
            call = fcntl.flock if kind == "flock" else fcntl.lockf
            try:
                call(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                s.check(False, f"{kind} excludes others")
            except BlockingIOError:
                s.check(True, f"{kind} excludes others")
            kid.kill()
            try:
                call(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                s.check(True, f"{kind} ends with its process")
            except BlockingIOError:
                s.check(False, f"{kind} ends with its process")


PARTS = (postgres, sqlite, repositories, builds, rsync, archives, editors, python, packages, overlay, moved)


def main():
    only = [sys.argv[i + 1] for i, a in enumerate(sys.argv) if a == "--part"]
    with Suite("apps") as s:
        g = s.gateway("gw", "--log-size", "512MiB", "--writeback-age", "500ms", "-o", "allow_other")
        os.chmod(g.backing, 0o755)
        g.mount()
        for fn in PARTS:
            if only and fn.__name__ not in only:
                continue
            at = g.path(fn.__name__)
            os.mkdir(at)
            os.chmod(at, 0o755)
            fn(s, g, at)
        r = g.umount("--timeout", "5m", timeout=400)
        s.check(r.returncode == 0, "umount returns 0", r.stderr)


if __name__ == "__main__":
    main()
