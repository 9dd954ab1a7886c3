"""Resident memory of the gateway while and after many files are written through a log smaller than they are.

Then the same for many files that are only looked at, and for many names made in one directory.

Long form: 10 GB in 100,000 files with a 1 GiB log. Short form: 1 GB in 10,000 files with a 128 MiB log. The limit is the same.
"""
import os
import random
import time

from harness import FAKE, LONG, Suite, wait_until

LIMIT = 256 << 20
FILES, LOG = (100_000, "1GiB") if LONG else (10_000, "128MiB")
SEEN = 400_000 if LONG else 150_000
MADE = 300_000 if LONG else 20_000
SIZE = 100_000
POOL = random.Random(1).randbytes(SIZE * 2)


def memory(pid, field):
    """A field of /proc/PID/status in bytes, 0 when there is none."""
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def content(i):
    at = i * 7919 % SIZE
    return POOL[at:at + SIZE]


def write_all(top, first, step):
    for i in range(first, FILES, step):
        d = f"{top}/{i // 1000:03d}"
        os.makedirs(d, exist_ok=True)
        with open(f"{d}/{i}", "wb", buffering=0) as f:
            f.write(content(i))


def verify(top, every):
    bad = 0
    for i in range(0, FILES, every):
        try:
            with open(f"{top}/{i // 1000:03d}/{i}", "rb") as f:
                bad += f.read() != content(i)
        except OSError:
            bad += 1
    return bad


def crowd(s):
    """More files in the backing than inodes may be in memory, all looked at; more names than may be kept, all made here."""
    g = s.gateway("crowd", "--log-size", "1GiB", "--writeback-age", "2s")
    for d in range(SEEN // 1000):
        os.makedirs(f"{g.backing}/seen/{d}")
        for i in range(1000):
            os.close(os.open(f"{g.backing}/seen/{d}/{i}", os.O_CREAT | os.O_WRONLY))
    g.mount()
    pid = g.status().get("pid", 0)
    found = sum(e.stat().st_size == 0 for d in os.scandir(f"{g.mnt}/seen") for e in os.scandir(d.path))
    s.check(found == SEEN, f"{SEEN} files of the backing are found", found)
    s.check(memory(pid, "VmHWM") < LIMIT or FAKE, f"looking at them took {memory(pid, 'VmHWM') >> 20} MiB")
    again = sum(os.path.exists(f"{g.mnt}/seen/{d}/{i}") for d in range(0, SEEN // 1000, 7) for i in range(0, 1000, 13))
    s.check(again == len(range(0, SEEN // 1000, 7)) * len(range(0, 1000, 13)), "and are found again", again)
    os.mkdir(f"{g.mnt}/made")
    for i in range(MADE):
        with open(f"{g.mnt}/made/{i}", "wb", buffering=0) as f:
            f.write(b"%d" % i)
    g.flush() if FAKE else g.run("flush", g.mnt, timeout=900)
    s.check(memory(pid, "VmHWM") < LIMIT or FAKE, f"making {MADE} names took {memory(pid, 'VmHWM') >> 20} MiB")
    names = os.listdir(f"{g.mnt}/made")
    s.check(sorted(map(int, names)) == list(range(MADE)), "all are listed once", len(names))
    refused = 0
    for i in range(0, MADE, MADE // 100):
        try:
            os.close(os.open(f"{g.mnt}/made/{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            refused += 1
    s.check(refused == 100, "none can be made again", refused)
    r = g.umount("--timeout", "20m", timeout=1300)
    s.check(r.returncode == 0, "umount returns 0", r.stderr)


def main():
    with Suite("memory") as s:
        crowd(s)
        g = s.gateway("gw", "--log-size", LOG)
        g.mount()
        pid = g.status().get("pid", 0)
        start = memory(pid, "VmRSS")
        t = time.monotonic()
        kids = [s.spawn(write_all, g.mnt, k, 2) for k in range(2)]
        highest = 0
        while any(k.poll() is None for k in kids) and time.monotonic() - t < 3600:
            highest = max(highest, memory(pid, "VmRSS"))
            time.sleep(0.2)
        took = time.monotonic() - t
        s.check(all(k.code == 0 for k in kids), f"{FILES} files of {SIZE} bytes through a {LOG} log, {took:.0f} s, "
                f"{FILES * SIZE / took / 1e6:.0f} MB/s", [k.code for k in kids])
        after = memory(pid, "VmRSS")
        text = ", ".join(f"{n} {v >> 20} MiB" for n, v in (
            ("at start", start), ("highest seen", max(highest, memory(pid, 'VmHWM'))), ("after", after),
            ("anonymous", memory(pid, "RssAnon")), ("file", memory(pid, "RssFile"))))
        s.headline = text
        s.check(0 < after < LIMIT or FAKE, f"resident memory stays under {LIMIT >> 20} MiB: {text}")
        s.check(max(highest, memory(pid, "VmHWM")) < LIMIT or FAKE, "and never went over it")
        bad = verify(g.mnt, 10 if LONG else 3)
        s.check(bad == 0, "files read back whole through the mount", f"{bad} do not")
        wait_until(lambda: g.status().get("writeback", {}).get("backlog_bytes", 0) == 0, 5, 0.5)
        s.check(memory(pid, "VmRSS") < LIMIT or FAKE, f"after reading: {memory(pid, 'VmRSS') >> 20} MiB")
        r = g.umount("--timeout", "20m", timeout=1300)
        s.check(r.returncode == 0, "umount returns 0", r.stderr)
        s.check(verify(g.backing, 1) == 0, "every file is whole in the backing")


if __name__ == "__main__":
    main()
