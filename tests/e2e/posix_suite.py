"""POSIX by other people's judgement: pjdfstest and fsx, and what several users may do to each other's files.

Every pjdfstest failure must stand in tests/pjdfstest-expected.txt with its cause (name<TAB>cause); one that does not, fails.
posix_suite.py [--long] [--part pjdfstest|fsx|users]
"""
import os
import random
import re
import sys
import time

from harness import FAKE, HERE, LONG, TOOLS, Suite, sh

EXPECTED = os.path.join(os.path.dirname(HERE), "pjdfstest-expected.txt")
SKIPS_MOST = 15
USERS = ("tests", "pjdfstest")
# rename_ctime: a rename changes ctime, as on ext4. st_birthtime cannot be passed on by FUSE here; remounts are not ours to do.
CONFIG = """[features]
posix_fallocate = {{}}
rename_ctime = {{}}
utime_now = {{}}
utimensat = {{}}
secondary_fs = "{other}"
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["tests", "tests"], ["pjdfstest", "pjdfstest"]]
"""
FSX = """flen = 262144
[opsize]
max = 32768
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 5
invalidate = 1
truncate = 5
fsync = 0.2
fdatasync = 0.2
posix_fallocate = 1
punch_hole = 4
sendfile = 2
posix_fadvise = 1
copy_file_range = 4
"""


def tool(s, name):
    for d in (os.path.join(TOOLS, "bin"), *os.environ["PATH"].split(":")):
        if os.access(os.path.join(d, name), os.X_OK):
            return os.path.join(d, name)
    s.check(False, f"{name} is installed", f"cargo install --locked --root {TOOLS} {name}")
    return None


def expected_failures():
    """Name -> cause."""
    out = {}
    with open(EXPECTED, encoding="utf-8") as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                name, _, cause = line.rstrip("\n").partition("\t")
                out[name] = cause.strip()
    return out


def parse(text):
    """({test: ok|FAILED|skipped}, {test: what it said})"""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    result, said, last = {}, {}, None
    for line in text.split("\n"):
        m = re.match(r"^(\S+::\S+)\s+(ok|FAILED|skipped)$", line)
        if m:
            last = m[1]
            result[last] = m[2]
        elif last and line.startswith("\t") and result[last] == "FAILED":
            said[last] = (said.get(last, "") + " " + line.strip()).strip()
    return result, said


def judge(s, result, said, expected):
    failed = {t for t, r in result.items() if r == "FAILED"}
    skipped = [t for t, r in result.items() if r == "skipped"]
    for t in sorted(failed):
        s.note(f"pjdfstest {t}: {expected.get(t) or 'NOT EXPECTED: ' + said.get(t, '')[:300]}")
    s.check(not failed - expected.keys(), "every pjdfstest failure is listed with its cause", sorted(failed - expected.keys()))
    s.check(all(expected.values()), "every listed failure has a cause", [t for t, c in expected.items() if not c])
    gone = sorted(t for t in expected if result.get(t) == "ok")
    s.check(not gone, "no listed failure passes by now", gone)
    s.check(len(skipped) <= SKIPS_MOST, f"at most {SKIPS_MOST} skipped", skipped)


def pjdfstest(s, top):
    exe = tool(s, "pjdfstest")
    if not exe:
        return
    other = s.dir("other")  # another filesystem, for EXDEV
    sh(["mount", "-t", "tmpfs", "none", other], 20)
    config = s.scratch + "/pjdfstest.toml"
    with open(config, "w") as f:
        f.write(CONFIG.format(other=other))
    t = time.monotonic()
    r = sh([exe, "-c", config, "-p", top], 600)
    result, said = parse(r.stdout + r.stderr)
    counts = {k: sum(1 for v in result.values() if v == k) for k in ("ok", "FAILED", "skipped")}
    s.check(len(result) > 350, f"pjdfstest ran: {counts} in {time.monotonic() - t:.0f} s", r.stdout[-500:] + r.stderr[-500:])
    s.headline = f"pjdfstest {counts}"
    judge(s, result, said, expected_failures())


def fsx(s, top):
    """100,000 operations a seed, with mmap and punched holes; two files at once in the long form's ten seeds."""
    exe = tool(s, "fsx")
    if not exe:
        return
    config, keep = s.scratch + "/fsx.toml", s.dir("fsx-artifacts")
    with open(config, "w") as f:
        f.write(FSX)
    seeds = [random.SystemRandom().randrange(1 << 31) for _ in range(9)] if LONG else []
    for seed in [7, *seeds]:
        t = time.monotonic()
        r = sh([exe, "-q", "-f", config, "-P", keep, "-N", "100000", "-S", str(seed), f"{top}/fsx.{seed}"], 900)
        s.check(r.returncode == 0 and "A-OK" in r.stdout + r.stderr, f"fsx seed {seed}: 100,000 operations ({time.monotonic() - t:.0f} s)",
                (r.stdout + r.stderr)[-1500:])


# ---- several users

