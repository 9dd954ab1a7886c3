"""The prediction on a live mount: its history outlives the mount."""
import os
import re
import time

from harness import FAKE, Suite, get, put


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


def main():
    with Suite("predictor") as s:
        if FAKE:
            s.check(True, "(fake) nothing to predict")
            return
        restart(s)
        choices(s)


if __name__ == "__main__":
    main()
