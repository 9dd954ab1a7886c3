"""What a directory must hold after a list of operations: the model that a recovered tree is checked against.

A model belongs to one worker and one directory, so its order is known exactly. Operations are small dicts (JSON in the
journal); data comes from a seed, so a journal line is short. Of the operation in flight when the gateway died, either
nothing or all may be there; of a write in flight a prefix that ends on a page (the kernel splits a write there), and of
unsynced stores through a mapping any byte may be old or new.
"""
import copy
import os
import random
import stat

PAGE = 4096
FILE, DIR, LINK = "file", "dir", "symlink"
WRITES = ("write", "append", "mmap")


def data(op):
    return random.Random(op["seed"]).randbytes(op["len"])


class Node:
    def __init__(self, kind, mode, target=None):
        self.kind, self.mode, self.target = kind, mode, target
        self.uid = self.gid = 0
        self.mtime = None  # None: not known, so not checked
        self.data = bytearray()
        self.xattrs = {}


class Model:
    """`names` maps a path below the worker's directory to its node; hard links share one."""

    def __init__(self):
        self.names = {}

    def clone(self):
        return copy.deepcopy(self)

    def of(self, kind):
        return [p for p, n in self.names.items() if n.kind == kind]

    def apply(self, op):
        """Changes the model as the operation changes a real directory."""
        k, p = op["op"], op.get("p")
        n = self.names.get(p)
        if k == "create":
            self.names[p] = Node(FILE, op["mode"])
        elif k == "mkdir":
            self.names[p] = Node(DIR, op["mode"])
        elif k == "symlink":
            self.names[p] = Node(LINK, 0o777, op["target"])
        elif k in ("unlink", "rmdir"):
            del self.names[p]
        elif k == "link":
            self.names[op["q"]] = n
        elif k == "rename":
            self.rename(p, op["q"])
        elif k in WRITES:
            self.overlay(n, op["off"], data(op))
        elif k == "truncate":
            n.data = n.data[:op["len"]] + bytes(max(0, op["len"] - len(n.data)))
            n.mtime = None
        elif k == "punch":
            end = min(len(n.data), op["off"] + op["len"])
            n.data[op["off"]:end] = bytes(max(0, end - op["off"]))
            n.mtime = None
        elif k == "chmod":
            n.mode = op["mode"]
        elif k == "chown":
            n.uid, n.gid = op["uid"], op["gid"]
        elif k == "utime":
            n.mtime = op["ns"]
        elif k == "setxattr":
            n.xattrs[op["k"]] = data(op)
        elif k == "rmxattr":
            n.xattrs.pop(op["k"])

    @staticmethod
    def overlay(n, off, b):
        n.data.extend(bytes(max(0, off + len(b) - len(n.data))))
        n.data[off:off + len(b)] = b
        n.mtime = None

    def rename(self, p, q):
        if self.names[p] is self.names.get(q):
            return  # POSIX: two links to one file, nothing happens
        moved = [(x, n) for x, n in self.names.items() if x == p or x.startswith(p + "/")]
        for x, _ in moved:
            del self.names[x]
        for x, n in moved:
            self.names[q + x[len(p):]] = n

    # ---- checking

    def diffs(self, root, loose=None):
        """Differences between the model and the directory `root`; `loose` is an op whose file's bytes may be halfway."""
        out, found, inodes = [], walk(root), {}
        loose_node = self.names.get(loose["p"]) if loose else None
        out += [f"{p}: missing" for p in self.names.keys() - found.keys()]
        out += [f"{p}: not expected" for p in found.keys() - self.names.keys()]
        for p in sorted(self.names.keys() & found.keys()):
            n, st = self.names[p], found[p]
            out += [f"{p}: {d}" for d in node_diffs(n, os.path.join(root, p), st, loose if n is loose_node else None)]
            if n.kind != DIR:
                inodes.setdefault(id(n), set()).add(st.st_ino)
                links = sum(1 for m in self.names.values() if m is n)
                if st.st_nlink != links:
                    out.append(f"{p}: link count {st.st_nlink}, should be {links}")
        if any(len(v) > 1 for v in inodes.values()):
            out.append("names of one file point to different inodes")
        return out

    def settle(self, root, op):
        """Called with the operation in flight at the kill: takes over what happened, or says what is wrong."""
        before = self.diffs(root)
        part = bool(op and op.get("part"))  # some of its bytes were acknowledged
        if (not before and not part) or op is None or op["op"] in ("fsync", "fsyncdir", "read", "slog"):
            return before
        if op["op"] in WRITES:
            loose = self.diffs(root, op)
            if not loose:
                n = self.names[op["p"]]
                with open(os.path.join(root, op["p"]), "rb") as f:
                    n.data = bytearray(f.read())
                n.mtime = None
            return loose
        after = self.clone()
        after.apply(op)
        wrong = after.diffs(root)
        if not wrong:
            self.names = after.names
            return []
        return [f"neither before nor after {op}"] + ["not before: " + d for d in before[:4]] + ["not after: " + d for d in wrong[:4]]


