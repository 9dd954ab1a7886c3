"""Who may see what: the log and our directory in the backing are closed to others, the control socket answers its owner and root alone, one
user's unstored data are not another's to read, and what somebody plants in the backing leads nowhere outside it."""
import glob
import json
import os
import socket
import stat

from harness import BIN, FAKE, Suite, get, put, sh, wait_until

MARK = b"SECRET-CONTENT-7e1f"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def as_nobody(s, fn):
    """Exit code of `fn` run by a user without rights: 0 when it returned true."""
    def child():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        return 0 if fn() else 1
    return s.spawn(child).join(30)


def refused(fn, *errors):
    try:
        fn()
    except OSError as e:
        return isinstance(e, errors or (PermissionError,))
    return False


def closed(s, g):
    modes = {p: stat.S_IMODE(os.lstat(p).st_mode) for p in [g.log, *glob.glob(g.log + "/*"), *glob.glob(g.backing + "/.forelog/**", recursive=True)]}
    bad = {p: oct(m) for p, m in modes.items() if m & 0o077}
    s.check(not bad and len(modes) > 3, "the log's files and ours in the backing are closed to everyone else", bad)
    code = as_nobody(s, lambda: refused(lambda: os.listdir(g.log)) and refused(lambda: os.listdir(g.backing + "/.forelog")))
    s.check(code == 0, "another user cannot list them")


def control(s, g):
    r = sh([*NOBODY, BIN, "status", g.mnt], 30)
    s.check(r.returncode == 2 and len(r.stderr.strip().splitlines()) == 1, "status is refused to another user, in one line", (r.returncode, r.stderr))
    for verb in ("umount", "flush"):
        r = sh([*NOBODY, BIN, verb, g.mnt], 30)
        s.check(r.returncode == 2 and g.mounted(), f"{verb} is refused to another user", (r.returncode, r.stderr))
    paths = [x.split()[-1] for x in open("/proc/net/unix") if "forelog" in x and x.split()[-1].startswith("/")]
    s.check(paths, "(the control sockets are found)")

    def knock():
        for p in set(paths):
            with socket.socket(socket.AF_UNIX) as c:
                c.settimeout(3)
                try:
                    c.connect(p)
                    c.sendall(b'{"Status":null}\n' * 3)
                    if MARK in c.recv(65536) or b"mountpoint" in c.recv(65536):
                        return False
                except OSError:
                    pass
        return True
    s.check(as_nobody(s, knock) == 0, "and the sockets tell another user nothing")


def overlay(s, g):
    os.chmod(g.mnt, 0o755)
    os.mkdir(g.path("private"), 0o700)
    put(g.path("private/f"), MARK)
    put(g.path("mine"), MARK)
    os.chmod(g.path("mine"), 0o600)
    put(g.path("open-to-all"), b"fine")
    os.chmod(g.path("open-to-all"), 0o644)
    get(g.path("mine"))  # in the page cache now

    def other():
        return (refused(lambda: get(g.path("mine"))) and refused(lambda: get(g.path("private/f"))) and refused(lambda: os.listdir(g.path("private")))
                and refused(lambda: os.unlink(g.path("mine"))) and refused(lambda: put(g.path("open-to-all"), b"x"))
                and refused(lambda: os.chmod(g.path("mine"), 0o666)) and refused(lambda: os.setxattr(g.path("mine"), "user.x", b"y"))
                and refused(lambda: os.link(g.path("mine"), g.path("linked"))) and get(g.path("open-to-all")) == b"fine")
    s.check(as_nobody(s, other) == 0, "one user's data that only the log has are not another's to read or change")
    g.flush()
    s.check(as_nobody(s, other) == 0, "nor once they are in the backing")
    s.check(os.stat(g.backing + "/mine").st_mode & 0o777 == 0o600, "where they have the same mode")
    os.chmod(g.path("open-to-all"), 0o600)
    s.check(as_nobody(s, lambda: refused(lambda: get(g.path("open-to-all")))) == 0, "a right that was taken away counts at once")


def planted(s, g):
    outside = s.dir("outside")
    put(outside + "/f", b"not ours")
    os.mkdir(g.path("d"))
    put(g.path("d/f"), b"stored")
    g.flush()
    put(g.path("d/f"), b"changed here")
    put(g.path("d/new"), b"new here")
    os.rename(g.backing + "/d", s.scratch + "/taken")
    os.symlink(outside, g.backing + "/d")
    r = g.flush("--timeout", "10s")
    s.check(r.returncode == 0 and not os.path.islink(g.backing + "/d") and get(g.backing + "/d/f") == b"changed here" and get(g.backing + "/d/new") == b"new here",
            "a directory that was replaced by a symlink in the backing is made again for what was changed in it", r.stderr)
    s.check(os.listdir(outside) == ["f"] and get(outside + "/f") == b"not ours", "a directory that was replaced by a symlink in the backing: nothing goes through it")
    os.symlink("/etc/passwd", g.backing + "/planted")
    os.symlink("../" * 12 + "etc/passwd", g.backing + "/planted2")
    wait_until(lambda: os.path.lexists(g.path("planted")), 5)
    s.check(os.readlink(g.path("planted")) == "/etc/passwd" and os.path.islink(g.path("planted2")), "symlinks in the backing are shown as what they are")
    before = get("/etc/passwd")
    os.unlink(g.path("planted"))
    put(g.path("planted"), b"a file now")
    r = g.flush("--timeout", "10s")
    s.check(r.returncode == 0 and get("/etc/passwd") == before and not os.path.islink(g.backing + "/planted"), "and replaced, never followed")
    for bad in ("..", ".", ".forelog/x"):
        s.check(refused(lambda b=bad: os.mkdir(g.path(b)), OSError), f"the name {bad} cannot be made")


def silence(s, g):
    put(g.path("telling"), MARK * 100, True)
    seen = get(g.log_file) + json.dumps(g.status()).encode() + g.run("status", g.mnt).stdout.encode()
    s.check(MARK not in seen, "no content of files in the log messages or the status")


def main():
    with Suite("security") as s:
        if FAKE:
            s.check(True, "(fake) nothing to look at")
            return
        g = s.gateway("gw", "--writeback-age", "1h")
        g.mount()
        for step in (closed, control, overlay, silence, planted):
            step(s, g)
        s.check(g.umount("--timeout", "10s").returncode == 0, "umount returns 0")


if __name__ == "__main__":
    main()
