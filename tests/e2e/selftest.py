"""The comparators themselves: change one thing, and each must notice it; change what may differ, and none may complain."""
import os

os.environ["FORELOG_FAKE"] = "1"  # before harness reads it: no gateway is driven here

import random
import shutil
import sqlite3
import stat

import contract
import killer_ops
import maketree
import posix_suite
from harness import Suite, sh
from killer_model import FILE, Model, data
from killer_programs import Copy, Git, Sqlite, note
from tree import compare, snapshot


class Quiet:
    """A suite that only counts, to see what a judge decides."""

    def __init__(self):
        self.failed = 0

    def check(self, ok, *_):
        self.failed += not ok

    def note(self, _):
        pass


def keep_times(path, change):
    """Makes a change and puts the mtime back, so that only the change can be noticed."""
    ns = os.lstat(path).st_mtime_ns
    change()
    os.utime(path, ns=(ns, ns), follow_symlinks=False)


def poke(path, at, b):
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b, at)
    os.close(fd)


def relink(path, target):
    os.unlink(path)
    os.symlink(target, path)


def unshare(path):
    shutil.copy2(path, path + ".x")
    os.rename(path + ".x", path)


MUTATIONS = (
    ("a byte", "links/empty", lambda p: poke(p, 0, b"!")),
    ("a byte within a hole", "holes/all", lambda p: poke(p, 5 << 20, b"\1")),
    ("the last byte of a big file", "big/b0", lambda p: poke(p, os.path.getsize(p) - 1, b"\0\1")),
    ("the size", "holes/all", lambda p: os.truncate(p, (10 << 20) + 1)),
    ("the mode", "links/one", lambda p: os.chmod(p, 0o640)),
    ("a set-id bit", "attrs/mode4755", lambda p: os.chmod(p, 0o755)),
    ("the owner", "attrs/owner0", lambda p: os.chown(p, 1235, 4321)),
    ("a symlink's owner", "attrs/lowner0", lambda p: os.lchown(p, 1234, 4322)),
    ("the mtime by 1 ns", "times/t3", lambda p: os.utime(p, ns=(0, os.stat(p).st_mtime_ns + 1))),
    ("a symlink's target", "links/rel", lambda p: relink(p, "two")),
    ("a hard link", "links/two", unshare),
    ("an xattr's value", "attrs/x", lambda p: os.setxattr(p, "user.binary", b"other")),
    ("an xattr less", "attrs/x", lambda p: os.removexattr(p, "user.empty")),
    ("an xattr of a directory", "attrs/xdir", lambda p: os.setxattr(p, "user.dir2", b"")),
    ("a file less", "small/00/0/f00000", os.unlink),
    ("a file more", "small/extra", lambda p: open(p, "wb").close()),
    ("a type", "attrs/fifo", lambda p: (os.unlink(p), open(p, "wb").close())),
    ("a device number", "attrs/null", lambda p: (os.unlink(p), os.mknod(p, stat.S_IFCHR | 0o666, os.makedev(1, 5)))),
    ("an odd name", "odd/ leading", lambda p: os.rename(p, p + " ")),
)


def trees(s):
    src = s.scratch + "/src"
    maketree.make(src, seed=2, mib=6, small=60)
    want = snapshot(src)
    for what, path, change in MUTATIONS:
        copy = s.scratch + "/copy"
        sh(["cp", "-a", src, copy])
        if what == MUTATIONS[0][0]:
            s.check(not compare(want, snapshot(copy)), "a true copy is equal", compare(want, snapshot(copy)))
        full = os.path.join(copy, path)
        parent = os.path.dirname(full)
        keep_times(parent, (lambda f=full, c=change: keep_times(f, lambda: c(f)))
                   if os.path.lexists(full) and what not in ("a file less", "an odd name", "the mtime by 1 ns") else (lambda f=full, c=change: c(f)))
        s.check(compare(want, snapshot(copy)), f"the tree comparison notices {what}")
        shutil.rmtree(copy)


