"""A bucket in trouble: errors, lost answers, denials, hangs. Nothing is lost, nothing is half, what is wrong is said, and others go on.

A proxy (faultproxy.py) stands between the gateway and SeaweedFS. --long: more rounds of everything."""
import os
import random
import time

from faultproxy import Proxy
from harness import FAKE, LONG, Suite, fails, get, put, wait_until
from stores import Seaweed, ports

MIB = 1 << 20
PATIENCE = 30
ROUNDS = 10 if LONG else 1


class Control:
    """What programs wrote, to be compared with what the store has."""

    def __init__(self, g):
        self.g, self.files = g, {}

    def put(self, name, data):
        put(self.g.path(name), data)
        self.files[name] = data

    def move(self, a, b):
        os.rename(self.g.path(a), self.g.path(b))
        self.files[b] = self.files.pop(a)

    def unlink(self, a):
        os.unlink(self.g.path(a))
        del self.files[a]

    def work(self, tag, rng, large=False):
        """Local work of each kind; TAG-old is there and stored. Returns the longest call in seconds."""
        slow = 0.0
        steps = []
        for n in range(12):
            steps.append((self.put, f"{tag}-{n}", rng.randbytes(rng.choice((0, 10, 3000, 70000)))))
        steps.append((self.put, "again", rng.randbytes(5000)))
        steps.append((self.move, f"{tag}-0", f"{tag}-moved"))
        steps.append((self.unlink, f"{tag}-1"))
        steps.append((self.unlink, f"{tag}-old"))
        for step in steps:
            began = time.monotonic()
            step[0](*step[1:])
            slow = max(slow, time.monotonic() - began)
        if large:
            self.put(f"{tag}-large", rng.randbytes(18 * MIB))
        return slow

    def compare(self, s, store, prefix, what):
        """After the unmount: the store has these files and no others."""
        out = s.dir(f"out-{prefix}")
        r = store.rclone("copy", store.at(prefix), out, "--exclude", "/.forelog/**")
        s.check(r.returncode == 0, f"{what}: rclone copies it all", r.stderr[-500:])
        there = {os.path.relpath(os.path.join(top, n), out) for top, _, names in os.walk(out) for n in names}
        s.check(there == set(self.files), f"{what}: the store has the files that programs left, no others", sorted(there ^ set(self.files))[:8])
        bad = [n for n, data in self.files.items() if n in there and get(os.path.join(out, n)) != data]
        s.check(not bad, f"{what}: each is whole", bad[:8])
        s.check(not store.uploads(), f"{what}: no upload is left open", store.uploads())


def status(n, code="", **more):
    return {"do": "status", "status": n, "code": code, **more}


# What happens, the rules, whether the gateway has to notice, and words of the reason it gives.
FAULTS = (
    ("5 % errors of all kinds", [status(500, "InternalError", chance=0.02), status(503, "SlowDown", chance=0.02, headers={"Retry-After": "1"}), status(429, chance=0.01)], None, ()),
    ("nothing but 500", [status(500, "InternalError", op="put")], True, ("500",)),
    ("nothing but SlowDown", [status(503, "SlowDown", op="put")], True, ("slow down",)),
    ("connections cut before the store hears", [{"do": "reset", "chance": 0.3}], None, ()),
    ("connections cut after the store has done it", [{"do": "lost", "op": "put", "chance": 0.5}, {"do": "lost", "op": "delete", "chance": 0.5}, {"do": "lost", "op": "post", "chance": 0.5}], None, ()),
    ("half answers", [{"do": "half", "op": "get", "chance": 0.5}, {"do": "half", "op": "list", "chance": 0.5}], None, ()),
    ("short answers", [{"do": "short", "op": "get", "chance": 0.5}, {"do": "short", "op": "list", "chance": 0.5}], None, ()),
    ("a clock that is off", [status(403, "RequestTimeTooSkewed", op="put")], True, ("clock",)),
    ("expired credentials", [status(400, "ExpiredToken")], True, ("expired",)),
    ("wrong credentials", [status(403, "SignatureDoesNotMatch")], True, ("secret",)),
    ("the bucket is gone", [status(404, "NoSuchBucket")], True, ("no such bucket",)),
    ("another region", [status(301, "PermanentRedirect")], True, ("region",)),
    ("denied to remove", [status(403, "AccessDenied", op="delete", key="/f/(?!.forelog)")], True, ("denies", "removing")),
)


