"""What mount-scripts/bench measures: the disk's own filesystem, a FUSE filesystem that does nothing, forelog, and its peers."""
import os
import shutil
import signal
import subprocess
import time

from harness import BIN, alive, mounts, put, sh, wait_until
from stores import KEY, SECRET, program
from uring import PARAMETER

LOG_SIZE = "4GiB"
HERTZ = os.sysconf("SC_CLK_TCK")
PEERS_DIR = os.environ.get("PEERS_DIR", "/var/tmp/forelog-peers")


def find(name):
    """A peer's program: out of mount-scripts/peers' environment, the suites' tools, or the path; None if it is nowhere."""
    for p in (f"{PEERS_DIR}/venv/bin/{name}", program(name)):
        if os.path.isabs(p) and os.access(p, os.X_OK):
            return p
    return shutil.which(name)


class System:
    """Started, it has `dir` to measure in, and `pids` of those that serve it."""
    why_not = ""

    def __init__(self, run, name):
        self.run, self.name, self.dir, self.transport = run, name, "", ""

    def start(self):
        pass

    def stop(self):
        pass

    def pids(self):
        return []

    def cpu_seconds(self):
        """User and system time of those that serve it so far."""
        total = 0
        for p in self.pids():
            try:
                with open(f"/proc/{p}/stat") as f:
                    total += sum(map(int, f.read().rpartition(")")[2].split()[11:13]))
            except OSError:
                pass
        return total / HERTZ

    def memory_mib(self):
        """Resident memory, and the part of it that is no file's, in MiB."""
        rss = anon = 0
        for p in self.pids():
            with open(f"/proc/{p}/status") as f:
                kib = {k: int(v.split()[0]) for k, v in (x.split(":", 1) for x in f) if k in ("VmRSS", "RssAnon")}
            rss, anon = rss + kib.get("VmRSS", 0), anon + kib.get("RssAnon", 0)
        return rss / 1024, anon / 1024


class Ext4(System):
    """A plain directory of the disk that all others keep their files on."""

    def start(self):
        self.dir = self.run.base + "/plain"
        os.makedirs(self.dir, exist_ok=True)


class Forelog(System):
    def __init__(self, run, name, transport, *options, log_size=LOG_SIZE):
        super().__init__(run, name)
        how = ["--log-size", log_size, "--transport", transport, *options]
        self.g = run.s.gateway(f"{run.sub}{name}", *how)

    def start(self):
        began = time.monotonic()
        self.g.mount()
        self.mount_seconds = time.monotonic() - began
        self.dir = self.g.mnt
        status = self.g.status()
        self.pid, self.transport = status.get("pid"), status.get("transport", "")

    def stop(self):
        r = self.g.umount("--timeout", "2m")
        if r.returncode:
            raise RuntimeError(f"umount: exit {r.returncode}: {r.stderr.strip()[-200:]}")

    def pids(self):
        return [self.pid] if self.pid and alive(self.pid) else []


