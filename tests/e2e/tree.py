"""A whole tree as a value, and the differences between two of them.

Compared: type, mode, owner, group, size, content as read (holes are zeros), mtime in ns, symlink target, device number,
link count, hard-link groups and xattrs. Not compared: allocated blocks, atime, ctime, directory sizes and link counts.
"""
import hashlib
import os
import stat

CHUNK = 1 << 20


def digest(path):
    h = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as f:
        while block := f.read(CHUNK):
            h.update(block)
    return h.hexdigest()


def xattrs(path):
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as e:
        if e.errno in (95, 38):  # no xattrs here at all
            return {}
        raise
    return {n: os.getxattr(path, n, follow_symlinks=False) for n in names if n != "security.selinux"}


def entry(path, st, name):
    kind = stat.S_IFMT(st.st_mode)
    e = {"type": kind, "mode": stat.S_IMODE(st.st_mode), "uid": st.st_uid, "gid": st.st_gid,
         "mtime": st.st_mtime_ns, "xattrs": xattrs(path)}
    if kind == stat.S_IFLNK:
        e["target"] = os.readlink(path)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        e["rdev"] = st.st_rdev
    if kind != stat.S_IFDIR:
        e["nlink"] = st.st_nlink
        e["group"] = name
    if kind == stat.S_IFREG:
        e["size"] = st.st_size
    return e


def snapshot(root, skip=(b".forelog",), content=True):
    """{relative path: entry}, with the root as b'.'; names in `skip` are left out at the top only."""
    root, seen, out, stack = os.fsencode(root), {}, {}, [b""]
    out[b"."] = entry(root, os.lstat(root), b".")
    while stack:
        top = stack.pop()
        for name in sorted(os.listdir(os.path.join(root, top) if top else root)):
            if not top and name in skip:
                continue
            rel = os.path.join(top, name) if top else name
            full = os.path.join(root, rel)
            st = os.lstat(full)
            out[rel] = entry(full, st, rel)
            if stat.S_ISDIR(st.st_mode):
                stack.append(rel)
            elif st.st_nlink > 1:
                seen.setdefault((st.st_dev, st.st_ino), []).append(rel)
            if stat.S_ISREG(st.st_mode) and content:
                out[rel]["hash"] = digest(full)
    for names in seen.values():
        for n in names:
            out[n]["group"] = min(names)
    return out


def compare(want, got, ignore=(), most=12):
    """Differences in words, at most `most`; `ignore` is a predicate(path, field) or names of fields."""
    skip = ignore if callable(ignore) else lambda _p, f: f in ignore
    diffs = []
    for p in sorted(want.keys() | got.keys()):
        name = os.fsdecode(p).encode("unicode_escape", "surrogateescape").decode("ascii", "replace")
        if p not in got:
            if not skip(p, "missing"):
                diffs.append(f"{name}: missing")
        elif p not in want:
            if not skip(p, "extra"):
                diffs.append(f"{name}: not expected")
        else:
            a, b = want[p], got[p]
            for f in sorted(a.keys() | b.keys()):
                if a.get(f) != b.get(f) and not skip(p, f):
                    diffs.append(f"{name}: {f} {short(a.get(f))} wanted, {short(b.get(f))} found")
        if len(diffs) > most:
            return diffs + ["..."]
    return diffs


def short(v):
    s = oct(v) if isinstance(v, int) and v < 1 << 20 else str(v)
    return s if len(s) < 120 else s[:117] + "..."


def subtree(snap, top):
    """The part of a snapshot below `top`, with names relative to it."""
    top = os.fsencode(top)
    out = {b".": snap[top]} if top in snap else {}
    for p, e in snap.items():
        if p.startswith(top + b"/"):
            e = dict(e)
            if "group" in e and e["group"].startswith(top + b"/"):
                e["group"] = e["group"][len(top) + 1:]
            out[p[len(top) + 1:]] = e
    return out