def grown(s, name, seed, count=400):
    """A directory and its model after `count` random operations."""
    root, rng = s.dir(name), random.Random(seed)
    model, hands = Model(), killer_ops.Hands(root, 0, rng, lambda _: None)
    old = os.umask(0)
    for serial in range(1, count + 1):
        op = killer_ops.pick(model, rng, serial)
        hands.do(model, op)
        model.apply(op)
    os.umask(old)
    return root, model, rng


def models(s):
    for seed in range(3):
        root, model, rng = grown(s, f"m{seed}", seed)
        s.check(not model.diffs(root), f"the model equals the directory after 400 operations (seed {seed})", model.diffs(root)[:3])
    files = [p for p in model.of(FILE) if len(model.names[p].data) > 9000]
    p = os.path.join(root, files[0])
    hidden = model.names[files[0]]
    with open(p, "rb") as f:
        good = f.read()

    def notices(what, change, undo):
        change()
        s.check(model.diffs(root), f"the model notices {what}")
        undo()

    def write(b):
        with open(p, "r+b") as f:
            f.write(b)
            f.truncate(len(b))
        if hidden.mtime is not None:
            os.utime(p, ns=(hidden.mtime, hidden.mtime))
    notices("a flipped byte", lambda: write(good[:50] + bytes([good[50] ^ 1]) + good[51:]), lambda: write(good))
    notices("a lost tail", lambda: write(good[:-1]), lambda: write(good))
    notices("a file too many", lambda: open(root + "/stranger", "wb").close(), lambda: os.unlink(root + "/stranger"))
    notices("a file gone", lambda: os.rename(p, root + "/../aside"), lambda: os.rename(root + "/../aside", p))
    notices("a mode", lambda: os.chmod(p, hidden.mode ^ 1), lambda: os.chmod(p, hidden.mode))
    notices("an xattr", lambda: os.setxattr(p, "user.z9", b""), lambda: os.removexattr(p, "user.z9"))
    notices("a link too many", lambda: os.link(p, root + "/../aside"), lambda: os.unlink(root + "/../aside"))
    s.check(not model.diffs(root), "and nothing once it is put back", model.diffs(root)[:3])


def in_flight(s):
    """Of the operation in flight nothing or all; of a write a prefix up to a page; never another byte."""
    root = s.dir("flight")
    model = Model()
    for op in ({"op": "create", "p": "f", "mode": 0o644}, {"op": "create", "p": "g", "mode": 0o644}):
        model.apply(op)
    for n in "fg":
        open(f"{root}/{n}", "wb").close()
        os.chmod(f"{root}/{n}", 0o644)
    op = {"op": "write", "p": "f", "off": 100, "len": 10000, "seed": 1}
    new = bytes(100) + data(op)

    def after(content, op=op):
        with open(root + "/f", "wb") as f:
            f.write(content)
        return bool(model.clone().settle(root, dict(op)))
    for what, content, wrong in (("nothing of it", b"", False), ("all of it", new, False), ("its first pages", new[:8192], False),
                                 ("a cut within a page", new[:5000], True), ("another byte", new[:8191] + b"\0" + b"", True),
                                 ("too much", new + b"x", True)):
        s.check(after(content) == wrong, f"a write in flight may{' not' if wrong else ''} leave {what}")
    s.check(after(b"", {**op, "part": 8092}) and not after(new[:8192], {**op, "part": 8092}), "what a short write acknowledged must be there")
    with open(root + "/f", "wb"):
        pass
    op = {"op": "rename", "p": "f", "q": "g"}
    s.check(not model.clone().settle(root, op), "a rename in flight may not have happened")
    os.rename(root + "/f", root + "/g")
    m = model.clone()
    s.check(not m.settle(root, op) and "f" not in m.names, "or have happened")
    open(root + "/f", "wb").close()
    os.unlink(root + "/g")
    s.check(model.clone().settle(root, op), "but not have lost the file it replaced")


