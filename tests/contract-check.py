#!/usr/bin/env python3
"""Checks a built forelog against its contract: verbs, exit codes, quiet success, clear errors, the shapes of its JSON.

usage: contract-check.py path/to/forelog      mounts in a scratch folder and cleans up; exit 0 where all holds
The shapes stand in contract-shapes.json beside this file: every key there must be in the output, numbers as numbers.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
VERBS = "mount umount flush status top fsck dump trace completions man".split()


class Checker:
    def __init__(self, binary):
        self.bin, self.bad = os.path.abspath(binary), []
        self.top = tempfile.mkdtemp(prefix="forelog-contract.", dir="/var/tmp")
        self.back, self.mnt, self.log, self.full = (os.path.join(self.top, n) for n in ("back", "mnt", "log", "full"))
        for d in (self.back, self.mnt, self.full):
            os.mkdir(d)
        with open(self.full + "/x", "w"):
            pass
        with open(os.path.join(HERE, "contract-shapes.json"), encoding="utf-8") as f:
            self.shapes = json.load(f)

    def run(self, *args, timeout=60):
        try:
            return subprocess.run([self.bin, *args], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(args, 124, "", "timed out")

    def check(self, ok, what):
        print(("ok   " if ok else "FAIL ") + what, flush=True)
        if not ok:
            self.bad.append(what)

    def shape(self, want, got, path):
        for key, w in want.items():
            at = f"{path}.{key}"
            if key not in got:
                self.check(False, f"missing {at}")
            elif isinstance(w, dict):
                if isinstance(got[key], dict):
                    self.shape(w, got[key], at)
                else:
                    self.check(False, f"{at} is no object")
            elif isinstance(w, list) and w and isinstance(got[key], list) and got[key]:
                self.shape(w[0], got[key][0], at + "[0]")
            elif isinstance(w, (int, float)) and not isinstance(got[key], (int, float)):
                self.check(False, f"{at} is no number: {got[key]!r}")

    # ---- what a person meets, in order

    def usage(self):
        text = self.run("--help").stdout
        for v in VERBS:
            self.check(v in text, f"--help names {v}")
        self.check(self.run().returncode == 1 and self.run("nonsense").returncode == 1, "usage errors exit 1")

    def refusals(self):
        for back, mnt, why in ((self.top + "/none", self.mnt, "missing backing"), (self.back, self.top + "/none", "missing mount point"),
                               (self.back, self.full, "non-empty mount point"), (self.back, self.back, "backing = mount point")):
            r = self.run("mount", back, mnt, "--log-dir", self.log)
            lines = r.stderr.strip().splitlines()
            self.check(r.returncode == 2 and 0 < len(lines) <= 3 and "panicked" not in r.stderr,
                       f"{why}: exit 2, one clear line ({r.returncode}: {r.stderr.strip()[:90]})")
            if r.returncode == 0:
                self.run("umount", mnt)

    def serving(self):
        t = time.time()
        r = self.run("mount", self.back, self.mnt, "--log-dir", self.log)
        self.check(r.returncode == 0 and os.path.ismount(self.mnt), f"mount returns 0 once mounted ({time.time() - t:.1f} s)")
        r = self.run("mount", self.back, self.full + "2", "--log-dir", self.log)
        self.check(r.returncode == 2, "second gateway on one log refused")
        with open(self.mnt + "/f", "wb") as f:
            f.write(b"x" * 100000)
            f.flush()
            os.fsync(f.fileno())
        time.sleep(0.3)
        s = json.loads(self.run("status", self.mnt, "--json").stdout)
        self.shape(self.shapes["status"], s, "status")
        self.check(s["version"] == 1 and s["state"] == "serving", "status: version 1, serving")
        self.check(s["requests"]["write"]["bytes"] >= 100000 and any(c["bytes"] >= 100000 for c in s["clients"]),
                   "status counts the write and names its client")
        self.check(self.run("status", self.mnt).stdout.strip() != "", "status for people")
        r = self.run("flush", self.mnt)
        with open(self.back + "/f", "rb") as f:
            self.check(r.returncode == 0 and f.read() == b"x" * 100000, "flush puts it in the backing")

    def ending(self):
        with open(self.mnt + "/open", "w") as f:
            f.write("y")
            f.flush()
            r = self.run("umount", self.mnt)
            self.check(r.returncode == 2 and os.path.ismount(self.mnt),
                       f"umount with an open file: exit 2, still mounted ({r.stderr.strip()[:80]})")
        r = self.run("umount", self.mnt, timeout=120)
        self.check(r.returncode == 0 and not os.path.ismount(self.mnt), "umount returns 0")
        self.check(os.path.exists(self.back + "/open"), "backing has the last file")
        self.check(sorted(x for x in os.listdir(self.back) if x != ".forelog") == ["f", "open"], "nothing else in the backing")
        self.check(self.run("fsck", self.log).returncode == 0, "fsck of a clean log exits 0")
        self.check(self.run("status", self.mnt).returncode == 2, "status of no mount exits 2")

    def replay(self):
        trace = self.top + "/trace"
        with open(trace, "w") as f:
            f.write("t_us,pid,comm,bytes\n" + "".join(f"{i * 50000},{i % 3},p{i % 3},{4096 * (1 + i % 5)}\n" for i in range(4000)))
        r = self.run("trace", "replay", trace, "--json", timeout=300)
        self.check(r.returncode == 0, "trace replay of a CSV")
        if r.returncode == 0:
            self.shape(self.shapes["replay"], json.loads(r.stdout), "replay")

    def close(self):
        with open("/proc/self/mountinfo", encoding="utf-8") as f:
            if any(line.split()[4] == self.mnt for line in f):
                subprocess.run(["umount", "-l", self.mnt], check=False)
        shutil.rmtree(self.top, ignore_errors=True)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    c = Checker(sys.argv[1])
    try:
        for step in (c.usage, c.refusals, c.serving, c.ending, c.replay):
            try:
                step()
            except (OSError, ValueError, KeyError) as e:
                c.check(False, f"{step.__name__} ran to its end: {type(e).__name__}: {e}")
    finally:
        c.close()
    print("all holds" if not c.bad else f"{len(c.bad)} fall short")
    sys.exit(1 if c.bad else 0)


if __name__ == "__main__":
    main()