def as_user(user, code):
    """Runs Python `code` as `user` with no other groups; the text it prints, or the errno's name of an OSError."""
    prog = ("import os, errno\ntry:\n" + "".join(f"    {line}\n" for line in code.strip().split("\n")) +
            "except OSError as e:\n    print(errno.errorcode[e.errno])\n")
    r = sh(["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "/usr/bin/env", "python3", "-c", prog], 30)
    return (r.stdout + r.stderr).strip()


def users(s, top):
    import pwd
    one, two = USERS
    if as_user(one, "print('python')") != "python":
        s.check(False, "python3 runs as another user", "is it under a directory only root may enter?")
        return
    uid, gid = pwd.getpwnam(one).pw_uid, pwd.getpwnam(one).pw_gid
    d = top + "/users"
    os.mkdir(d)
    os.chmod(d, 0o1777)
    put = f"open('{d}/%s', 'w').write('x') and print('ok')"
    for what, user, code, want in (
        ("a user writes in a sticky directory", one, put % "mine", "ok"),
        ("another may not remove it there", two, f"os.unlink('{d}/mine')", "EPERM"),
        ("nor rename it", two, f"os.rename('{d}/mine', '{d}/other')", "EPERM"),
        ("nor write it", two, put % "mine", "EACCES"),
        ("nor change its mode", two, f"os.chmod('{d}/mine', 0o777)", "EPERM"),
        ("nor give it away", one, f"os.chown('{d}/mine', 0, 0)", "EPERM"),
        ("nor set its time", two, f"os.utime('{d}/mine', (1, 1))", "EPERM"),
        ("nor set an xattr", two, f"os.setxattr('{d}/mine', 'user.a', b'1')", "EACCES"),
        ("trusted xattrs are root's", one, f"os.setxattr('{d}/mine', 'trusted.a', b'1')", "EPERM"),
        ("the owner makes it private", one, f"os.chmod('{d}/mine', 0o600); print('ok')", "ok"),
        ("then another may not read it", two, f"open('{d}/mine').read()", "EACCES"),
        ("a private directory hides what is in it", one, f"os.mkdir('{d}/priv', 0o700); open('{d}/priv/f', 'w'); print('ok')", "ok"),
        ("also from stat", two, f"os.stat('{d}/priv/f')", "EACCES"),
        ("device nodes are root's", one, f"os.mknod('{d}/dev', 0o20666, os.makedev(1, 3))", "EPERM"),
        ("a fifo is anyone's", one, f"os.mkfifo('{d}/fifo'); print('ok')", "ok"),
    ):
        got = as_user(user, code)
        s.check(got == want, what, f"{got}, wanted {want}")
    st = os.stat(d + "/mine")
    s.check((st.st_uid, st.st_gid) == (uid, gid), "a new file is its maker's", (st.st_uid, st.st_gid))
    inherit(s, d, one)
    setuid(s, d, one)


def inherit(s, d, user):
    """A set-group-id directory gives its group to what is made in it, and directories there get the bit too."""
    os.mkdir(d + "/team")
    os.chown(d + "/team", 0, 4321)
    os.chmod(d + "/team", 0o2777)
    as_user(user, f"open('{d}/team/f', 'w'); os.mkdir('{d}/team/sub')")
    f, sub = os.stat(d + "/team/f"), os.stat(d + "/team/sub")
    s.check(f.st_gid == 4321 and sub.st_gid == 4321 and sub.st_mode & 0o2000, "set-group-id directories hand on their group", (f.st_gid, sub.st_gid))


def setuid(s, d, user):
    """Set-user-id and set-group-id go when someone without the right writes, truncates or takes over the file."""
    for how, code in (("write", "os.write(os.open('{p}', os.O_WRONLY), b'x')"), ("truncate", "os.truncate('{p}', 1)"),
                      ("append", "os.write(os.open('{p}', os.O_WRONLY | os.O_APPEND), b'x')")):
        p = f"{d}/suid-{how}"
        with open(p, "w") as f:
            f.write("#!")
        os.chmod(p, 0o6777)
        got = as_user(user, code.format(p=p))
        s.check(got == "" and os.stat(p).st_mode & 0o6000 == 0, f"set-id bits go at a stranger's {how}", f"{got} {os.stat(p).st_mode:o}")
    p = d + "/suid-chown"
    with open(p, "w") as f:
        f.write("#!")
    os.chmod(p, 0o6777)
    os.chown(p, 1, 1)
    s.check(os.stat(p).st_mode & 0o6000 == 0, "and at a chown", f"{os.stat(p).st_mode:o}")


def main():
    part = sys.argv[sys.argv.index("--part") + 1] if "--part" in sys.argv else None
    with Suite("posix") as s:
        g = s.gateway("gw", "--log-size", "1GiB", "-o", "allow_other")
        os.chmod(g.backing, 0o755)
        g.mount()
        for name, fn in (("pjdfstest", pjdfstest), ("fsx", fsx), ("users", users)):
            if part in (None, name):
                fn(s, g.mnt)  # the mount itself: pjdfstest binds sockets, whose paths must be short
        r = g.umount()
        s.check(r.returncode == 0, "umount returns 0", r.stderr)


if __name__ == "__main__":
    main()