def faults(s, store, proxy):
    rng = random.Random(7)
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
    g = s.gateway("faults", "--log-size", "512MiB", "--writeback-age", "200ms", backing=store.url("f"))
    g.mount()
    os.environ["AWS_ENDPOINT_URL"] = store.endpoint
    c = Control(g)
    c.put("again", b"first")
    c.put("cold/a", b"cold" * 10000) if not os.makedirs(g.path("cold")) else None
    # Only what the store has is removed there.
    for n in range(ROUNDS):
        for i in range(len(FAULTS)):
            c.put(f"r{n}-{i}-old", b"old")
    s.check(g.flush().returncode == 0, "stored")
    for n in range(ROUNDS):
        for i, (what, rules, noticed, words) in enumerate(FAULTS):
            before = proxy.set(*rules)
            slow = c.work(f"r{n}-{i}", rng, large="cut" in what or "5 %" in what)
            s.check(slow < 1, f"{what}: no local call waits", slow)
            if noticed:
                seen = wait_until(lambda: g.status().get("state") == "degraded" and all(w in (g.status().get("reason") or "") for w in words), 20, 0.2)
                s.check(seen, f"{what}: status says so, and why", g.status().get("reason"))
            else:
                time.sleep(1.5)
            now = proxy.counts()
            asked, span = now["requests"] - before["requests"], now["at"] - before["at"]
            s.check(asked < 400 + 60 * span, f"{what}: no hot loop", f"{asked} requests in {span:.1f} s")
            proxy.set()
            r = g.run("flush", g.mnt, "--timeout", "90s", timeout=100)
            s.check(r.returncode == 0 and g.status().get("state") == "serving", f"{what}: all drains afterwards", f"{r.stderr} {g.status().get('reason')}")
    s.check(not g.status()["writeback"]["conflicts"], "what we did ourselves is no conflict", g.status()["writeback"])
    s.check(g.umount().returncode == 0, "umount returns 0")
    c.compare(s, store, "f", "faults")


def denied_removals(s, g, c, proxy):
    """A death does not bring files back whose removal the store denies, neither under old names nor under new ones."""
    proxy.set(status(403, "AccessDenied", key="/k/denied$"), status(403, "AccessDenied", op="delete", key="/k/moved-[0-4]$"))
    for n in range(5):
        c.unlink(f"moved-{n}") if n % 2 else c.move(f"moved-{n}", f"away-{n}")
    s.check(wait_until(lambda: "removing" in (g.status().get("writeback", {}).get("last_error") or ""), 20, 0.2), "denied removals are said", g.status().get("reason"))
    for n in range(60):
        put(g.path("filler"), os.urandom(MIB))
    time.sleep(12)
    os.unlink(g.path("filler"))


def one_key(s, store, proxy):
    """One key is denied: the others go on, and it is said which."""
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
    g = s.gateway("one-key", "--log-size", "256MiB", "--writeback-age", "200ms", backing=store.url("k"))
    g.mount()
    os.environ["AWS_ENDPOINT_URL"] = store.endpoint
    c = Control(g)
    proxy.set(status(403, "AccessDenied", key="/k/denied$"))
    c.put("denied", b"d" * 1000)
    for n in range(20):
        c.put(f"other-{n}", b"o" * n)
    s.check(wait_until(lambda: "denied" in (g.status().get("reason") or ""), 20, 0.2), "one key is denied: status names it", g.status().get("reason"))
    others = lambda: len([x for x in store.rclone("lsf", store.at("k")).stdout.split() if x.startswith("other-")])
    s.check(wait_until(lambda: others() == 20, 20, 0.5), "the others are stored", others())
    for n in range(20):
        c.move(f"other-{n}", f"moved-{n}")
    there = lambda: len([x for x in store.rclone("lsf", store.at("k")).stdout.split() if x.startswith("moved-")])
    s.check(wait_until(lambda: there() == 20, 30, 0.5), "and moved", there())
    denied_removals(s, g, c, proxy)
    g.kill9()
    g.detach()
    proxy.set()
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
    g.mount()
    os.environ["AWS_ENDPOINT_URL"] = store.endpoint
    s.check(get(g.path("denied")) == b"d" * 1000, "after a death it is still there")
    s.check(set(os.listdir(g.mnt)) == set(c.files), "and what was removed does not come back", set(os.listdir(g.mnt)) ^ set(c.files))
    r = g.run("flush", g.mnt, "--timeout", "60s", timeout=90)
    s.check(r.returncode == 0, "allowed again, it is stored", r.stderr)
    s.check(g.umount().returncode == 0, "umount returns 0")
    c.compare(s, store, "k", "one key")


