"""The limits that a local filesystem has: long names and paths, any byte in a name, large directories that change while they are
listed, sparse files of a terabyte, many open files, many hard links, times far from today. What a program is told at each limit,
and what is in the backing afterwards.

limits.py [--long] [--part NAME]...
"""
import errno
import os
import resource
import sys
import time

from harness import Suite, sh

ENTRIES = 100_000
SPARSE = 1 << 40
OPEN = 10_000
LINKS = 64_000
# ext4's 34-bit seconds end in 2446; 1901 is its first
TIMES = (("before 1970", -1_234_567_890, 987_654_321), ("at the epoch", 0, 0), ("after 2038", 4_102_444_800, 123_456_789),
         ("in the year 2400", 13_569_465_600, 999_999_999), ("one nanosecond before 1970", -1, 999_999_999))


def outcome(fn, *args):
    """'ok', or the name of the errno that the call ended with."""
    try:
        fn(*args)
        return "ok"
    except OSError as e:
        return errno.errorcode[e.errno]


def make(path, data=b""):
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(fd, data)
    os.close(fd)


def read(path):
    with open(path, "rb") as f:
        return f.read()


# ---- names

def names(s, at):
    at = os.fsencode(at)
    long = b"n" * 255
    for what, name in (
        ("255 bytes", long), ("255 bytes of two-byte letters", "\u00e9".encode() * 127 + b"x"), ("a newline", b"a\nb"),
        ("a tab and a bell", b"\t\a"), ("not UTF-8", b"\xff\xfe\x80"), ("a backslash", b"a\\b"), ("three dots", b"..."),
        ("a leading blank", b" x"), ("only a blank", b" "), ("a leading dash", b"-rf"), ("a colon and quotes", b":'\"`$()"),
        ("a star", b"*"), ("a tilde", b"~"), ("one byte", b"a"), ("percent signs", b"%2F%00"), ("a carriage return", b"\r"),
    ):
        p = at + b"/" + name
        make(p, name)
        ok = name in os.listdir(at) and read(p) == name
        os.rename(p, p[:-1] + b"~" if len(name) == 255 else p + b"~")
        os.rename(p[:-1] + b"~" if len(name) == 255 else p + b"~", p)
        s.check(ok and read(p) == name, f"a name with {what}", name)
    every = [bytes([b]) for b in range(1, 256) if bytes([b]) not in (b"/", b".", b"*", b"~", b"a", b" ", b"\r")]
    os.mkdir(at + b"/bytes")
    for b in every:
        make(at + b"/bytes/" + b + b"x")
    s.check(set(os.listdir(at + b"/bytes")) == {b + b"x" for b in every}, "every byte but / and NUL", len(os.listdir(at + b"/bytes")))
    for call, fn in (("create", lambda p: make(p)), ("mkdir", os.mkdir), ("symlink", lambda p: os.symlink("x", p)), ("stat", os.stat),
                     ("unlink", os.unlink), ("rename to", lambda p: os.rename(at + b"/a", p)), ("link to", lambda p: os.link(at + b"/a", p))):
        got = outcome(fn, at + b"/" + b"n" * 256)
        s.check(got == "ENAMETOOLONG", f"{call}: 256 bytes are refused", got)
    for name in (b".", b".."):
        got = [outcome(f, at + b"/" + name) for f in (os.mkdir, os.rmdir, os.unlink)]
        s.check(all(g in ("EEXIST", "EINVAL", "ENOTEMPTY", "EISDIR", "EBUSY") for g in got), f"{name!r} cannot be made or removed", got)