def walk(root):
    found, stack = {}, [""]
    while stack:
        top = stack.pop()
        with os.scandir(os.path.join(root, top)) as it:
            for e in it:
                p = os.path.join(top, e.name)
                found[p] = st = os.lstat(os.path.join(root, p))
                if stat.S_ISDIR(st.st_mode):
                    stack.append(p)
    return found


def node_diffs(n, path, st, loose):
    kind = {stat.S_IFREG: FILE, stat.S_IFDIR: DIR, stat.S_IFLNK: LINK}.get(stat.S_IFMT(st.st_mode), "other")
    if kind != n.kind:
        yield f"is a {kind}, should be a {n.kind}"
        return
    if kind == LINK:
        if os.readlink(path) != n.target:
            yield f"target {os.readlink(path)!r}, should be {n.target!r}"
        return
    if stat.S_IMODE(st.st_mode) != n.mode:
        yield f"mode {stat.S_IMODE(st.st_mode):o}, should be {n.mode:o}"
    if (st.st_uid, st.st_gid) != (n.uid, n.gid) and os.geteuid() == 0:
        yield f"owner {st.st_uid}:{st.st_gid}, should be {n.uid}:{n.gid}"
    if kind == DIR:
        return
    if n.mtime is not None and not loose and st.st_mtime_ns != n.mtime:
        yield f"mtime {st.st_mtime_ns}, should be {n.mtime}"
    got_x = {k: os.getxattr(path, k) for k in os.listxattr(path) if k.startswith("user.")}
    if got_x != n.xattrs:
        yield f"xattrs {sorted(got_x)}, should be {sorted(n.xattrs)} (or a value differs)"
    with open(path, "rb") as f:
        got = f.read()
    if not halfway(bytes(n.data), got, loose) if loose else got != n.data:
        at = next((i for i, (a, b) in enumerate(zip(got, n.data)) if a != b), min(len(got), len(n.data)))
        yield f"{len(got)} bytes, should be {len(n.data)}; first difference at {at}"


def halfway(old, got, op):
    """May `got` be what an unfinished `op` left of `old`?"""
    off, new = op["off"], data(op)
    if op["op"] == "mmap":
        head, mid, tail = got[:off], got[off:off + len(new)], got[off + len(new):]
        return (len(got) == len(old) and head == old[:off] and tail == old[off + len(new):]
                and all(g in (o, b) for g, o, b in zip(mid, old[off:], new)))
    least = op.get("part", 0)
    cuts = {least, len(new)} | {c - off for c in range(off // PAGE * PAGE, off + len(new), PAGE) if c > off}
    for k in sorted(c for c in cuts if c >= least):
        want = old
        if k:
            want = old.ljust(off, b"\0")
            want = want[:off] + new[:k] + want[off + k:]
        if got == want:
            return True
    return False
