"""fio with verification: random mixed sizes through every way a program can write, by 1 to 8 jobs at once, while the writeback never
rests; then the same files verified again after a kill -9 and a remount, and once more in the backing.

fio_verify.py [--long]
"""
import os
import re
import time

from harness import FAKE, LONG, Suite, sh

SIZE = 64 if LONG else 8  # MiB a job
SPLIT = "bssplit=512/10:1k/5:4k/30:7k/5:16k/20:64k/20:200k/8:1m/2"
# name, jobs, options; O_DIRECT wants whole sectors
CASES = (
    ("psync mixed", 1, f"ioengine=psync rw=randwrite {SPLIT} bs_unaligned=1"),
    ("psync mixed", 8, f"ioengine=psync rw=randrw {SPLIT} bs_unaligned=1"),
    ("O_DIRECT", 4, "ioengine=psync direct=1 rw=randrw bssplit=512/10:4k/50:64k/30:1m/10"),
    ("O_DIRECT, libaio, 16 deep", 2, "ioengine=libaio iodepth=16 direct=1 rw=randwrite bssplit=4k/60:64k/30:256k/10"),
    ("io_uring, 16 deep", 2, f"ioengine=io_uring iodepth=16 rw=randwrite {SPLIT}"),
    ("O_SYNC", 2, "ioengine=psync sync=1 rw=randwrite bssplit=4k/70:64k/30"),
    ("fsync every 16", 4, f"ioengine=psync fsync=16 rw=randwrite {SPLIT} bs_unaligned=1"),
    ("fdatasync every 8", 2, "ioengine=psync fdatasync=8 rw=write bssplit=4k/70:64k/30"),
    ("mmap", 4, "ioengine=mmap rw=randwrite bssplit=4k/60:64k/40"),
    ("mmap, msync every 32", 2, "ioengine=mmap fsync=32 rw=randrw bssplit=4k/60:64k/40"),
    ("vectors", 2, f"ioengine=pvsync rw=randrw {SPLIT}"),
    ("threads on one file", 4, "ioengine=psync thread=1 rw=randwrite bs=16k filename=shared offset_increment={mib}m"),
    ("preallocated", 2, "ioengine=psync fallocate=native rw=randwrite bssplit=4k/70:64k/30"),
    ("spliced", 1, "ioengine=splice rw=write bs=64k"),
)


def job(name, jobs, options, where, mode):
    opts = options.format(mib=SIZE).split()
    base = re.sub(r"\W+", "-", f"{name}-{jobs}")
    args = ["fio", f"--name={base}", f"--directory={where}", f"--numjobs={jobs}", f"--size={SIZE}m", "--group_reporting",
            "--verify=crc32c", "--verify_fatal=1", "--verify_dump=0", "--randrepeat=1", "--randseed=4711", "--output-format=terse",
            "--fallocate=none", "--serialize_overlap=0", *[f"--{o}" for o in opts]]
    return args + mode


def run(s, what, args, at):
    r = sh(args, 600, cwd=at)
    bad = [x for x in (r.stdout + r.stderr).split("\n") if re.search(r"verify|error|err=", x, re.I) and not x.startswith("3;")]
    return s.check(r.returncode == 0 and not bad, what, f"exit {r.returncode}: {' | '.join(bad)[:600]}")


def spoil(s, args, where):
    """The verification can fail: one changed byte is noticed."""
    p = os.path.join(where, next(n for n in sorted(os.listdir(where)) if n.endswith(".0.0")))
    with open(p, "r+b") as f:
        f.seek(os.path.getsize(p) // 2)
        b = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([b[0] ^ 1]))
    r = sh([a.replace("{}", where) for a in args], 300, cwd=where)
    s.check(r.returncode != 0, "fio notices one changed byte", r.stdout[-200:])


def append(s, at):
    """O_APPEND by eight processes: every record whole, each writer's in its order."""
    def writer(k):
        fd = os.open(at + "/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for i in range(400):
            os.write(fd, (f"{k} {i} ".ljust(20 + (i * 37 + k) % 900, "x") + "\n").encode())
    kids = [s.spawn(writer, k) for k in range(8)]
    codes = [k.join(120) for k in kids]
    seen = {k: [] for k in range(8)}
    with open(at + "/log") as f:
        for line in f:
            k, i, _ = line.split(" ", 2)
            if line != f"{k} {i} ".ljust(20 + (int(i) * 37 + int(k)) % 900, "x") + "\n":
                seen[int(k)].append(-1)
            seen[int(k)].append(int(i))
    s.check(codes == [0] * 8 and all(v == list(range(400)) for v in seen.values()), "O_APPEND by 8 processes: every record whole and in order", codes)


def main():
    with Suite("fio_verify") as s:
        g = s.gateway("gw", "--log-size", "512MiB", "--writeback-age", "300ms", "--seal-after", "200ms")
        g.mount()
        engines = sh(["fio", "--enghelp"], 30).stdout
        done = []
        for n, (name, jobs, options) in enumerate(CASES):
            engine = re.search(r"ioengine=(\w+)", options)[1]
            if engine not in engines:
                s.note(f"{name}: this fio has no engine {engine}")
                continue
            at, t = f"c{n}", time.monotonic()
            os.mkdir(g.path(at))
            write = job(name, jobs, options, g.path(at), ["--do_verify=1"])
            if run(s, f"fio {name}, {jobs} jobs", write, g.path(at)) and "randrw" not in options:
                done.append((f"{name}, {jobs} jobs", at, job(name, jobs, options, "{}", ["--verify_only=1"])))
            s.note(f"{name}: {time.monotonic() - t:.1f} s")
        append(s, g.mnt)
        g.kill9()
        g.detach()
        g.mount()
        if not FAKE:
            for what, at, args in done:
                run(s, f"after a kill: {what}", [a.replace("{}", g.path(at)) for a in args], g.path(at))
        r = g.umount("--timeout", "5m", timeout=400)
        s.check(r.returncode == 0, "umount returns 0", r.stderr)
        for what, at, args in done:
            where = os.path.join(g.backing, at)
            run(s, f"in the backing: {what}", [a.replace("{}", where) for a in args], where)
        if done:
            spoil(s, done[0][2], os.path.join(g.backing, done[0][1]))


if __name__ == "__main__":
    main()
