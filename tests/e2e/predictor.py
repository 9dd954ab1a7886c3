"""The prediction on a live mount: its history outlives the mount; a periodic burst finds its bytes reserved, a flood that stopped is
forgotten, one that drifts at random is not trusted; what is recorded can be replayed."""
import json
import os
import random
import re
import subprocess
import time

from harness import BIN, FAKE, Suite, get, put, sh

MIB = 1 << 20
PERIOD, BURST, BURSTS, FROM = 3.0, 32, 28, 20


def seconds_known(g):
    """Seconds of history that the fallback counts; 999 once it needs no more."""
    why = g.status()["prediction"]["fallback"]
    m = re.match(r"short history: (\d+) s", why or "")
    return int(m.group(1)) if m else 999


def restart(s):
    g = s.gateway("warm")
    g.mount()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        put(g.path("f"), os.urandom(200_000))
        time.sleep(0.05)
    before = seconds_known(g)
    s.check(before >= 3, f"the history grows while something writes: {before} s")
    s.check(g.umount().returncode == 0, "umount returns 0")
    g.mount()
    time.sleep(0.5)
    after = seconds_known(g)
    s.check(after >= before - 1, f"a clean restart is not a cold start: {after} s known at once")
    g.kill9()
    g.detach()
    g.mount()
    time.sleep(0.5)
    s.check(seconds_known(g) >= before - 1, "nor is one after a kill")
    g.umount()
    path = g.log + "/history"
    good = get(path)
    for what, bad in (("a flipped byte", good[:40] + bytes([good[40] ^ 1]) + good[41:]), ("an old version", good[:8] + b"\x63" + good[9:]),
                      ("half of it", good[:len(good) // 2]), ("nothing", b"")):
        put(path, bad)
        r = g.mount(must=False)
        time.sleep(0.3)
        s.check(r.returncode == 0 and seconds_known(g) <= 2, f"a history with {what} is dropped, the mount is not refused", r.stderr)
        s.check(b"history dropped" in get(g.log_file), "with a line that says so")
        put(g.log_file, b"")
        g.umount()


def choices(s):
    """Each model can be asked for by name; an unknown one is refused with the list."""
    g = s.gateway("choices")
    r = g.mount("--predict", "crystal-ball", must=False)
    s.check(r.returncode == 2 and "fixed-share" in r.stderr and "lstm" in r.stderr, "an unknown model is refused with the list of those there are", r.stderr)
    for name in ("leader", "fixed-share", "lstm", "ar-rls", "sequence", "blend", "quantile-10s", "seed"):
        r = g.mount("--predict", name, must=False)
        s.check(r.returncode == 0, f"--predict {name} mounts", r.stderr)
        put(g.path("f"), b"x" * 1000)
        time.sleep(0.2)
        seen = g.status()["prediction"]["model"]
        s.check(name in (seen, "leader", "fixed-share"), f"and status says {seen}")
        g.umount()


def write_at(path, until, sizes, gaps):
    """Writes of some sizes after some gaps, until then."""
    fd, n = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), 0
    while time.monotonic() < until:
        data = os.urandom(sizes())
        os.pwrite(fd, data, (n % 16) * MIB)
        n += 1
        time.sleep(max(0.0, min(gaps(), until - time.monotonic())))
    os.close(fd)


def burster(path, begin, ends):
    block = os.urandom(MIB)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    with open(ends, "w", buffering=1) as f:
        for n in range(1, BURSTS + 1):
            time.sleep(max(0.0, begin + n * PERIOD - time.monotonic()))
            for k in range(BURST):
                os.pwrite(fd, block, k * MIB)
            f.write(f"{time.monotonic() - begin}\n")
    os.close(fd)


def flooder(path, begin):
    """A little for a minute, a flood of ten seconds, then nothing."""
    write_at(path, begin + 62, lambda: 32768, lambda: 0.1)
    write_at(path, begin + 72, lambda: 4 * MIB, lambda: 0.05)


def gambler(path, begin, seed):
    """Random amounts that drift upward: what comes next is beyond what came before."""
    rng = random.Random(seed)
    write_at(path, begin + 84, lambda: int(8192 * 1.06 ** (time.monotonic() - begin) * rng.uniform(0.5, 1.5)), lambda: 0.25)


def demonstrations(s):
    """Three mounts side by side, as each needs a minute to be trusted."""
    seed = random.SystemRandom().randrange(10**6)
    g = {name: s.gateway(name) for name in ("bursts", "flood", "random")}
    for each in g.values():
        each.mount()
    trace = s.scratch + "/bursts.trace"
    recorder = subprocess.Popen([BIN, "trace", "record", g["bursts"].mnt, trace, "--for", "80s"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    s.undo.append(lambda: recorder.poll() is not None or recorder.kill())
    begin = time.monotonic()
    kids = [s.spawn(burster, g["bursts"].path("f"), begin, s.scratch + "/ends"), s.spawn(flooder, g["flood"].path("f"), begin),
            s.spawn(gambler, g["random"].path("f"), begin, seed)]
    seen = {name: [] for name in g}
    while time.monotonic() < begin + BURSTS * PERIOD + 0.5:
        for name, each in g.items():
            p = each.status()["prediction"]
            seen[name].append((time.monotonic() - begin, p["idle_reserved_bytes"] / MIB, p["fallback"]))
        time.sleep(0.15)
    s.check(all(k.join(30) == 0 for k in kids), "the writers ended well")
    ends = [float(x) for x in get(s.scratch + "/ends").split()]
    bursts, poor, full = 0, [], []
    for n in range(FROM + 1, BURSTS + 1):
        at = n * PERIOD
        before = [x for x in seen["bursts"] if at - 0.5 < x[0] < at]
        between = [x for x in seen["bursts"] if at - PERIOD + 0.6 < x[0] < at - 1.05]
        if not before or any(x[2] for x in before):
            s.note(f"burst {n}: {before[-1][2] if before else 'not seen'}")
            continue
        bursts += 1
        if before[-1][1] < BURST:
            poor.append((n, before[-1][1]))
        # What a burst brought is kept for a second after its last bytes, and the next is expected a second ahead: beside other work nothing may be in between.
        over = ends[n - 2] + 1.2 < at - 1.2
        if over and between and min(x[1] for x in between) > BURST / 2:
            full.append((n, min(x[1] for x in between)))
    s.check(bursts >= 2 and len(poor) <= 1, f"{BURST} MiB every {PERIOD:.0f} s: of {bursts} bursts from the {FROM}th on, each found its bytes reserved", poor)
    s.check(len(full) <= 2, "and between bursts the reserve is gone", full)
    late = [x for x in seen["flood"] if x[0] > 72 + 10.5]
    size = g["flood"].status()["prediction"]["idle_reserved_bytes"]
    s.check(late and min(x[1] for x in late) <= 4 and size <= 4 * MIB, f"a flood that stopped: {size / MIB:.2f} MiB reserved 10 s later", late[-4:])
    why = [x[2] for x in seen["random"] if x[0] > 76]
    s.check(why and sum(1 for w in why if w) > len(why) / 2, f"a writer that drifts at random (seed {seed}) is not trusted, and status says why: {why[-1]}", why[-5:])
    recorder.wait(20)
    said = recorder.stdout.read()
    s.check(recorder.returncode == 0 and re.search(r"\d+ writes, [\d.]+ MiB in 80", said), f"trace record: {said.strip()[-90:]}", said)
    s.check(b"python" not in get(trace) and os.stat(trace).st_mode & 0o777 == 0o600, "no name is in it, and it is nobody else's")
    r = sh([BIN, "trace", "replay", trace, "--json", "--policy", "leader", "--policy", "static-4m"], 60)
    report = json.loads(r.stdout) if r.returncode == 0 else {}
    s.check(report.get("trace", {}).get("bytes", 0) >= 25 * BURST * MIB and len(report.get("policies", [])) == 2, "and can be replayed", r.stderr)
    for each in g.values():
        s.check(each.umount().returncode == 0, "umount returns 0")


def recording(s):
    g = s.gateway("rec")
    g.mount()
    for name in ("a.trace", "b.trace.gz"):
        file = f"{s.scratch}/{name}"
        p = subprocess.Popen([BIN, "trace", "record", g.mnt, file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(0.5)
        for n in range(50):
            put(g.path(f"f{n % 3}"), os.urandom(5000))
        time.sleep(1)
        p.terminate()
        out = p.communicate(timeout=20)[0]
        s.check(p.returncode == 0 and re.search(r" 50 writes, ", out), f"{name}: interrupted, it is whole: {out.strip()[-70:]}", out)
        r = sh([BIN, "trace", "replay", file, "--json", "--policy", "static-4m"], 60)
        s.check(r.returncode == 0 and json.loads(r.stdout)["trace"]["writes"] == 50, f"{name}: and can be replayed", r.stderr)
        r = sh([BIN, "trace", "record", g.mnt, file], 20)
        s.check(r.returncode == 2 and "already" in r.stderr, f"{name}: a file that is there is not overwritten", r.stderr)
    p = subprocess.Popen([BIN, "trace", "record", g.mnt, s.scratch + "/c.trace"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(0.5)
    put(g.path("x"), b"x" * 100)
    time.sleep(0.7)
    s.check(g.umount().returncode == 0, "umount returns 0 while something records")
    out = p.communicate(timeout=20)[0]
    s.check(p.returncode == 0 and " 1 writes, " in out, f"and ends the recording: {out.strip()[-70:]}", out)
    r = sh([BIN, "trace", "record", g.mnt, s.scratch + "/d.trace"], 20)
    s.check(r.returncode == 2 and len(r.stderr.splitlines()) == 1 and not os.path.exists(s.scratch + "/d.trace"), "without a mount: one line, no file", r.stderr)


def main():
    with Suite("predictor") as s:
        if FAKE:
            s.check(True, "(fake) nothing to predict")
            return
        restart(s)
        choices(s)
        recording(s)
        demonstrations(s)


if __name__ == "__main__":
    main()