def paths(s, at):
    """A tree deeper than any path can name is made by relative names, and a path of 4,095 bytes works from the mount itself."""
    here = os.open(".", os.O_RDONLY)
    os.chdir(at)
    part = "d" * 250
    depth = 0
    while depth < 20:  # 5,000 bytes deep: no absolute path reaches its end
        os.mkdir(part)
        os.chdir(part)
        depth += 1
    make("deep", b"deep")
    s.check(read("deep") == b"deep", f"a file {depth * 251} bytes deep")
    os.fchdir(here)
    os.chdir(at)
    p = at
    while len(p) + 251 < 4095:
        p += "/" + part
    rest = 4095 - len(p) - 1
    p += "/" + "f" * rest
    make(p, b"long")
    s.check(len(p) == 4095 and read(p) == b"long", "a path of 4,095 bytes", len(p))
    got = outcome(os.stat, p + "f")
    s.check(got == "ENAMETOOLONG", "one byte more is refused", got)
    target = "t" * 4095
    os.symlink(target, at + "/longlink")
    s.check(os.readlink(at + "/longlink") == target, "a symlink's target of 4,095 bytes")
    os.fchdir(here)
    os.close(here)


# ---- a large directory

def churn(at, ready):
    """Adds and removes names of its own until it is killed."""
    i = 0
    os.close(ready)
    while True:
        make(f"{at}/churn-{i}")
        if i >= 50:
            os.unlink(f"{at}/churn-{i - 50}")
        i += 1


