"""The read cache of a bucket: what was read once is not fetched again, also after a remount, and never is a byte of another
version given, whatever happens to the cache's files."""
import os
import random
import stat
import time

from harness import FAKE, LONG, Suite, fails, get, put, sh, wait_until
from stores import Seaweed

MIB = 1 << 20
BLOCK = 512 << 10
SMALL = 300


def mount(g, *options):
    """Mounts, and notes what the mount itself asked for."""
    g.mount(*options)
    g.began = g.status().get("store_requests", {})


def asked(g, kind):
    """Requests since then."""
    return g.status().get("store_requests", {}).get(kind, 0) - g.began.get(kind, 0)


def kept(g):
    return g.status().get("read_cache", {})


def files(g):
    top = os.path.join(g.log, "cache")
    return [os.path.join(top, n) for n in sorted(os.listdir(top)) if n.endswith(".blk")] if os.path.isdir(top) else []


def size(g):
    return sum(os.path.getsize(f) for f in files(g))


def filled(s, g, blocks, what):
    s.check(wait_until(lambda: kept(g).get("entries", 0) >= blocks, 20, 0.1), f"{what}: it is in the cache", kept(g))


def again(s, g):
    s.check(g.umount().returncode == 0, "umount returns 0")
    mount(g)


def figures_of(g):
    return {"requests": g.status().get("store_requests"), "at the mount": g.began, "cache": kept(g)}


def blocks(s, store, src, g):
    """A large file."""
    want = get(src + "/big")
    n = len(want) // BLOCK
    s.check(get(g.path("big")) == want and asked(g, "get") > 0, "a first read asks the store")
    filled(s, g, n, "a large file")
    modes = [stat.S_IMODE(os.stat(f).st_mode) for f in [os.path.join(g.log, "cache"), *files(g)]]
    s.check(modes[0] == 0o700 and set(modes[1:]) == {0o600}, "nobody else can read it", list(map(oct, modes)))
    again(s, g)
    s.check(get(g.path("big")) == want, "a second read, after a remount, is right")
    s.check(asked(g, "get") == 0 and kept(g).get("hits", 0) >= n, "and needs no GET", figures_of(g))
    # What changes here.
    with open(g.path("big"), "r+b") as f:
        f.seek(3 * MIB + 5)
        f.write(b"changed")
    want = want[:3 * MIB + 5] + b"changed" + want[3 * MIB + 12:]
    s.check(get(g.path("big")) == want, "a change is seen at once")
    again(s, g)
    s.check(get(g.path("big")) == want, "and after a remount")
    filled(s, g, 2 * n, "the new version")
    os.truncate(g.path("big"), 9 * MIB + 1)
    os.truncate(g.path("big"), len(want))
    want = want[:9 * MIB + 1].ljust(len(want), b"\0")
    os.rename(g.path("big"), g.path("moved"))
    again(s, g)
    s.check(get(g.path("moved")) == want, "a cut and moved file is right")
    os.rename(g.path("moved"), g.path("big"))
    s.check(g.umount().returncode == 0, "umount returns 0")
    # Another's, of the same size.
    put(src + "/big", random.Random(2).randbytes(len(want)))
    r = store.rclone("copyto", src + "/big", store.at("c/big"), "--ignore-times")
    s.check(r.returncode == 0, "something else replaces it", r.stderr[-300:])
    mount(g)
    s.check(get(g.path("big")) == get(src + "/big") and asked(g, "get") > 0, "what something else stored is read, not what was cached")
    filled(s, g, n, "the replacement")


def damage(s, src, g):
    want = get(src + "/big")
    again(s, g)
    s.check(get(g.path("big")) == want and asked(g, "get") == 0, "(it is served from the cache)", figures_of(g))
    s.check(g.umount().returncode == 0, "umount returns 0")
    rng = random.Random(3)
    for path in files(g):
        with open(path, "r+b") as f:
            for at in range(0, os.path.getsize(path) - 100, 2 * MIB):
                f.seek(at + rng.randrange(100, MIB))
                f.write(rng.randbytes(3))
    mount(g)
    s.check(get(g.path("big")) == want, "a damaged cache gives no damaged bytes")
    s.check(kept(g).get("damaged", 0) > 0 and asked(g, "get") > 0, "what was damaged is fetched again", figures_of(g))
    s.check(g.umount().returncode == 0, "umount returns 0")
    for n, path in enumerate(files(g)):
        os.truncate(path, rng.randrange(os.path.getsize(path)))
        if n % 2:
            put(path, b"no cache file")
    mount(g)
    s.check(get(g.path("big")) == want, "nor does one whose files are cut")
    s.check(g.umount().returncode == 0, "umount returns 0")


