"""mount-scripts/bench itself: a few short jobs run to their end, give a whole table, and leave nothing behind. No time is judged."""
import json
import os

import bench_profile
from harness import BIN, FAKE, ROOT, Suite, alive, mounts, pids_naming, sh, wait_until

JOBS = ("write", "small", "fsync1")
PAGE = "# Page\n\nBy hand.\n\n<!-- bench targets: made by mount-scripts/bench -->\nold\n<!-- bench targets: end -->\n\nAlso by hand.\n"


def bench(s, *args):
    """Runs it in a scratch directory of ours."""
    inner = s.dir("fl-inner")
    env = {**os.environ, "FORELOG_SCRATCH": inner, "FORELOG_BIN": BIN, "BENCH_DIR": s.dir("cache")}
    return sh([f"{ROOT}/mount-scripts/bench", *args], 120, env=env), inner


def whole_run(s):
    page, raw = s.scratch + "/page.md", s.scratch + "/raw.json"
    with open(page, "w") as f:
        f.write(PAGE)
    r, inner = bench(s, "--quick", "--transport", "auto", *(x for j in JOBS for x in ("--only", j)), "--out", page, "--json", raw)
    s.check(r.returncode == 0, "a short run ends well", r.stdout[-800:] + r.stderr[-800:])
    with open(page) as f:
        text = f.read()
    s.check(text.startswith(PAGE.split("<!--")[0]) and text.endswith("\n\nAlso by hand.\n") and "old" not in text, "what was written by hand is left")
    for what in ("4 KiB write, warm", "do-nothing FUSE", "ratio of medians", "kernel " + os.uname().release, "placement", "targets met", "CPU s per 100,000"):
        s.check(what in text, f"the table has: {what}")
    rows = [x.count("|") for x in text.splitlines() if x.startswith("|")]
    s.check(len(set(rows)) == 2 and len(rows) > 10, "each row of the two tables has all columns", rows)
    with open(raw) as f:
        values = json.load(f)
    ours = {x["job"] for x in values if {"ext4", "forelog-auto"} <= set(x["values"])}
    s.check(ours == set(JOBS), "each job was measured on the disk and on forelog", ours)
    s.check({x["job"] for x in values if "floor-auto" in x["values"]} == {"write", "small"}, "and on the floor where that says something")
    nothing_left(s, inner, "a run")


def nothing_left(s, inner, what):
    s.check(not [m for m in mounts() if m.startswith(inner)], f"{what} leaves nothing mounted", mounts())
    s.check(wait_until(lambda: not pids_naming(inner), 5), f"{what} leaves no process", pids_naming(inner))
    s.check(not os.listdir(inner), f"{what} leaves no file", os.listdir(inner))
    loops = sh(["losetup", "-nO", "BACK-FILE"]).stdout
    s.check(inner not in loops, f"{what} leaves no loop device", loops)


def floor(s):
    """The filesystem that does nothing does keep names, sizes and modes."""
    mnt = s.dir("floor")
    import subprocess
    p = subprocess.Popen([BIN, "bench-floor", mnt], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    s.undo.append(lambda: p.poll() is None and p.kill())
    s.check(wait_until(lambda: mnt in mounts(), 10), "the floor mounts")
    os.makedirs(mnt + "/a/b")
    with open(mnt + "/a/f", "wb") as f:
        f.write(b"x" * 10_000)
        f.flush()
        os.fsync(f.fileno())
    os.chmod(mnt + "/a/f", 0o600)
    os.rename(mnt + "/a/f", mnt + "/a/b/g")
    st = os.stat(mnt + "/a/b/g")
    s.check((st.st_size, st.st_mode & 0o777) == (10_000, 0o600), "names, sizes and modes are kept", st)
    s.check(sorted(os.listdir(mnt + "/a")) == ["b"] and os.listdir(mnt + "/a/b") == ["g"], "directories are listed")
    for i in range(3000):
        open(f"{mnt}/a/n{i}", "w").close()
    s.check(len(os.listdir(mnt + "/a")) == 3001, "long directories too")
    r = sh(["rm", "-rf", mnt + "/a"])
    s.check(r.returncode == 0 and not os.listdir(mnt), "all of it can be removed", r.stderr)
    p.terminate()
    s.check(p.wait(10) == 0 and mnt not in mounts(), "SIGTERM unmounts it and ends it with 0")
    p = subprocess.Popen([BIN, "bench-floor", mnt], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    s.undo.append(lambda: p.poll() is None and p.kill())
    wait_until(lambda: mnt in mounts(), 10)
    s.check(sh(["umount", mnt]).returncode == 0 and p.wait(10) == 0, "so does umount")


def profile(s):
    """Each sample of a profile counts once, by the innermost rule that fits one of its functions."""
    stacks = ("ffff schedule\nffff fuse_dev_do_read\nffff do_syscall_64\n", "ffff copy_folio\nffff do_pwritev\nffff do_syscall_64\n", "7f00 crc_u64_parallel3\n7f00 append\n",
              "ffff vfs_open\nffff do_syscall_64\n", "7f00 place_extent\n")
    seen = {g: n for g, n in bench_profile.counted("\n".join(stacks)).items() if n}
    s.check(seen == dict.fromkeys(("waits, wakes", "log written", "checksums", "other system calls", "forelog itself"), 1), "a profile's samples are counted by what they do", seen)
    row = bench_profile.table({("write", "forelog"): [bench_profile.counted("\n".join(stacks))] * 2})[-1]
    s.check(row.startswith("| write | forelog | 10 | 20 % | 20 % |"), "and shown as shares", row)


def stopped(s):
    """SIGTERM in the middle of a run."""
    import signal
    import subprocess
    inner = s.dir("fl-stopped")
    env = {**os.environ, "FORELOG_SCRATCH": inner, "FORELOG_BIN": BIN, "BENCH_DIR": s.dir("cache")}
    p = subprocess.Popen([f"{ROOT}/mount-scripts/bench", "--quick", "--only", "write", "--rounds", "50", "--transport", "auto"], env=env,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    up = wait_until(lambda: len([m for m in mounts() if m.startswith(inner)]) == 2, 20)
    p.send_signal(signal.SIGTERM)
    s.check(up and p.wait(60) not in (0, None) and not alive(p.pid), "a run that is stopped ends")
    nothing_left(s, inner, "a run that is stopped")


def main():
    with Suite("bench") as s:
        if FAKE:
            return
        floor(s)
        profile(s)
        whole_run(s)
        stopped(s)


if __name__ == "__main__":
    main()