def on_its_way(s, store, proxy):
    """A file that was changed in part is read as a whole while its new version does not get to the store, by each of its names."""
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
    g = s.gateway("way", "--log-size", "512MiB", "--writeback-age", "200ms", "--cache-size", "0", backing=store.url("w"))
    g.mount()
    old = os.urandom(2 * MIB)
    put(g.path("part"), old)
    os.link(g.path("part"), g.path("other"))
    s.check(g.umount().returncode == 0, "stored")
    g.mount()
    os.environ["AWS_ENDPOINT_URL"] = store.endpoint
    proxy.set(status(503, "SlowDown", op="put", key="/w/(part|other)$"))
    with open(g.path("part"), "r+b") as f:
        f.write(b"new" * 1000)
    s.check(wait_until(lambda: g.status().get("state") == "degraded", 20, 0.2), "its new version does not get there", g.status().get("reason"))
    new = b"new" * 1000 + old[3000:]
    for name in ("part", "other"):
        s.check(get(g.path(name)) == new, f"{name} is read, what is new of it and what is old")
    proxy.set()
    s.check(g.flush().returncode == 0 and get(g.path("other")) == new, "and once it is there")
    s.check(g.umount().returncode == 0, "umount returns 0")
    g.mount()
    s.check(get(g.path("part")) == new and get(g.path("other")) == new, "and after a remount")
    for gone, stays in (("part", "other"), ("other", "part")):
        with open(g.path(gone), "rb") as f:
            f.seek(MIB)
            f.read(1)
            os.unlink(g.path(gone))
            s.check(g.flush().returncode == 0, f"{gone} is removed")
            f.seek(0)
            s.check(f.read() == new and get(g.path(stays)) == new, f"who has it open reads on by {stays}")
        os.link(g.path(stays), g.path(gone))
        s.check(g.umount().returncode == 0, "stored")
        g.mount()
    s.check(not g.status()["writeback"]["conflicts"] and g.umount().returncode == 0, "without a conflict")


def names(s, store):
    """What cannot be a key is refused when it is made or moved there."""
    g = s.gateway("names", "--log-size", "64MiB", backing=store.url("n"))
    g.mount()
    deep = "d/" + "/".join(["x" * 200] * 4)
    os.makedirs(g.path(deep))
    put(g.path(deep + "/f"), b"f")
    s.check(fails(os.rename, g.path("d"), g.path("e" * 250)) == 36, "a move that makes a path below too long is refused")
    os.rename(g.path("d"), g.path("e" * 20))
    s.check(get(g.path("e" * 20 + deep[1:] + "/f")) == b"f", "a shorter one is not")
    s.check(g.umount().returncode == 0, "umount returns 0")


def limit(s, store, proxy):
    """The upload limit, by what arrives at the store."""
    rate = 4 * MIB
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
    g = s.gateway("limit", "--log-size", "512MiB", "--writeback-age", "100ms", "--upload-limit", "4MiB/s", backing=store.url("l"))
    g.mount()
    os.environ["AWS_ENDPOINT_URL"] = store.endpoint
    c = Control(g)
    rng = random.Random(3)
    for n in range(200):
        c.put(f"s{n}", rng.randbytes(40000))
    c.put("large", rng.randbytes(24 * MIB))
    seen = [proxy.counts()]
    while len(seen) < 30:
        time.sleep(0.2)
        seen.append(proxy.counts())
    began = next(i for i, x in enumerate(seen) if x["sent"] > seen[0]["sent"] + MIB // 4)
    a, b = seen[began], seen[-1]
    got = (b["sent"] - a["sent"]) / (b["at"] - a["at"])
    s.check(0.8 * rate < got < 1.15 * rate, f"--upload-limit: {got / rate:.2f} of it reaches the store")
    bursts = [(y["sent"] - x["sent"]) / (y["at"] - x["at"]) / rate for x, y in zip(seen[began:], seen[began + 5:])]
    s.check(max(bursts) < 1.5, f"and evenly: at most {max(bursts):.2f} of it in a second")
    s.check(g.status().get("state") != "degraded", "a limit is no trouble", g.status().get("reason"))
    s.check(g.umount().returncode == 0, "umount returns 0")
    c.compare(s, store, "l", "limited")


def main():
    with Suite("bucket_trouble") as s:
        if FAKE:
            s.check(True, "plain directories have no stores")
            return
        only = os.environ.get("FORELOG_PART")
        weed = Seaweed(s, "weed")
        weed.start()
        proxy = Proxy(s, weed, ports(2))
        for part in (one_key, on_its_way, limit, faults):
            if not only or part.__name__ in only.split(","):
                part(s, weed, proxy)
                proxy.set()
        if not only or "names" in only.split(","):
            names(s, weed)


if __name__ == "__main__":
    main()