def kills(s, src, g):
    want = get(src + "/big")
    for n in range(8 if LONG else 2):
        sh(["rm", "-rf", os.path.join(g.log, "cache")])
        mount(g)
        child = s.spawn(lambda: fails(get, g.path("big")))
        wait_until(lambda: size(g) > (1 + 5 * n) * MIB, 10, 0.005)
        g.kill9()
        child.kill()
        g.detach()
        mount(g)
        there = kept(g).get("entries", 0)
        s.check(get(g.path("big")) == want, f"killed while it was filled: what is read is right ({there} entries were kept)")
        s.check(g.umount().returncode == 0, "umount returns 0")


def bounded(s, src, g):
    want = get(src + "/big")
    mount(g, "--cache-size", "16MiB")
    most = size(g)
    for _ in range(2):
        s.check(get(g.path("big")) == want, "read through a small cache")
        most = max(most, size(g))
        again_bytes = kept(g)
    s.check(wait_until(lambda: kept(g).get("misses", 0) > 0 and 4 * MIB < size(g), 10, 0.1), "some of it is kept", again_bytes)
    most = max(most, size(g))
    s.check(most <= 16 * MIB and kept(g).get("capacity_bytes") == 16 * MIB, "and never more than was allowed", most)
    s.check(g.umount().returncode == 0, "umount returns 0")
    for _ in range(2):
        mount(g, "--cache-size", "0")
        s.check(get(g.path("big")) == want and asked(g, "get") > 0 and not any(kept(g).values()), "with no cache each mount asks the store", figures_of(g))
        s.check(not os.path.exists(os.path.join(g.log, "cache")), "and nothing lies in the log directory")
        s.check(g.umount().returncode == 0, "umount returns 0")
    r = g.mount("--cache-size", "1MiB", must=False)
    s.check(r.returncode == 1 and "smallest cache" in r.stderr, "a cache that is too small is refused", r.stderr)


def attributes(s, store, src):
    """Many small files: each is asked once."""
    g = s.gateway("attributes", "--log-size", "256MiB", backing=store.url("c"))
    mount(g)
    listed = sh(["ls", "-lR", g.path("small")]).stdout
    first = asked(g, "head")
    s.check(first >= SMALL and listed.count("f") >= SMALL, "a first ls -l asks for each object", first)
    filled(s, g, SMALL, "what they said")
    before = asked(g, "head")
    s.check(sh(["ls", "-lR", g.path("small")]).stdout == listed and asked(g, "head") == before, "a second one for none")
    again(s, g)
    s.check(sh(["ls", "-lR", g.path("small")]).stdout == listed, "after a remount ls -l shows the same")
    s.check(asked(g, "head") < 20, "and asks for no object", figures_of(g))
    got = {n: get(g.path("small", n)) for n in os.listdir(g.path("small"))}
    s.check(got == {n: get(f"{src}/small/{n}") for n in os.listdir(src + "/small")}, "their contents are right")
    filled(s, g, 2 * SMALL, "their contents")
    again(s, g)
    s.check({n: get(g.path("small", n)) for n in got} == got and asked(g, "get") == 0, "and need no GET after a remount", figures_of(g))
    s.check(g.umount().returncode == 0, "umount returns 0")
    # The same content with other metadata has the same version in many stores.
    other = s.gateway("other", "--log-size", "256MiB", backing=store.url("c"))
    other.mount()
    os.chown(other.path("small/f7"), 12, 34)
    os.chmod(other.path("small/f7"), 0o4711)
    s.check(other.umount().returncode == 0, "another log's gateway changes a mode")
    mount(g)
    st = os.stat(g.path("small/f7"))
    s.check((stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o4711, 12, 34), "what was cached of it is not believed", oct(st.st_mode))
    s.check(get(g.path("small/f7")) == got["f7"], "its content is what it was")
    s.headline = f"ls -l of {SMALL} objects: {first} HEADs, after a remount {asked(g, 'head')}"
    s.check(g.umount().returncode == 0, "umount returns 0")


def main():
    with Suite("bucket_cache") as s:
        if FAKE:
            s.check(True, "plain directories have no cache")
            return
        store = Seaweed(s, "weed")
        store.start()
        src = s.dir("src")
        os.makedirs(src + "/small")
        rng = random.Random(1)
        put(src + "/big", rng.randbytes(24 * MIB))
        for i in range(SMALL):
            put(f"{src}/small/f{i}", rng.randbytes(10 + i * 7))
        r = store.rclone("copy", "--transfers", "16", src, store.at("c"))
        s.check(r.returncode == 0, "something else stores objects", r.stderr[-300:])
        time.sleep(4)  # what was stored this very second is asked for again
        g = s.gateway("blocks", "--log-size", "256MiB", backing=store.url("c"))
        mount(g)
        blocks(s, store, src, g)
        damage(s, src, g)
        kills(s, src, g)
        bounded(s, src, g)
        attributes(s, store, src)


if __name__ == "__main__":
    main()