class Served(System):
    """A program of its own, in front, that ends at its unmount."""
    patience, stop_command = 30, ("umount",)

    def start(self):
        self.top = f"{self.run.base}/{self.name}"
        self.dir = self.top + "/mnt"
        os.makedirs(self.dir, exist_ok=True)
        self.prepare()
        with open(self.top + "/log", "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True, env={**os.environ, **self.environment()})
        self.run.s.undo.append(self.kill)
        wait_until(lambda: self.dir in mounts() or self.process.poll() is not None, 30)
        if self.process.poll() is not None or self.dir not in mounts():
            with open(self.top + "/log", errors="replace") as f:
                raise RuntimeError(f"does not mount: {f.read().strip()[-300:]}")
        os.listdir(self.dir)

    def prepare(self):
        pass

    def environment(self):
        return {}

    def pids(self):
        """It and what it started."""
        found, parents = [self.process.pid], {}
        for p in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{p}/stat", errors="replace") as f:
                    parents.setdefault(int(f.read().rpartition(")")[2].split()[1]), []).append(int(p))
            except OSError:
                pass
        for p in found:
            found += parents.get(p, [])
        return [p for p in found if alive(p)]

    def stop(self):
        sh([*self.stop_command, self.dir], self.patience * 2)
        try:
            self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait(10)
        while self.dir in mounts():
            sh(["umount", "-l", self.dir], 20)


class Floor(Served):
    def __init__(self, run, name, transport):
        super().__init__(run, name)
        self.wanted = transport

    def command(self):
        return [BIN, "bench-floor", self.dir, "--transport", self.wanted]

    def start(self):
        super().start()
        with open(self.top + "/log", errors="replace") as f:
            self.transport = [x for x in f if "requests come over" in x][-1].split()[-1]


class JuiceFS(Served):
    def prepare(self):
        self.meta = f"sqlite3://{self.top}/meta.db"
        if not os.path.exists(self.top + "/meta.db"):
            r = sh([find("juicefs"), "format", "--storage", "s3", "--bucket", self.run.store().endpoint + "/jfs", "--access-key", KEY,
                    "--secret-key", SECRET, "--trash-days", "0", self.meta, "bench"], 60)
            if r.returncode:
                raise RuntimeError(f"format: {r.stderr.strip()[-200:]}")

    def command(self):
        return [find("juicefs"), "mount", "--writeback", "--no-usage-report", "--backup-meta", "0", "--cache-dir", self.top + "/cache",
                self.meta, self.dir]


class Rclone(Served):
    def environment(self):
        config = {"TYPE": "s3", "PROVIDER": "Other", "ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET, "ENDPOINT": self.run.store().endpoint,
                  "FORCE_PATH_STYLE": "true", "DIRECTORY_MARKERS": "true"}
        return {"RCLONE_CONFIG": "", **{f"RCLONE_CONFIG_B_{k}": v for k, v in config.items()}}

    def prepare(self):
        self.run.store().rclone("mkdir", "w:rclone")

    def command(self):
        return [find("rclone"), "mount", "b:rclone", self.dir, "--vfs-cache-mode", "writes", "--cache-dir", self.top + "/cache",
                "--vfs-write-back", "1s", "--dir-cache-time", "1h", "--transfers", "8"]


class S3fs(Served):
    def prepare(self):
        self.run.store().rclone("mkdir", "w:s3fs")
        put(self.top + "/password", f"{KEY}:{SECRET}".encode())
        os.chmod(self.top + "/password", 0o600)

    def command(self):
        return [find("s3fs"), "s3fs", self.dir, "-f", "-o", f"url={self.run.store().endpoint}", "-o", "use_path_request_style",
                "-o", f"passwd_file={self.top}/password", "-o", f"use_cache={self.top}/cache", "-o", "parallel_count=8"]


PEERS = {"juicefs": ("JuiceFS `--writeback`, S3", JuiceFS), "rclone": ("rclone VFS writes, S3", Rclone), "s3fs": ("s3fs `use_cache`", S3fs)}


def locals_of(run, transports):
    """What is mounted side by side: the disk, and for each transport the floor and forelog."""
    out = [Ext4(run, "ext4")]
    for t in transports:
        out += [Floor(run, f"floor-{t}", t), Forelog(run, f"forelog-{t}", t)]
    return out


def peers_of(run, names):
    return [PEERS[n][1](run, n) for n in names]


def title(name):
    kind, _, transport = name.partition("-")
    if name in PEERS:
        return PEERS[name][0]
    return {"floor": "do-nothing FUSE"}.get(kind, kind) + (f", {transport}" if transport else "")


def offered(transport):
    """Why this kernel has no such transport; empty if it has."""
    if transport != "uring":
        return ""
    try:
        with open(PARAMETER) as f:
            return "" if f.read().strip() == "Y" else f"FUSE over io_uring is switched off ({PARAMETER})"
    except OSError:
        return "this kernel has no FUSE over io_uring"


def settle(seconds=0.3):
    """Lets the last job's background end, and CPUs halt again."""
    time.sleep(seconds)
