"""A deterministic source tree with everything a backup program meets: links, holes, odd names, xattrs, owners, old times."""
import os
import random
import socket
import stat

ODD = ["with space", " leading", "trailing ", "new\nline", "tab\there", "-dash", "--help", "*?[x]", "back\\slash", "quote'\"s",
       "%41%2F", "...", ".hidden", "..x", "~", "$HOME", "a;b|c&d", "umläut", "ё-кириллица", "日本語", "e\u0301 combining",
       "n" * 255, "\x01\x7f"]
BAD_UTF8 = [b"latin-\xe9", b"\xff\xfe", b"cut-\xe2\x82"]


def put(path, data, mode=0o644):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def sparse(path, size, islands):
    """A file of `size` bytes that is all holes but for the given (offset, bytes)."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    for off, data in islands:
        os.pwrite(fd, data, off)
    os.ftruncate(fd, size)
    os.close(fd)


def many_small(top, rng, count):
    for i in range(count):
        d = f"{top}/small/{i % 17:02d}/{i % 5}"
        os.makedirs(d, exist_ok=True)
        size = rng.choice((0, 1, 100, 4095, 4096, 4097, 12000, 20000))
        put(f"{d}/f{i:05d}", rng.randbytes(size), rng.choice((0o644, 0o600, 0o755, 0o444)))


def links(top, rng):
    os.makedirs(f"{top}/links/deep/er")
    put(f"{top}/links/one", rng.randbytes(70000))
    os.link(f"{top}/links/one", f"{top}/links/two")
    os.link(f"{top}/links/one", f"{top}/links/deep/er/three")
    put(f"{top}/links/empty", b"")
    os.link(f"{top}/links/empty", f"{top}/links/deep/empty2")
    for name, target in (("rel", "one"), ("up", "../small"), ("dangling", "/nonexistent/x"), ("long", "x/" * 1000 + "y"),
                         ("self", "self"), ("deep/updown", "../deep/er/three"), ("odd", "new\nline ä")):
        os.symlink(target, f"{top}/links/{name}")
    if os.geteuid() == 0:
        os.link(f"{top}/links/dangling", f"{top}/links/dangling2", follow_symlinks=False)


def is_plain(name):
    """Whether every store keeps this name: neither backslashes nor control characters."""
    return "\\" not in name and not any(ord(c) < 32 or ord(c) == 127 for c in name)


def odd_names(top, plain=False):
    d = f"{top}/odd"
    os.makedirs(d)
    for n in ODD:
        if is_plain(n) or not plain:
            put(f"{d}/{n}", n.encode("utf-8", "surrogateescape"))
    for b in [] if plain else BAD_UTF8:
        put(os.path.join(os.fsencode(d), b), b)
    nl = " " if plain else "\n"
    os.makedirs(f"{d}/dir{nl} with nl/{'d' * 200}/x")
    put(f"{d}/dir{nl} with nl/{'d' * 200}/x/leaf", b"leaf")
    deep = d + "/deep"
    for i in range(40):
        deep += f"/level{i:02d}"
    os.makedirs(deep)
    put(deep + "/bottom", b"bottom")


def attributes(top, rng):
    d = f"{top}/attrs"
    os.makedirs(d + "/xdir")
    put(d + "/x", b"x")
    for name, value in (("user.empty", b""), ("user.binary", bytes(range(256))), ("user.big", rng.randbytes(2000)),
                        ("user.name with space", b"v"), ("user.ünï", "wörd".encode())):
        os.setxattr(d + "/x", name, value)
    os.setxattr(d + "/xdir", "user.dir", b"on a directory")
    for mode in (0o000, 0o400, 0o777, 0o4755, 0o2755, 0o6711, 0o1644):
        put(f"{d}/mode{mode:04o}", b"m", 0o600)
    if os.geteuid() == 0:
        os.setxattr(d + "/x", "trusted.t", b"only root")
        for i, (u, g) in enumerate(((1234, 4321), (0, 4321), (65534, 65534), (4000000000, 4000000001))):
            put(f"{d}/owner{i}", b"o")
            os.chown(f"{d}/owner{i}", u, g)
            os.symlink("x", f"{d}/lowner{i}")
            os.lchown(f"{d}/lowner{i}", u, g)
        os.mknod(f"{d}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(f"{d}/block", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    os.mkfifo(f"{d}/fifo", 0o640)
    s = socket.socket(socket.AF_UNIX)
    cwd = os.getcwd()
    os.chdir(d)  # the path of a socket is short
    s.bind("socket")
    os.chdir(cwd)
    s.close()
    for mode in (0o000, 0o400, 0o777, 0o4755, 0o2755, 0o6711, 0o1644):
        os.chmod(f"{d}/mode{mode:04o}", mode)
    os.mkdir(f"{d}/sticky")
    os.chmod(f"{d}/sticky", 0o1777)
    os.mkdir(f"{d}/setgid")
    os.chmod(f"{d}/setgid", 0o2775)


def times(top):
    d = f"{top}/times"
    os.makedirs(d)
    for i, ns in enumerate((0, 1, 999999999, 1234567890_123456789, 2**31 * 10**9 + 5, 4102444800 * 10**9 + 7, -5 * 10**9)):
        put(f"{d}/t{i}", b"t")
        os.utime(f"{d}/t{i}", ns=(ns, ns))
        os.symlink("t0", f"{d}/l{i}")
        os.utime(f"{d}/l{i}", ns=(ns, ns), follow_symlinks=False)


def make(top, seed=1, mib=300, small=4000, plain=False):
    """Builds the tree; about `mib` MiB of data, most of it in big files. With `plain` only names that every store keeps."""
    rng = random.Random(seed)
    os.makedirs(top)
    many_small(top, rng, small)
    links(top, rng)
    odd_names(top, plain)
    attributes(top, rng)
    os.makedirs(f"{top}/holes")
    sparse(f"{top}/holes/mid", 200 << 20, [(0, b"head"), (77 << 20, rng.randbytes(100000)), ((199 << 20) + 5, b"tail")])
    sparse(f"{top}/holes/all", 10 << 20, [])
    sparse(f"{top}/holes/unaligned", 1000003, [(4097, rng.randbytes(4099)), (900001, b"x")])
    os.makedirs(f"{top}/big")
    left, i = max(mib - small * 8 // 1024, 4) << 20, 0
    while left > 0:
        n = min(left, rng.choice((1 << 20, 3000001, 16 << 20, 40 << 20)))
        put(f"{top}/big/b{i}", rng.randbytes(n))
        left, i = left - n, i + 1
    times(top)
    stamp(top, rng)


def stamp(top, rng):
    """Gives every entry outside `times` an mtime of its own, directories last (children first)."""
    for at, dirs, files in os.walk(os.fsencode(top), topdown=False):
        inside = os.path.relpath(at, os.fsencode(top)).split(b"/")[0] == b"times"
        for n in files + [d for d in dirs if os.path.islink(os.path.join(at, d))]:
            if not inside:
                ns = rng.randrange(10**18, 17 * 10**17)
                os.utime(os.path.join(at, n), ns=(ns, ns), follow_symlinks=False)
        ns = rng.randrange(10**18, 17 * 10**17)
        os.utime(at, ns=(ns, ns))
