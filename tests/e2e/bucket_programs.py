"""More of a bucket: what s3fs makes of it, a cluster that loses a server while it is drained into, and with --long the program set of
`programs` and minutes of outages under load. FORELOG_PART=s3fs,cluster,programs,minutes picks."""
import json
import os
import random
import signal
import stat
import subprocess
import threading
import time
import urllib.request

import bucket
import maketree
import programs as set_of
import tree
from faultproxy import Proxy
from harness import FAKE, LONG, Suite, get, put, sh, wait_until
from stores import KEY, SECRET, Seaweed, ports
from stores import program as tool

MIB = 1 << 20


# ---- what s3fs makes of it

def s3fs(s, store):
    """Kinds, modes, owners, sizes, times, targets and bytes of files and symlinks; directories' metadata SeaweedFS does not keep."""
    g = bucket.gateway(s, store, "s3fs", "s3fs", "--writeback-age", "1s")
    g.mount()
    os.mkdir(g.path("t"))
    rng = random.Random(5)
    maketree.many_small(g.path("t"), rng, 120)
    maketree.attributes(g.path("t"), rng)
    os.symlink("small/00", g.path("t/link"))
    put(g.path("t/large"), rng.randbytes(18 * MIB))
    maketree.stamp(g.path("t"), rng)
    want = tree.snapshot(g.mnt)
    s.check(g.umount().returncode == 0, "umount returns 0")
    password, mnt = os.path.join(s.scratch, "s3fs-password"), s.dir("s3fs-mnt")
    put(password, f"{KEY}:{SECRET}".encode())
    os.chmod(password, 0o600)
    said = os.path.join(s.scratch, "s3fs-said")
    with open(said, "wb") as log:
        p = subprocess.Popen(["s3fs", f"{store.bucket}:/s3fs", mnt, "-f", "-o", f"url={store.endpoint}", "-o", "use_path_request_style", "-o", "ro",
                              "-o", f"passwd_file={password}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    s.undo.append(lambda: end_of_s3fs(p, mnt))
    if not s.check(wait_until(lambda: p.poll() is not None or os.path.ismount(mnt), 30, 0.1) and p.poll() is None, "s3fs mounts the bucket", get(said)[-600:]):
        return
    got = tree.snapshot(mnt)
    bad = []
    for path, e in want.items():
        there = got.get(path, {})
        if stat.S_ISREG(e["type"]):
            fields = ("type", "mode", "uid", "gid", "size", "hash")
        elif stat.S_ISLNK(e["type"]):
            fields = ("type", "uid", "gid", "target")
        elif stat.S_ISDIR(e["type"]):
            fields = ("type",)
        else:
            fields = ("type", "mode", "uid", "gid")
        bad += [f"{path}: {f} {there.get(f)} for {e[f]}" for f in fields if there.get(f) != e[f]]
        if not stat.S_ISDIR(e["type"]) and there.get("mtime", 0) // 10**9 != e["mtime"] // 10**9:
            bad.append(f"{path}: mtime {there.get('mtime')} for {e['mtime']}")
    files = sum(not stat.S_ISDIR(e["type"]) for e in want.values())
    s.check(not bad, f"s3fs reads kind, mode, owner, group, size, time and bytes of {files} files", bad[:8])
    end_of_s3fs(p, mnt)


def end_of_s3fs(p, mnt):
    if p.poll() is None:
        sh(["umount", "-l", mnt], 20)
        p.terminate()
        try:
            p.wait(10)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


# ---- a cluster of three

class Cluster(Seaweed):
    """Three volume servers, each object on two of them; master, filer and the S3 side are with the first."""

    def __init__(self, suite, name):
        super().__init__(suite, name)
        self.others = []
        suite.undo.append(lambda: [self.kill(n) for n in range(len(self.others))])

    def command(self):
        return [*super().command(), "-master.defaultReplication=001"]

    def start(self):
        # The first one makes the bucket once there is somebody to keep its replicas.
        waits = threading.Thread(target=self.add, daemon=True)
        waits.start()
        super().start()
        waits.join()
        if not wait_until(lambda: self.servers() == 3, 60, 0.5):
            raise RuntimeError("the cluster does not come together")

    def add(self):
        if not wait_until(lambda: self.servers() >= 1, 60, 0.2):
            return
        for n in (1, 2):
            at = self.suite.dir(f"store-{self.name}-{n}")
            with open(os.path.join(at, "log"), "ab") as log:
                self.others.append(subprocess.Popen(
                    [tool("weed"), f"-logdir={at}", "volume", f"-dir={at}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-port={self.port + 15 + n}",
                     f"-port.grpc={self.port + 20 + n}", f"-mserver=127.0.0.1:{self.port + 1}.{self.port + 11}", "-max=40"],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True))

    def servers(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port + 1}/dir/status", timeout=5) as r:
                top = json.load(r)["Topology"]
            return sum(len(rack.get("DataNodes") or []) for c in top.get("DataCenters") or [] for rack in c.get("Racks") or [])
        except (OSError, ValueError, KeyError):
            return 0

    def kill(self, n):
        p = self.others[n]
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()


def cluster(s):
    store = Cluster(s, "cluster")
    store.start()
    g = bucket.gateway(s, store, "cluster", "c", "--writeback-age", "200ms")
    g.mount()
    rng = random.Random(9)
    want = {}

    def write(tag, n):
        for i in range(n):
            os.makedirs(g.path(f"{tag}/{i % 9}"), exist_ok=True)
            name = f"{tag}/{i % 9}/f{i}"
            want[name] = rng.randbytes(20 * MIB if i % 150 == 149 else rng.choice((0, 10, 4000, 70000)))
            put(g.path(name), want[name])

    write("before", 200)
    s.check(g.run("flush", g.mnt, "--timeout", "120s", timeout=150).returncode == 0, "stored by three servers")
    write("during", 900 if LONG else 300)
    queued = g.status()["log"]["dirty_bytes"]
    store.kill(0)
    s.check(queued > 0, "a server is killed while the log is drained", f"{queued >> 10} KiB were left")
    write("after", 200)
    for name in rng.sample(sorted(n for n in want if n.startswith("before")), 40):
        want[name] = rng.randbytes(3000)
        put(g.path(name), want[name])
    r = g.run("flush", g.mnt, "--timeout", "240s", timeout=260)
    s.check(r.returncode == 0, "all drains to the two that are left", f"{r.stderr} {g.status().get('reason')}")
    s.check(not g.status()["writeback"]["conflicts"], "no conflict is seen where there is none", g.status()["writeback"])
    g = bucket.real(s, g, store, "c", "a cluster that lost a server")
    bad = [n for n, body in want.items() if get(g.path(n)) != body]
    s.check(not bad, f"{len(want)} files are there, whole", bad[:8])
    s.check(g.umount().returncode == 0, "umount returns 0")
    store.kill(1)
    store.stop()


# ---- the program set

def programs(s, store):
    src, mid, repo = set_of.sources(s, plain=True)
    want_src, want_mid = tree.snapshot(src), tree.snapshot(mid)
    g = bucket.gateway(s, store, "programs", "p")
    g.mount()
    began = time.monotonic()
    head = set_of.work(s, g.mnt, src, mid, repo)
    s.note(f"on the mount: {time.monotonic() - began:.0f} s")
    set_of.against_source(s, "mount", tree.snapshot(g.mnt), want_src, want_mid)
    began = time.monotonic()
    r = g.run("flush", g.mnt, "--timeout", "10m", timeout=700)
    s.check(r.returncode == 0, f"flush returns 0 ({time.monotonic() - began:.0f} s)", r.stderr)
    g = bucket.real(s, g, store, "p", "the program set")
    got = tree.snapshot(g.mnt)
    set_of.against_source(s, "bucket", got, want_src, want_mid)
    set_of.sqlite_in(s, g.mnt)
    r = set_of.git(g.path("git/clone"), "fsck --full --strict --no-progress && git --no-optional-locks status --porcelain")
    s.check(r.returncode == 0 and r.stdout == "", "bucket: git fsck and status clean", r.stdout + r.stderr)
    control = s.dir("control")
    same_head = set_of.work(s, control, src, mid, repo)
    s.check(head == same_head and len(head) == 41, "git history equals the control's", f"{head} {same_head}")
    diffs = tree.compare(tree.snapshot(control), got, set_of.volatile)
    s.check(not diffs, f"the bucket equals the control copy ({len(got)} entries)", "\n    ".join(diffs))
    s.check(g.umount().returncode == 0, "umount returns 0")


# ---- minutes of outages under load

def body(name):
    """What a file of this name has in it, whoever asks: its name says its size."""
    size = int(name.rsplit("-", 1)[1])
    return ((name.encode() + b"\n") * (size // (len(name) + 1) + 1))[:size]


def load(top, w, out, seconds):
    """A program at work: files that get their name when they are whole, are read back, and removed later. Says its slowest calls, of each kind."""
    rng, n, slow, end, live = random.Random(w), 0, {"write": 0.0, "rename": 0.0, "read": 0.0, "remove": 0.0}, time.monotonic() + seconds, []

    def timed(what, fn, *args):
        began = time.monotonic()
        r = fn(*args)
        slow[what] = max(slow[what], time.monotonic() - began if n % 100 else 0.0)  # 17 MiB are written in many calls
        return r

    while time.monotonic() < end:
        n += 1
        name = f"w{w}-{n}-{rng.choice((0, 100, 5000, 70000)) if n % 100 else 17 * MIB}"
        timed("write", put, f"{top}/tmp{w}", body(name))
        timed("rename", os.rename, f"{top}/tmp{w}", f"{top}/{name}")
        if timed("read", get, f"{top}/{name}") != body(name):
            return 2
        live.append(name)
        if len(live) > 150:
            timed("remove", os.unlink, f"{top}/{live.pop(rng.randrange(len(live)))}")
        time.sleep(0.02)
    put(out, f"{json.dumps(slow)}\n{chr(10).join(live)}\n".encode())
    return 0


def look(s, store, bad, seen, end):
    """Reads objects at the store itself: a name that is there has all of its bytes."""
    while time.monotonic() < end[0]:
        r = store.rclone("lsf", store.at("m/d"), timeout=30)
        names = [n for n in r.stdout.split() if n.startswith("w") and n.count("-") == 2]
        for n in random.sample(names, min(6, len(names))):
            r = sh([tool("rclone"), "--config", "", "cat", store.at(f"m/d/{n}"), "--retries", "1"], 30, env=look_env(store))
            if r.returncode == 0 and r.stdout:
                seen[0] += 1
                if r.stdout.encode() != body(n):
                    bad.append(f"{n}: {len(r.stdout)} bytes")
        time.sleep(0.2)


def look_env(store):
    config = {"TYPE": "s3", "PROVIDER": "Other", "ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET, "ENDPOINT": store.endpoint, "FORCE_PATH_STYLE": "true"}
    return {**os.environ, **{f"RCLONE_CONFIG_W_{k}": v for k, v in config.items()}}


def minutes(s, store):
    proxy = Proxy(s, store, ports(2))
    span = int(os.environ.get("FORELOG_OUTAGE", 180))
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
    # What is written in an outage has to fit.
    g = s.gateway("minutes", "--log-size", "8GiB", "--writeback-age", "500ms", "--cache-size", "0", backing=store.url("m"))
    kinds = os.environ.get("FORELOG_HOW", "slowed,hung,stopped").split(",")
    g.mount()
    os.environ["AWS_ENDPOINT_URL"] = store.endpoint
    os.mkdir(g.path("d"))
    cold = [f"cold-{i}-{MIB}" for i in range(60)]
    for n in cold:
        put(g.path(n), body(n))
    s.check(g.umount().returncode == 0, "stored")
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
    g.mount()
    os.environ["AWS_ENDPOINT_URL"] = store.endpoint
    slowed = [{"do": "status", "status": 500, "code": "InternalError", "chance": 0.03}, {"do": "reset", "chance": 0.01}, {"do": "lost", "chance": 0.01}]
    for how in kinds:
        kids = [s.spawn(load, g.path("d"), f"{how}{w}", os.path.join(s.scratch, f"{how}{w}"), span + 20) for w in range(3)]
        bad, seen, end = [], [0], [time.monotonic() + span + 20]
        looker = threading.Thread(target=look, args=(s, store, bad, seen, end), daemon=True)
        looker.start()
        time.sleep(10)
        if how == "slowed":
            proxy.set(*slowed, latency=1.0)
        elif how == "hung":
            store.pause(True)
        else:
            store.stop()
        until, worst, failed, right = time.monotonic() + span, 0.0, 0, 0
        while time.monotonic() < until:
            n = cold[0]
            cold.append(cold.pop(0))
            began = time.monotonic()
            try:
                right += get(g.path(n)) == body(n)
            except OSError:
                failed += 1
            worst = max(worst, time.monotonic() - began)
            time.sleep(1)
        proxy.set()
        if how == "hung":
            store.pause(False)
        elif how == "stopped":
            store.start()
        codes = [k.join(60) for k in kids]
        end[0] = 0
        looker.join(60)
        calls = [json.loads(get(os.path.join(s.scratch, f"{how}{w}")).splitlines()[0]) for w in range(3) if not codes[w]]
        worst_of = {k: max(c[k] for c in calls) for k in calls[0]} if calls else {}
        slow = max([99 if not calls else 0, *worst_of.values()])
        s.check(codes == [0, 0, 0] and slow < 1, f"store {how} for {span} s: programs went on, no call on local data took 1 s", f"{codes}, {worst_of}")
        s.note(f"{how}: slowest calls, ms: { {k: round(v * 1000) for k, v in worst_of.items()} }; uncached reads: {right} right, {failed} failed, slowest {worst:.1f} s; "
               f"{seen[0]} objects looked at")
        s.check(worst < 30 and (right if how == "slowed" else failed), f"store {how}: uncached reads end in bounded time", f"{worst:.1f} s, {right} right, {failed} failed")
        s.check(not bad and seen[0] > 5, f"store {how}: no object was half a file ({seen[0]} looked at)", bad[:5])
        began = time.monotonic()
        r = g.run("flush", g.mnt, "--timeout", "180s", timeout=200)
        s.check(r.returncode == 0 and g.status().get("state") == "serving", f"store {how}: all drains afterwards ({time.monotonic() - began:.0f} s)",
                f"{r.stderr} {g.status().get('reason')}")
    g = bucket.real(s, g, store, "m", "after the outages")
    lists = [get(os.path.join(s.scratch, f"{how}{w}")).decode().splitlines()[1:] for how in kinds for w in range(3)]
    wrong = [n for names in lists for n in names if get(g.path("d/" + n)) != body(n)]
    s.check(not wrong, f"all {sum(map(len, lists))} files are there, whole", wrong[:5])
    s.check(not g.status()["writeback"]["conflicts"], "no conflict is seen where there is none")
    s.check(g.umount().returncode == 0, "umount returns 0")


def main():
    with Suite("bucket_programs") as s:
        if FAKE:
            s.check(True, "plain directories have no buckets")
            return
        picked = (os.environ.get("FORELOG_PART") or ("s3fs,cluster,programs,minutes" if LONG else "s3fs,cluster")).split(",")
        store = Seaweed(s, "weed")
        if set(picked) - {"cluster"}:
            store.start()
        for part in (s3fs, programs, minutes):
            if part.__name__ in picked:
                part(s, store)
        store.stop()
        if "cluster" in picked:
            cluster(s)


if __name__ == "__main__":
    main()
