"""The jobs of mount-scripts/bench. Each is given a system and gives figures: {name: (unit, value)}."""
import os
import shutil
import sqlite3
import subprocess
import sys
import time

from harness import ROOT, sh

MIB = 1 << 20
BLOCK = 4096
FULL = {"warm": 0.4, "seconds": 1.0, "files": 5000, "replay": 512, "store": 256, "s3_files": 1000, "tree": 20_000_000}
QUICK = {"warm": 0.1, "seconds": 0.3, "files": 300, "replay": 32, "store": 16, "s3_files": 50, "tree": 1_000_000}


class Failed(Exception):
    """A system cannot do a job; one line that says why."""


def c_job(run, *args, timeout=60):
    """Runs bench_job: (operations a second, p50, p99, p99.9 in us, operations in all)."""
    r = sh([run.job, *map(str, args)], timeout)
    if r.returncode:
        raise Failed(r.stderr.strip().replace("\n", " ")[-160:] or f"exit {r.returncode}")
    return [float(x) for x in r.stdout.split()]


def within(system, fn):
    """What `fn` gives for a directory of the system, and the CPU seconds of those who serve it meanwhile."""
    top = f"{system.dir}/b{time.monotonic_ns() % 10**9}"
    os.mkdir(top)
    try:
        before = system.cpu_seconds()
        out = fn(top)
        return out, system.cpu_seconds() - before
    finally:
        shutil.rmtree(top, ignore_errors=True)


def cost(system, cpu, operations):
    """CPU seconds for 100,000 operations, if someone serves the system."""
    return {"cpu": ("CPU s per 100,000", cpu * 1e5 / max(1, operations))} if system.pids() else {}


def write4k(run, system):
    p = run.p
    r, cpu = within(system, lambda d: c_job(run, "write", d, 1, BLOCK, 0, p["warm"], p["seconds"], 64 * MIB))
    return {"p50": ("us", r[1]), "p99": ("us", r[2]), "rate": ("op/s", r[0]), **cost(system, cpu, r[4])}


def stream(run, system):
    p = run.p
    r, cpu = within(system, lambda d: c_job(run, "write", d, 1, MIB, 0, p["warm"], p["seconds"], 512 * MIB))
    per = {"cpu": ("CPU s per GiB", cpu * 1024 / max(1, r[4]))} if system.pids() else {}
    return {"rate": ("MB/s", r[0] * MIB / 1e6), "p99": ("us", r[2]), **per}


def fsyncs(writers):
    def job(run, system):
        r, cpu = within(system, lambda d: c_job(run, "write", d, writers, BLOCK, 1, run.p["warm"], run.p["seconds"], 64 * MIB))
        return {"rate": ("op/s", r[0]), "p50": ("us", r[1]), "p99": ("us", r[2]), **cost(system, cpu, r[4])}
    return job


def files(sync):
    def job(run, system):
        n = run.p["files"] // (5 if sync else 1)
        r, cpu = within(system, lambda d: c_job(run, "files", d, n, BLOCK, sync, 3 * run.p["seconds"], timeout=120))
        return {"rate": ("files/s", r[0]), "p50": ("us", r[1]), "p99": ("us", r[2]), **cost(system, cpu, r[4])}
    return job


def sqlite(run, system):
    r, _ = within(system, lambda d: sh([sys.executable, __file__, "--sqlite", d, str(run.p["seconds"])], 60))
    if r.returncode:
        raise Failed(r.stderr.strip().splitlines()[-1][-160:] if r.stderr.strip() else f"exit {r.returncode}")
    rate, p50 = map(float, r.stdout.split())
    return {"rate": ("tx/s", rate), "p50": ("us", p50)}


