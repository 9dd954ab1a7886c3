"""What a gateway's CPU time goes to, by `perf record` of its processes while a job runs. Its figures are shares: perf itself costs time."""
import os
import re
import shutil
import signal
import subprocess
import time

from harness import sh

# Of a sample's functions, innermost first, the first group that has one of them.
GROUPS = (
    ("waits, wakes", r"schedule|finish_task_switch|try_to_wake_up|__wake_up|futex"),
    ("log written", r"pwritev|vfs_fallocate"),
    ("log synced", r"do_fsync|fdatasync|syncfs"),
    ("request taken", r"fuse_dev_do_read|fuse_uring_(send|copy_to|prepare)"),
    ("answer given", r"fuse_dev_do_write|fuse_uring_(commit|copy_from)"),
    ("checksums", r"crc32c|crc_u64"),
    ("rings", r"io_uring_enter|io_submit|io_cqring"),
    ("other system calls", r"do_syscall_64|entry_SYSCALL"),
    ("forelog itself", r""),
)
NAMES = [g for g, _ in GROUPS]


def unusable():
    """Why there can be no profile; empty if there can."""
    if not shutil.which("perf"):
        return "no perf (Debian: linux-perf)"
    return ""


class Profile:
    """Samples taken of some processes from now on."""

    def __init__(self, pids, folder):
        self.file = f"{folder}/profile-{time.monotonic_ns()}"
        self.process = subprocess.Popen(["perf", "record", "-q", "-g", "-F", "1999", "-p", ",".join(map(str, pids)), "-o", self.file],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self):
        """{group: samples}."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        text = sh(["perf", "script", "-i", self.file, "-F", "ip,sym"], 120).stdout
        os.unlink(self.file)
        return counted(text)


def counted(text):
    """Samples of each group in what `perf script` prints: stacks with an empty line after each."""
    out = dict.fromkeys(NAMES, 0)
    for stack in text.split("\n\n"):
        symbols = [x.split(None, 1)[1] for x in stack.splitlines() if len(x.split(None, 1)) == 2]
        if symbols:
            out[next(g for g, rule in GROUPS if any(re.search(rule, s) for s in symbols))] += 1
    return out


def table(seen):
    """The rows of a table: `seen` is {(job, system): [{group: samples}]}."""
    lines = ["| job | mount | samples | " + " | ".join(NAMES) + " |", "|---|---|---|" + "---|" * len(NAMES)]
    for (job, system), rounds in seen.items():
        total = {g: sum(r[g] for r in rounds) for g in NAMES}
        n = sum(total.values())
        shares = [f"{100 * total[g] / n:.0f} %" if n else "-" for g in NAMES]
        lines.append(f"| {job} | {system} | {n} | " + " | ".join(shares) + " |")
    return lines