def appends(s):
    log, recs = s.scratch + "/slog", [killer_ops.slog_record(w, n) for n in (1, 2) for w in (0, 1)]

    def seen(raw):
        with open(log, "wb") as f:
            f.write(raw)
        try:
            return killer_ops.read_slog(log)
        except AssertionError:
            return None
    s.check(seen(b"".join(recs)) == {0: [1, 2], 1: [1, 2]}, "the shared log reads back")
    s.check(seen(b"".join(recs)[:-1]) is None and seen(recs[0] + bytes(len(recs[0]))) is None, "a torn or foreign record is noticed")


def programs(s):
    top = s.dir("programs")
    for p, change in ((Sqlite("wal", s.scratch + "/j-wal"), lose_row), (Copy(s.scratch, s.scratch + "/j-copy"), lose_byte),
                      (Git(s.scratch + "/j-git"), lose_commit)):
        at = os.path.join(top, p.top)
        p.begin(at)
        log = os.open(p.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for n in (1, 2):
            note(log, f"begin {n}")
            p.step(at, n)
            note(log, f"done {n}")
        p.db = None
        s.check(not p.verify(top), f"{p.top}: what was done is found", p.verify(top))
        change(at)
        s.check(p.verify(top), f"{p.top}: a loss is noticed")


def lose_row(at):
    db = sqlite3.connect(at + "/t.db")
    db.execute("delete from t where id = 2")
    db.commit()
    db.close()


def lose_byte(at):
    keep_times(at + "/2/links/one", lambda: poke(at + "/2/links/one", 7, b"?"))


def lose_commit(at):
    sh("git reset -q --hard HEAD~1", cwd=at)


def judges(s):
    for what, result, expected, wrong in (
            ("an unexpected failure", {"a::b": "FAILED"}, {}, 1), ("a listed failure", {"a::b": "FAILED"}, {"a::b": "why"}, 0),
            ("a failure without cause", {"a::b": "FAILED"}, {"a::b": ""}, 1), ("a listed test that passes", {"a::b": "ok"}, {"a::b": "why"}, 1),
            ("too many skipped, none of them named in the docs", {f"a::{i}": "skipped" for i in range(16)}, {}, 2)):
        q = Quiet()
        posix_suite.judge(q, result, {}, expected)
        s.check(q.failed == wrong, f"pjdfstest: {what} {'fails' if wrong else 'passes'}")
    text = "\x1b[34ma::b\x1b[0m   \x1b[31mFAILED\x1b[0m\n\tassertion left == right\n\x1b[34mc::d\x1b[0m ok\n"
    s.check(posix_suite.parse(text) == ({"a::b": "FAILED", "c::d": "ok"}, {"a::b": "assertion left == right"}), "pjdfstest's output is read")
    for what, line, excused, wrong in (("a shortfall", "FAIL --help names top", {}, 1), ("an excused one", "FAIL --help names top", {"top": "later"}, 0),
                                       ("an excuse no longer needed", "ok   --help names top", {"top": "later"}, 1)):
        q = Quiet()
        contract.judge(q, line, excused)
        s.check(q.failed == wrong, f"contract: {what} {'fails' if wrong else 'passes'}")


def patches(s):
    """What `mount-scripts/broken` breaks on purpose: a patch that no longer fits shows nothing."""
    root = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
    for p in sorted(os.listdir(f"{root}/tests/broken")):
        if p.endswith(".patch"):
            r = sh(["git", "apply", "--check", f"tests/broken/{p}"], 20, cwd=root)
            s.check(r.returncode == 0, f"{p} fits the code", r.stderr)


def main():
    with Suite("selftest") as s:
        for step in (trees, models, in_flight, appends, programs, judges, patches):
            step(s)


if __name__ == "__main__":
    main()