def sqlite_loop(top, seconds):
    c = sqlite3.connect(top + "/t.db", isolation_level=None, timeout=5)
    if c.execute("PRAGMA journal_mode=DELETE").fetchone()[0] != "delete":
        sys.exit("no journal of that mode")
    c.execute("PRAGMA synchronous=FULL")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INTEGER)")
    took, first = [], time.perf_counter()
    t = first
    while t < first + seconds:
        c.execute("INSERT INTO t(a,b) VALUES(?,?)", (f"row {len(took)}" + "x" * 100, len(took)))
        took.append(time.perf_counter() - t)
        t += took[-1]
    if c.execute("SELECT count(*) FROM t").fetchone()[0] != len(took) or c.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
        sys.exit("the database is not whole")
    print(len(took) / sum(took), sorted(took)[len(took) // 2] * 1e6)


def tree(run, system):
    """metadata-job: untar, git status twice, find, rm -rf."""
    raw = f"{run.base}/tree.tsv"
    if os.path.exists(raw):
        os.unlink(raw)
    env = {**os.environ, "BENCH_DIR": run.cache, "TREE_BYTES": str(run.p["tree"])}
    r, _ = within(system, lambda d: sh([f"{ROOT}/mount-scripts/metadata-job", d, system.name, raw], 180, env=env))
    out = {}
    if os.path.exists(raw):
        with open(raw) as f:
            out = {x[2]: ("s", float(x[4])) for x in (line.split("\t") for line in f)}
    if r.returncode and not out:
        raise Failed(r.stderr.strip().replace("\n", " ")[-160:])
    return out


def clone(run, system):
    def job(top):
        began = time.monotonic()
        r = sh(["git", "-c", "safe.directory=*", "clone", "-q", "--no-hardlinks", run.repository, top + "/r"], 120)
        if r.returncode:
            raise Failed(r.stderr.strip().replace("\n", " ")[-160:])
        return time.monotonic() - began
    return {"git clone": ("s", within(system, job)[0])}


def beside(run, system):
    """fsync of one process alone, and beside another one's flood of 1 MiB writes."""
    p = run.p
    seconds = 2 * p["seconds"]

    def job(top):
        os.mkdir(top + "/small")
        os.mkdir(top + "/flood")
        alone = c_job(run, "write", top + "/small", 1, BLOCK, 1, p["warm"], seconds, 64 * MIB)
        flood = subprocess.Popen([run.job, "write", top + "/flood", "1", str(MIB), "0", "0", str(seconds + 0.6), str(1024 * MIB)],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            time.sleep(0.3)
            both = c_job(run, "write", top + "/small", 1, BLOCK, 1, 0, seconds, 64 * MIB, timeout=30 + 10 * seconds)
            rate = flood.communicate(timeout=60)[0].split()
        finally:
            if flood.poll() is None:
                os.killpg(flood.pid, 9)
                flood.wait()
        return alone, both, float(rate[0]) * MIB / 1e6 if rate else 0
    (alone, both, rate), _ = within(system, job)
    return {"p99 alone": ("us", alone[2]), "p99 beside": ("us", both[2]), "p50 beside": ("us", both[1]), "flood": ("MB/s", rate)}


def replay(run, system):
    """A log of many files, the gateway killed, mounted again."""
    g, mib = system.g, run.p["replay"]
    top = g.path("replay")
    os.mkdir(top)
    c_job(run, "files", top, mib * 16, 64 << 10, 0, 60, timeout=120)
    held = g.status()["log"]["dirty_bytes"] / (1 << 30)
    g.kill9()
    g.detach()
    system.start()
    took = system.mount_seconds
    shutil.rmtree(top)
    return {"mount": ("s", took), "log": ("GiB", held), "per GiB": ("s/GiB", took / held)}


def sources(run):
    """Files of many sizes, for the writeback: made once a run."""
    top, mib = run.base + "/sources", run.p["store"]
    if not os.path.isdir(top):
        os.mkdir(top)
        sizes = [4 << 10] * 256 + [256 << 10] * 28 + [4 << 20] * 2
        left, block = mib * MIB, os.urandom(4 << 20)
        for i in range(1 << 20):
            size = min(left, sizes[i % len(sizes)])
            if not size:
                break
            os.makedirs(f"{top}/{i // 256}", exist_ok=True)
            with open(f"{top}/{i // 256}/f{i}", "wb") as f:
                f.write(block[i % 4096:i % 4096 + size])
            left -= size
    return top


def store(run, system):
    """`cp` and sync of a tree, and a flush of the same tree out of the log."""
    top, mb = sources(run), run.p["store"] * MIB / 1e6
    sh(["sync", "-f", run.base], 120)
    began = time.monotonic()
    sh(["cp", "-r", top, run.base + "/copied"], 120)
    copied = time.monotonic() - began
    sh(["sync", "-f", run.base], 120)
    synced = time.monotonic() - began
    shutil.rmtree(run.base + "/copied")
    sh(["cp", "-r", top, system.dir + "/stored"], 120)
    sh(["sync", "-f", run.base], 120)
    began, before = time.monotonic(), system.cpu_seconds()
    r = system.g.flush()
    took, cpu = time.monotonic() - began, system.cpu_seconds() - before
    if r.returncode:
        raise Failed(f"flush: {r.stderr.strip()[-160:]}")
    shutil.rmtree(system.dir + "/stored")
    return {"flush": ("MB/s", mb / took), "cp": ("MB/s", mb / copied), "cp, synced": ("MB/s", mb / synced),
            "cpu": ("CPU s per GiB", cpu * 1024 / run.p["store"])}


def store_s3(run, system):
    """`rclone copy --transfers 16` of small files, and a flush of the same out of a log."""
    s, n, src = run.store(), run.p["s3_files"], run.base + "/small"
    if not os.path.isdir(src):
        for i in range(n):
            os.makedirs(f"{src}/{i % 20:02d}", exist_ok=True)
            with open(f"{src}/{i % 20:02d}/f{i}", "wb") as f:
                f.write(os.urandom(1 + i * 7919 % 8192))
    run.s3_round = getattr(run, "s3_round", 0) + 1
    g = run.s.gateway(f"{run.sub}s3-{run.s3_round}", "--log-size", "1GiB", "--writeback-age", "10m", "--transport", system.g.options[3],
                      backing=s.url(f"forelog{run.s3_round}"))
    g.mount()
    sh(["cp", "-r", src + "/.", g.mnt], 600)
    began = time.monotonic()
    r = g.flush()
    ours = time.monotonic() - began
    g.umount()
    if r.returncode:
        raise Failed(f"flush: {r.stderr.strip()[-160:]}")
    began = time.monotonic()
    s.rclone("copy", "--transfers", "16", src, s.at(f"rclone{run.s3_round}"), timeout=900)
    return {"flush": ("files/s", n / ours), "rclone copy": ("files/s", n / (time.monotonic() - began))}


# So slow on peers that they do them once.
SLOW = ("tree", "clone")
EVERYONE = ("ext4", "forelog", "juicefs", "rclone", "s3fs")
# name: (what it is, who takes part, how)
JOBS = {
    "write": ("4 KiB write, warm", (*EVERYONE, "floor"), write4k),
    "stream": ("1 MiB stream", (*EVERYONE, "floor"), stream),
    "fsync1": ("write + fsync, 1 writer", EVERYONE, fsyncs(1)),
    "fsync16": ("write + fsync, 16 writers", EVERYONE, fsyncs(16)),
    "small": ("small files (create, 4 KiB, close)", (*EVERYONE, "floor"), files(0)),
    "small_fsync": ("small files with fsync", EVERYONE, files(1)),
    "sqlite": ("SQLite, DELETE, FULL", EVERYONE, sqlite),
    "tree": ("source tree", EVERYONE, tree),
    "clone": ("git clone", EVERYONE, clone),
    "beside": ("fsync beside a flood", EVERYONE, beside),
    "replay": ("replay at mount", ("forelog",), replay),
    "store": ("writeback to a directory", ("forelog",), store),
    "store_s3": ("writeback to S3", ("forelog",), store_s3),
}

if __name__ == "__main__" and sys.argv[1:2] == ["--sqlite"]:
    sqlite_loop(sys.argv[2], float(sys.argv[3]))
