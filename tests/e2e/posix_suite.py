"""POSIX by other people's judgement: pjdfstest.

Every pjdfstest failure must stand in tests/pjdfstest-expected.txt with its cause (name<TAB>cause); one that does not, fails.
posix_suite.py
"""
import os
import re
import time

from harness import HERE, TOOLS, Suite, sh

EXPECTED = os.path.join(os.path.dirname(HERE), "pjdfstest-expected.txt")
COMPATIBILITY = os.path.join(os.path.dirname(os.path.dirname(HERE)), "docs/COMPATIBILITY.md")
SKIPS_MOST = 15
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
    s.note(f"skipped: {' '.join(sorted(skipped))}")
    with open(COMPATIBILITY, encoding="utf-8") as f:
        text = f.read()
    unnamed = [t for t in skipped if f"`{t}`" not in text]
    s.check(not unnamed, "docs/COMPATIBILITY.md names every skipped test and why", unnamed)
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


def main():
    with Suite("posix") as s:
        g = s.gateway("gw", "--log-size", "1GiB", "-o", "allow_other")
        os.chmod(g.backing, 0o755)
        g.mount()
        pjdfstest(s, g.mnt)  # the mount itself: pjdfstest binds sockets, whose paths must be short
        r = g.umount()
        s.check(r.returncode == 0, "umount returns 0", r.stderr)


if __name__ == "__main__":
    main()
