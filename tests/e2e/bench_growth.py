"""mount-scripts/bench --growth: what an operation costs, and what memory the gateway holds, with more clients, files and log."""
import os
import shutil
import time

import bench_jobs
import bench_systems
import bench_tables
from bench_jobs import BLOCK, MIB, c_job
from harness import sh


class Row:
    """What one step measured, and of what the growth is told: costs by name, each per operation."""

    def __init__(self, what, size, costs, memory):
        self.what, self.size, self.costs, self.memory = what, size, costs, memory


def say(run, rows, row):
    rows.append(row)
    costs = ", ".join(f"{k} {bench_tables.number(v)}" for k, v in row.costs.items())
    print(f"  {row.what}, {row.size}: {costs}; resident {row.memory[0]:.0f} MiB, no file's {row.memory[1]:.0f} MiB", flush=True)


def clients(run, system, rows, sync):
    """So many processes write 4 KiB, each to a file of its own, with or without fsync after each."""
    for n in (1, 4, 16, 64):
        r, cpu = bench_jobs.within(system, lambda d: c_job(run, "write", d, n, BLOCK, sync, run.p["warm"], 1.5 * run.p["seconds"], 16 * MIB))
        costs = {"us an operation": 1e6 / r[0], "gateway's CPU us an operation": cpu * 1e6 / r[4], "p99 us": r[2]}
        say(run, rows, Row("clients, 4 KiB write" + (" + fsync" if sync else ""), f"{n}", costs, system.memory_mib()))
        bench_systems.settle()


def walk(top):
    began = time.monotonic()
    n = sum(1 for d, _, names in os.walk(top) for f in names if os.stat(f"{d}/{f}").st_size >= 0)
    return (time.monotonic() - began) * 1e6 / max(1, n)


def files(run, system, rows, counts):
    """So many files of 4 KiB: made, looked at, stored, looked at after a remount, removed."""
    for n in counts:
        top = system.dir + "/many"
        os.mkdir(top)
        made = c_job(run, "files", top, n, BLOCK, 0, 900, timeout=1000)
        seen = walk(top)
        before, began = system.cpu_seconds(), time.monotonic()
        r = system.g.run("flush", system.dir, timeout=1800)
        if r.returncode:
            raise bench_jobs.Failed(f"flush: {r.stderr.strip()[-160:]}")
        stored, cpu = (time.monotonic() - began) * 1e6 / n, (system.cpu_seconds() - before) * 1e6 / n
        memory = system.memory_mib()
        system.stop()
        system.start()
        anew = walk(top)
        began = time.monotonic()
        shutil.rmtree(top)
        removed = (time.monotonic() - began) * 1e6 / n
        system.g.run("flush", system.dir, timeout=1800)
        costs = {"us to make one": 1e6 / made[0], "us to look at one": seen, "us to store one": stored, "gateway's CPU us to store one": cpu,
                 "us to look at one after a remount": anew, "us to remove one": removed}
        say(run, rows, Row("files", f"{n:,}", costs, memory))


def killed_and_mounted(run, system):
    """Seconds that the mount takes after kill -9."""
    system.g.kill9()
    system.g.detach()
    run.start(system)
    return system.mount_seconds


def log(run, base, rows, sizes):
    """So much in the log, in files of 64 KiB: written, and replayed after kill -9."""
    for mib in sizes:
        # A log of its own each, less than half of which is filled: from there on it would go to the backing.
        system = bench_systems.Forelog(run, f"log{mib}", base.transport or "auto", "--writeback-age", "1h",
                                        log_size=f"{mib * 5 // 2 + 256}MiB")
        run.start(system)
        empty = killed_and_mounted(run, system)
        top = system.dir + "/held"
        os.mkdir(top)
        before = system.cpu_seconds()
        r = c_job(run, "files", top, mib * 16, 64 << 10, 0, 900, timeout=1000)
        cpu = system.cpu_seconds() - before
        memory, held = system.memory_mib(), system.g.status()["log"]["dirty_bytes"] / (1 << 30)
        took = killed_and_mounted(run, system)
        after = system.memory_mib()
        shutil.rmtree(top)
        system.stop()
        sh(["rm", "-rf", system.g.log])
        costs = {"s to write a GiB": (1 << 30) / (r[0] * 65536), "gateway's CPU s a GiB": cpu / held,
                 "s to mount": took,
                 "s to replay a GiB, beyond an empty log's": max(took - empty, 0.001) / held, "resident MiB after it": after[0]}
        say(run, rows, Row("log", f"{mib} MiB", costs, memory))


def table(rows):
    """Costs of each step, and in brackets how many times that of the smallest: more than 1 grows faster than linear."""
    out = []
    for what in dict.fromkeys(r.what for r in rows):
        mine = [r for r in rows if r.what == what]
        head = [what, *mine[0].costs, "resident MiB", "no file's MiB"]
        body = []
        for r in mine:
            cells = [f"{bench_tables.number(v)} ({v / mine[0].costs[k]:.2f})" if mine[0].costs[k] else bench_tables.number(v) for k, v in r.costs.items()]
            body.append([r.size, *cells, *(bench_tables.number(m) for m in r.memory)])
        out += [*bench_tables.grid(head, body), ""]
    return out[:-1]


def measure(run, transport):
    """(all values, the lines of the section)"""
    a, rows = run.a, []
    counts = [100, 1000] if a.quick else [1000, 10_000, 100_000] + [1_000_000] * a.long
    sizes = [8, 32] if a.quick else [64, 512, 4096] + [8192] * a.long
    system = bench_systems.Forelog(run, "growth", transport, "--writeback-age", "10m")
    run.start(system)
    clients(run, system, rows, 0)
    clients(run, system, rows, 1)
    files(run, system, rows, counts)
    system.stop()
    log(run, system, rows, sizes)
    results = bench_tables.Results()
    for r in rows:
        for k, v in {**r.costs, "resident MiB": r.memory[0], "no file's MiB": r.memory[1]}.items():
            results.add(r.what, r.size, {k: ("", v)})
    lines = [f"Requests over {system.transport or transport}. Each figure is for one operation; in brackets how many times that of the first row: what stays near 1 grows as its "
             "number does. Resident memory is the gateway's (VmRSS, RssAnon) at the end of the step.", "", *table(rows)]
    return results, lines