def directory(s, at):
    for i in range(ENTRIES):
        os.close(os.open(f"{at}/stay-{i:06}", os.O_CREAT | os.O_WRONLY))
    r, w = os.pipe()
    kid = s.spawn(churn, at, w)
    os.close(w)
    os.read(r, 1)
    os.close(r)
    want = {f"stay-{i:06}" for i in range(ENTRIES)}
    for turn in range(5):
        seen = os.listdir(at)
        twice = len(seen) - len(set(seen))
        s.check(want <= set(seen) and not twice, f"{ENTRIES} entries are listed once each while others come and go, turn {turn}",
                f"{len(want - set(seen))} missing, {twice} twice")
    with os.scandir(at) as it:
        half = [next(it).name for _ in range(ENTRIES // 2)]
        for n in half[::2]:
            if n.startswith("stay"):
                os.unlink(f"{at}/{n}")
                want.discard(n)
        rest = [e.name for e in it]
    both = half + rest
    s.check(want <= set(both) and len(both) == len(set(both)), "entries removed during a listing disturb no other",
            f"{len(want - set(both))} missing, {len(both) - len(set(both))} twice")
    kid.kill()
    now = {n for n in os.listdir(at) if n.startswith("stay")}
    s.check(now == want, "and are gone in the next", len(now ^ want))
    for n in os.listdir(at):
        os.unlink(f"{at}/{n}")
    s.check(os.listdir(at) == [], "the emptied directory is empty")
    os.rmdir(at)
    os.mkdir(at)


# ---- sizes

def sparse(s, at):
    p = at + "/sparse"
    fd = os.open(p, os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, SPARSE)
    for off in (0, 1 << 31, (1 << 31) - 3, (1 << 32) + 5, SPARSE - 7, SPARSE // 2):
        os.pwrite(fd, b"island!", off)
    st = os.fstat(fd)
    s.check(st.st_size == SPARSE, "a file of 1 TiB has that size", st.st_size)
    s.check(st.st_blocks * 512 < 1 << 20, "and takes no more room than was written", st.st_blocks * 512)
    ok = all(os.pread(fd, 7, off) == b"island!" for off in ((1 << 32) + 5, SPARSE - 7, SPARSE // 2))
    s.check(ok and os.pread(fd, 64, SPARSE // 4) == bytes(64), "its islands and holes read right")
    at_data = os.lseek(fd, 1 << 20, os.SEEK_DATA)
    s.check(at_data <= (1 << 31) - 3, "SEEK_DATA skips no data", at_data)
    os.ftruncate(fd, 1)
    os.ftruncate(fd, SPARSE)
    s.check(os.pread(fd, 7, SPARSE - 7) == bytes(7), "what was cut off stays zero when it grows again")
    os.pwrite(fd, b"end", SPARSE - 3)
    os.close(fd)
    for size in (0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) + 1):
        q = f"{at}/size-{size}"
        make(q)
        os.truncate(q, size)
        s.check(os.stat(q).st_size == size, f"a file of {size} bytes", os.stat(q).st_size)


def largest_of(where):
    """Size of the largest file there, found by halving the range."""
    p = where + "/probe"
    fd = os.open(p, os.O_CREAT | os.O_RDWR)
    low, high = 0, (1 << 63) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if outcome(os.ftruncate, fd, middle) == "ok":
            low = middle
        else:
            high = middle - 1
    os.close(fd)
    os.unlink(p)
    return low


def largest(s, at, limit):
    """What the backing would refuse at the drain is refused when it is asked for."""
    p = at + "/largest"
    fd = os.open(p, os.O_CREAT | os.O_RDWR)
    s.check(outcome(os.ftruncate, fd, limit) == "ok", f"the backing's largest file, {limit} bytes, is taken")
    if limit < (1 << 63) - 1:
        got = outcome(os.ftruncate, fd, limit + 1)
        s.check(got == "EFBIG", "and one byte more is refused", got)
        got = outcome(os.posix_fallocate, fd, limit, 1)
        s.check(got == "EFBIG", "by fallocate too", got)
        got = os.pwrite(fd, b"abcdef", limit - 3)
        s.check(got == 3, "a write across that size ends there", got)
        got = outcome(os.pwrite, fd, b"x", limit)
        s.check(got == "EFBIG", "and one beyond it is refused", got)
        s.check(os.pread(fd, 9, limit - 3) == b"abc", "what was written is read")
    os.close(fd)


def small_backing(s):
    """The same on a filesystem whose files are small: ext4 with blocks of 1 KiB."""
    where = s.loop_fs("small", 64, "mkfs.ext4 -q -F -b 1024 -O ^has_journal")
    if not where:
        return s.note("no loop device: the small filesystem is left out")
    g = s.gateway("sm", "--log-size", "64MiB", backing=where)
    limit = largest_of(where)
    g.mount()
    largest(s, g.mnt, limit)
    r = g.umount("--timeout", "60s")
    s.check(r.returncode == 0 and os.stat(where + "/largest").st_size == limit, "ext4 with small blocks: drained", r.stderr)


def handles(s, at):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n = min(OPEN, hard - 100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, OPEN + 1000), hard))
    fds = []
    try:
        for i in range(n):
            fd = os.open(f"{at}/h{i}", os.O_CREAT | os.O_RDWR)
            os.write(fd, b"%d" % i)
            fds.append(fd)
        s.check(n == OPEN, f"{OPEN} files open at once", f"the limit here is {hard}")
        for i in range(0, n, 2):
            os.unlink(f"{at}/h{i}")
        bad = [i for i, fd in enumerate(fds) if os.pread(fd, 16, 0) != b"%d" % i]
        s.check(not bad, "each reads what it wrote, half of them deleted", bad[:5])
    finally:
        for fd in fds:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def links(s, at, limit):
    """The backing's limit on names of one file is the mount's: passed on as EMLINK, never found out at the drain."""
    make(at + "/l", b"linked")
    made, got = 1, "ok"
    while made < LINKS + 2000:
        got = outcome(os.link, at + "/l", f"{at}/l{made}")
        if got != "ok":
            break
        made += 1
    s.check((got, made) == ("EMLINK", limit) if limit else made >= LINKS, f"hard links up to the backing's limit ({limit or 'none'})", f"{got} after {made}")
    s.check(os.stat(at + "/l").st_nlink == made and read(f"{at}/l{made - 1}") == b"linked", "all of them count", os.stat(at + "/l").st_nlink)
    if got == "EMLINK":
        os.unlink(at + "/l1")
        s.check(outcome(os.link, at + "/l", at + "/again") == "ok", "one removed makes room for one")
    return made


def links_of_backing(base):
    """How many names the filesystem of `base` gives one file, up to LINKS + 2000; None if it stops at none."""
    p = base + "/probe"
    os.mkdir(p)
    make(p + "/l")
    n = 1
    try:
        while n < LINKS + 2000:
            os.link(p + "/l", f"{p}/l{n}")
            n += 1
        return None
    except OSError:
        return n
    finally:
        sh(["rm", "-rf", p], 120)


def times(s, at):
    for what, sec, ns in TIMES:
        p = f"{at}/time {what}"
        make(p)
        t = sec * 10**9 + ns
        os.utime(p, ns=(t - 5 * 10**9, t))
        st = os.stat(p)
        s.check((st.st_atime_ns, st.st_mtime_ns) == (t - 5 * 10**9, t), f"a time {what}", (st.st_atime_ns, st.st_mtime_ns, t))
    return {f"time {what}": sec * 10**9 + ns for what, sec, ns in TIMES}


# ---- the same in the backing and after a kill

def after(s, root, where, keep):
    made, stamps = keep
    bad = [n for n, t in stamps.items() if os.stat(f"{root}/times/{n}").st_mtime_ns != t]
    s.check(not bad, f"{where}: every time is kept", bad)
    p = root + "/sizes/sparse"
    with open(p, "rb") as f:
        f.seek(SPARSE - 3)
        s.check(os.stat(p).st_size == SPARSE and f.read() == b"end", f"{where}: the sparse file is whole", os.stat(p).st_size)
    s.check(os.stat(root + "/links/l").st_nlink == made, f"{where}: the hard links are there", os.stat(root + "/links/l").st_nlink)
    s.check(read(os.fsencode(root) + b"/names/" + b"n" * 255) == b"n" * 255 and read(os.fsencode(root) + b"/names/a\nb") == b"a\nb",
            f"{where}: the odd names hold their bytes")
    n = sum(len(f) for _, _, f in os.walk(root + "/handles"))
    s.check(n == OPEN // 2, f"{where}: of the open files the undeleted half", n)
    fd = os.open(root + "/paths", os.O_RDONLY)
    for _ in range(20):
        nxt = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = nxt
    deep = os.open("deep", os.O_RDONLY, dir_fd=fd)
    s.check(os.read(deep, 9) == b"deep", f"{where}: the deep file is there")
    os.close(deep)
    os.close(fd)


def main():
    parts = [sys.argv[i + 1] for i, a in enumerate(sys.argv) if a == "--part"]
    with Suite("limits") as s:
        limit, size = links_of_backing(s.scratch), largest_of(s.scratch)
        g = s.gateway("gw", "--log-size", "512MiB", "--writeback-age", "500ms")
        g.mount()
        keep = [0, {}]
        for name, fn in (("names", names), ("paths", paths), ("directory", directory), ("sizes", sparse), ("largest", lambda s, at: largest(s, at, size)), ("handles", handles),
                         ("links", lambda s, at: keep.__setitem__(0, links(s, at, limit))),
                         ("times", lambda s, at: keep.__setitem__(1, times(s, at)))):
            if not parts or name in parts:
                at, t = g.path(name), time.monotonic()
                os.mkdir(at)
                fn(s, at)
                s.note(f"{name}: {time.monotonic() - t:.0f} s")
        if not parts:
            after(s, g.mnt, "mounted", keep)
            g.kill9()
            g.detach()
            g.mount()
            after(s, g.mnt, "after a kill", keep)
        r = g.umount()
        s.check(r.returncode == 0, "umount returns 0", r.stderr)
        if not parts:
            after(s, g.backing, "in the backing", keep)
            s.check(os.stat(g.backing + "/largest/largest").st_size == size, "and the largest file")
            small_backing(s)


if __name__ == "__main__":
    main()
