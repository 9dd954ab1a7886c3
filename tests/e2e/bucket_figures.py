"""The figures of docs/BENCHMARKS.md on buckets: `FORELOG_BIN=… python3 tests/e2e/bucket_figures.py PART… [--pairs N]`. Not run by
mount-scripts/test: it takes long, and only what is measured in one run can be compared.

  read   a file of 1 GiB read through a mount (no cache, filling the cache, from it after a remount) and by `rclone cat`, in turn
  link   the same without cache, with the store behind a link of 1 and of 2.5 Gbit/s (a network namespace, tc's tbf)
  drain  10,000 small files stored by `forelog flush` and by `rclone copy --transfers 16`, in turn
  list   `ls -l` of 10,000 objects, first, again, and after a remount
  edit   a file of 4 GiB with 100 changes of 4 KiB: bytes uploaded, memory"""
import os
import random
import statistics
import sys
import time

from harness import Suite, put, sh, wait_until
from stores import KEY, SECRET, Seaweed, program

MIB = 1 << 20
PAIRS = int(sys.argv[sys.argv.index("--pairs") + 1]) if "--pairs" in sys.argv else 5


def timed(fn, *args):
    began = time.monotonic()
    fn(*args)
    return time.monotonic() - began


def requests(g):
    return {k: n for k, n in g.status().get("store_requests", {}).items() if n}


def gateway(s, store, name, prefix, *options):
    return s.gateway(name, "--log-size", "8GiB", *options, backing=store.url(prefix))


