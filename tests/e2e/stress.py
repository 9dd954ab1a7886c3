"""stress-ng's filesystem stressors, each verified, on a mount whose writeback never rests. None may fail, the gateway must outlive
them all, and an unmount must drain what they left.

stress.py [--long] [--only NAME]...   one second and two workers a stressor; with --long a minute and four
"""
import os
import re
import sys
import time

from harness import FAKE, LONG, Suite, alive, sh

SECONDS, WORKERS = (60, 4) if LONG else (1, 2)
# Not about the filesystem that the test directory is on
LEAVE = {"binderfs": "mounts its own", "ramfs": "mounts its own", "sysfs": "reads /sys", "procfs": "reads /proc", "bind-mount": "mounts its own",
         "chroot": "changes roots", "loop": "makes loop devices", "mknod": "makes nodes in /dev's place", "umount": "unmounts",
         "fpunch": "", "acl": ""}
LEAVE = {k: v for k, v in LEAVE.items() if v and k not in ("mknod", "chroot")}
# stress-ng's own words for a stressor that cannot run here; anything else that is skipped is looked at
SKIPS = re.compile(r"skip|not implemented|unsupported|not supported|built without")


def stressors():
    r = sh(["stress-ng", "--class", "filesystem?"], 30)
    return sorted(set(re.sub(r".*stressors:", "", (r.stdout + r.stderr).replace("\n", " ")).split()))


def one(s, g, name, pid):
    at = g.path(name)
    os.mkdir(at)
    t = time.monotonic()
    r = sh(["stress-ng", f"--{name}", str(WORKERS), "--timeout", f"{SECONDS}s", "--verify", "--temp-path", at,
            "--oom-avoid"], SECONDS + 240, cwd=at)  # some stressors make files where they are started
    text = r.stdout + r.stderr
    fails = [x for x in text.split("\n") if re.search(r"fail|error", x, re.I) and not re.search(r"failed: 0|passed: ", x)]
    skipped = bool(re.search(r"skipped: [1-9]", text)) or (r.returncode in (3, 4) and SKIPS.search(text))
    if skipped:
        s.note(f"{name}: skips itself: {' '.join(x for x in text.split(chr(10)) if SKIPS.search(x))[:200]}")
        return
    s.check(r.returncode == 0 and not fails, f"stress-ng {name} ({time.monotonic() - t:.1f} s)", f"exit {r.returncode}: {' | '.join(fails)[:700]}")
    s.check(FAKE or alive(pid), f"the gateway outlives {name}")


def main():
    only = [sys.argv[i + 1] for i, a in enumerate(sys.argv) if a == "--only"]
    with Suite("stress") as s:
        names = [n for n in stressors() if n not in LEAVE]
        s.check(len(names) > 20, f"stress-ng knows {len(names)} stressors for filesystems", names)
        g = s.gateway("gw", "--log-size", "1GiB", "--writeback-age", "300ms", "--seal-after", "200ms")
        g.mount()
        pid = g.status().get("pid", 0)
        for name in only or names:
            one(s, g, name, pid)
        left = sum(len(f) for _, _, f in os.walk(g.mnt))
        s.note(f"{left} files left by them")
        r = g.umount("--timeout", "5m", timeout=400)
        s.check(r.returncode == 0, "umount returns 0", r.stderr)
        s.headline = f"{len(names)} stressors, {SECONDS} s each, {sh(['stress-ng', '--version'], 10).stdout.split(' (')[0].strip()}"


if __name__ == "__main__":
    main()