def rclone_cat(store, path):
    env = {"TYPE": "s3", "PROVIDER": "Other", "ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET, "ENDPOINT": store.endpoint}
    words = " ".join(f"RCLONE_CONFIG_W_{k}={v}" for k, v in env.items())
    return f"{words} {program('rclone')} --config '' cat {store.at(path)} > /dev/null"


def median(v):
    return statistics.median(v)


def read(s, store):
    size = 1024
    big = s.dir("big") + "/big"
    block = os.urandom(64 * MIB)
    with open(big, "wb") as f:
        for i in range(size // 64):
            f.write(block[i:] + block[:i])
    store.rclone("copyto", big, store.at("r/big"), timeout=600)
    os.unlink(big)
    ways = {"no cache": ["--cache-size", "0"], "filling": ["--cache-size", "4GiB"], "cached": ["--cache-size", "4GiB"]}
    took = {w: [] for w in ["rclone", *ways]}
    gs = {"no cache": gateway(s, store, "plain", "r"), "filling": gateway(s, store, "cache", "r")}
    gs["cached"] = gs["filling"]
    for _ in range(PAIRS):
        for w in took:
            if w == "rclone":
                took[w].append(timed(sh, rclone_cat(store, "r/big")))
                continue
            g = gs[w]
            if w == "filling":
                sh(["rm", "-rf", g.log + "/cache"])
            g.mount(*ways[w])
            took[w].append(timed(sh, f"cat {g.path('big')} > /dev/null"))
            s.note(f"{w}: {took[w][-1]:.2f} s, {requests(g)}, cache {g.status().get('read_cache')}")
            wait_until(lambda: g.status()["read_cache"]["entries"] >= 2048 or w != "filling", 20, 0.2)
            g.umount()
    for w, v in took.items():
        s.note(f"read 1 GiB, {w}: median {median(v):.2f} s ({size / median(v):.0f} MiB/s), all {[round(x, 2) for x in v]}; "
               f"rclone cat / this {median(took['rclone']) / median(v):.2f}")


class FarWeed(Seaweed):
    """SeaweedFS in a network namespace of its own, at the other end of a link."""
    ns, net = "forelog-far", "10.213.97."

    @property
    def endpoint(self):
        return f"http://{self.net}2:{self.port}"

    def command(self):
        words = [w.replace("-ip.bind=127.0.0.1", "-ip.bind=0.0.0.0") for w in super().command()]
        return ["ip", "netns", "exec", self.ns, *words]

    def link(self):
        self.suite.undo.append(lambda: sh(["ip", "netns", "del", self.ns]))
        for words in (f"netns add {self.ns}", f"link add flnear type veth peer name flfar netns {self.ns}", f"addr add {self.net}1/24 dev flnear", "link set flnear up",
                      f"-n {self.ns} addr add {self.net}2/24 dev flfar", f"-n {self.ns} link set flfar up", f"-n {self.ns} link set lo up"):
            r = sh(["ip", *words.split()])
            if r.returncode:
                raise RuntimeError(f"ip {words}: {r.stderr.strip()}")

    def speed(self, rate):
        r = sh(["ip", "netns", "exec", self.ns, "tc", "qdisc", "replace", "dev", "flfar", "root", "tbf", "rate", rate, "burst", "1mb", "latency", "50ms"])
        if r.returncode:
            raise RuntimeError(f"tc: {r.stderr.strip()}")


def link(s, _):
    near = os.environ["AWS_ENDPOINT_URL"]
    store = FarWeed(s, "far")
    store.link()
    store.start()
    big = s.dir("far-big") + "/big"
    block = os.urandom(64 * MIB)
    with open(big, "wb") as f:
        for i in range(16):
            f.write(block[i:] + block[:i])
    store.rclone("copyto", big, store.at("r/big"), timeout=600)
    os.unlink(big)
    g = gateway(s, store, "far", "r")
    for rate in ("1gbit", "2500mbit"):
        store.speed(rate)
        theirs, ours = [], []
        for _ in range(PAIRS):
            theirs.append(timed(sh, rclone_cat(store, "r/big")))
            g.mount("--cache-size", "0")
            ours.append(timed(sh, f"cat {g.path('big')} > /dev/null"))
            g.umount()
        s.note(f"read 1 GiB over {rate}: {median(ours):.2f} s {[round(x, 2) for x in ours]}, rclone cat {median(theirs):.2f} s {[round(x, 2) for x in theirs]}; "
               f"rclone cat / this {median(theirs) / median(ours):.2f}")
    store.stop()
    os.environ["AWS_ENDPOINT_URL"] = near


def drain(s, store):
    n, src = 10000, s.dir("many")
    rng = random.Random(1)
    for i in range(n):
        os.makedirs(f"{src}/{i % 100:02d}", exist_ok=True)
        put(f"{src}/{i % 100:02d}/f{i}", rng.randbytes(rng.randrange(1, 8192)))
    ours, theirs, each = [], [], []
    for i in range(PAIRS):
        g = gateway(s, store, f"many{i}", f"many{i}", "--writeback-age", "10m")
        g.mount()
        sh(["cp", "-r", src + "/.", g.mnt], 600)
        before = sum(requests(g).values())
        ours.append(timed(g.flush))
        made = requests(g)
        each.append((sum(made.values()) - before) / n)
        g.umount()
        theirs.append(timed(lambda: store.rclone("copy", "--transfers", "16", src, store.at(f"rclone{i}"), timeout=900)))
        s.note(f"drain {ours[-1]:.2f} s, rclone {theirs[-1]:.2f} s, {each[-1]:.3f} requests a file, {made}")
    s.note(f"drain of {n} files: median {median(ours):.2f} s {[round(x, 2) for x in ours]}, rclone {median(theirs):.2f} s "
           f"{[round(x, 2) for x in theirs]}, ratio {median(ours) / median(theirs):.2f}, {max(each):.3f} requests a file")


def listing(s, store):
    n, src = 10000, s.dir("list")
    for i in range(n):
        put(f"{src}/f{i}", b"%d" % i)
    store.rclone("copy", "--transfers", "16", src, store.at("l/d"), timeout=900)
    time.sleep(4)
    g = gateway(s, store, "list", "l")
    for what in ("first", "after a remount", "after another"):
        g.mount()
        for again in ("", " again"):
            before = requests(g)
            took = timed(sh, ["ls", "-l", g.path("d")])
            now = requests(g)
            s.note(f"ls -l of {n}, {what}{again}: {took:.2f} s, asked {({k: v - before.get(k, 0) for k, v in now.items() if v > before.get(k, 0)})}")
        wait_until(lambda: g.status()["read_cache"]["entries"] >= n, 20, 0.2)
        g.umount()


def edit(s, store):
    size = 4096
    g = gateway(s, store, "edit", "e", "--writeback-age", "10m")
    g.mount()
    block = os.urandom(64 * MIB)
    with open(g.path("f"), "wb") as f:
        for i in range(size // 64):
            f.write(block[i:] + block[:i])
    took = timed(g.flush)
    s.note(f"4 GiB stored in {took:.1f} s, {requests(g)}")
    g.umount()
    g.mount()
    pid, before = g.status()["pid"], requests(g)
    rng = random.Random(1)
    with open(g.path("f"), "r+b") as f:
        for _ in range(100):
            f.seek(rng.randrange(size * MIB - 4096))
            f.write(rng.randbytes(4096))
    took = timed(g.flush)
    now = requests(g)
    peak = [x for x in open(f"/proc/{pid}/status") if x.startswith("VmHWM")][0].split()[1]
    made = {k: v - before.get(k, 0) for k, v in now.items() if v > before.get(k, 0)}
    s.note(f"100 changes of 4 GiB stored in {took:.1f} s, asked {made}: at most {made.get('part', 0) * 5} MiB uploaded; "
           f"VmHWM {int(peak) // 1024} MiB")
    g.umount()


def main():
    parts = {"read": read, "link": link, "drain": drain, "list": listing, "edit": edit}
    with Suite("bucket_figures") as s:
        store = Seaweed(s, "weed")
        store.start()
        for name in [p for p in parts if p in sys.argv] or parts:
            parts[name](s, store)


if __name__ == "__main__":
    main()
