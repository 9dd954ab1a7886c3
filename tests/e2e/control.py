"""Control of a mount while it serves: `forelog set`, upload hours, `forelog queue` and `bump`, the state of a file as an attribute,
and the config file.

control.py [--part NAME]...
"""
import json
import os
import shutil
import sys
import time

from harness import BIN, FAKE, Suite, fails, get, put, sh, wait_until

STATE = "user.forelog.state"


def state(path):
    return os.getxattr(path, STATE).decode()


def hours_now(shift):
    """A window of two hours that begins `shift` hours from now."""
    t = time.localtime()
    at = (t.tm_hour * 60 + t.tm_min + shift * 60) % 1440
    to = (at + 120) % 1440
    return f"{at // 60:02}:{at % 60:02}-{to // 60:02}:{to % 60:02}"


def queue(g, *more):
    r = g.run("queue", g.mnt, "--json", *more)
    try:
        return json.loads(r.stdout)
    except ValueError:
        return {"entries": [], "files": -1, "error": r.stderr}


def in_backing(g, name, data, seconds=30):
    def there():
        try:
            return get(os.path.join(g.backing, name)) == data
        except OSError:
            return False
    return wait_until(there, seconds)


# ---- set

def settings(s):
    g = s.gateway("set", "--log-size", "256MiB", "--writeback-age", "1h")
    g.mount()
    r = g.run("set", g.mnt)
    shown = dict(line.split("=", 1) for line in r.stdout.splitlines())
    s.check(r.returncode == 0 and shown.get("writeback-age") == "1h" and shown.get("upload-limit") == "none",
            "set without keys prints what is", r.stdout + r.stderr)
    s.check(g.status().get("settings") == shown and json.loads(g.run("set", g.mnt, "--json").stdout) == shown,
            "status and --json say the same", g.status().get("settings"))
    put(g.path("old"), b"1" * 5000)
    time.sleep(1)
    s.check(not os.path.exists(g.backing + "/old"), "with an age of an hour nothing is stored yet")
    # one wrong key: none counts
    for words, want, code in ((("writeback-age=0s", "uplod-limit=1M"), "did you mean 'upload-limit'?", 1),
                              (("writeback-age=0s", "segment-max=100"), "a segment has from 64KiB to 4GiB", 2),
                              (("writeback-age=0s", "log-dir=/x"), "cannot change while mounted", 1),
                              (("writeback-age=0s", "predict=lestm"), "no such model", 2)):
        r = g.run("set", g.mnt, *words)
        line = r.stderr.strip()
        s.check(r.returncode == code and want in line and line.count("\n") == 0, f"set {words[1]} is refused", line)
    time.sleep(0.5)
    s.check(not os.path.exists(g.backing + "/old") and g.status()["settings"] == shown, "and then nothing of it has changed")
    r = g.run("set", g.mnt, "writeback_age=0s", "commit-interval=50ms", "predict=off", "log-level=debug", "reserve-max=1MiB",
              "seal-after=100ms", "segment-size=1MiB", "umount-timeout=1m", "idle=halt")
    s.check(r.returncode == 0 and not r.stdout and not r.stderr, "several keys at once", r.stderr)
    s.check(in_backing(g, "old", b"1" * 5000, 10), "a shorter writeback age counts at once")
    now = g.status()["settings"]
    s.check(now["writeback-age"] == "0s" and now["predict"] == "off" and now["segment-size"] == "1MiB", "and status shows them", now)
    r = g.run("set", g.mnt, "segment-max=4GiB")
    s.check(r.returncode == 0 and "cut to 64MiB" in r.stderr and g.status()["settings"]["segment-max"] == "64MiB",
            "what the log cannot bear is cut as at the mount, and said", r.stderr)
    syncs = g.status()["log"]["device_syncs"]
    for n in range(20):
        put(g.path("tick"), b"x")
        time.sleep(0.05)
    grown = g.status()["log"]["device_syncs"] - syncs
    s.check(grown >= 5, "the commit interval as well", f"{grown} syncs in a second of writing")
    s.check(wait_until(lambda: g.status()["prediction"]["fallback"] is not None, 10), "and the prediction", g.status()["prediction"])
    text = get(g.log_file).decode(errors="replace")
    s.check("log-level is debug from now on, was auto" in text and "writeback-age is 0s from now on, was 1h" in text, "the log says what was changed", text[-1500:])
    g.run("set", g.mnt, "log-level=error")
    size = os.path.getsize(g.log_file)
    g.run("set", g.mnt, "predict=auto")
    s.check(os.path.getsize(g.log_file) == size, "no lines of less weight then")
    limit(s, g)
    socket_is_ours(s, g)
    s.check(g.umount().returncode == 0, "umount")


def limit(s, g):
    """A limit of next to nothing, lifted: what waits for it goes at once."""
    g.run("set", g.mnt, "upload-limit=1K", "writeback-age=0s", "log-level=info")
    data = os.urandom(1 << 20)
    put(g.path("slow1"), data)
    time.sleep(1)
    put(g.path("slow2"), data)
    time.sleep(1.5)
    s.check(not os.path.exists(g.backing + "/slow2"), "an upload limit counts at once")
    r = g.run("set", g.mnt, "upload-limit=none")
    s.check(r.returncode == 0 and in_backing(g, "slow2", data, 10), "and so does its end", g.status()["writeback"])
    # several at a time: each counts
    keys = ["upload-limit=5M", "seal-after=3s", "umount-timeout=3m", "reserve-max=2MiB"]
    kids = [s.spawn(lambda k=k: g.run("set", g.mnt, k).returncode) for k in keys]
    codes = [k.join(60) for k in kids]
    now = g.status()["settings"]
    s.check(codes == [0] * 4 and all(now[k.split("=")[0]].startswith(k.split("=")[1][:2]) for k in keys),
            "changes at the same time do not undo each other", f"{codes} {now}")
    g.run("set", g.mnt, "upload-limit=none")


def socket_is_ours(s, g):
    r = sh(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", BIN, "set", g.mnt, "predict=off"], 30)
    s.check(r.returncode == 2 and g.status()["settings"]["predict"] == "auto", "another user may not set anything", r.stderr)


# ---- upload hours

def hours(s):
    g = s.gateway("hours", "--log-size", "64MiB", "--writeback-age", "0s", "--upload-hours", hours_now(6))
    g.mount()
    put(g.path("f"), b"night")
    time.sleep(1)
    w = g.status()["writeback"]
    s.check(not os.path.exists(g.backing + "/f") and "outside the upload hours" in (w["note"] or ""), "nothing goes outside the hours", w)
    q = queue(g)
    s.check([e["state"] for e in q["entries"] if e["path"] == "f"] == ["hours"] and "outside the upload hours" in state(g.path("f")),
            "queue and state say why", q)
    s.check(g.run("queue", g.mnt, "bump", g.path("f")).returncode == 0 and in_backing(g, "f", b"night"), "what is bumped goes all the same")
    put(g.path("g"), b"flushed")
    s.check(g.flush().returncode == 0 and get(g.backing + "/g") == b"flushed", "flush goes all the same")
    # of a log of 64: over the mark
    put(g.path("big"), os.urandom(56 << 20))
    s.check(wait_until(lambda: os.path.exists(g.backing + "/big"), 60),
            "a log that fills up goes all the same", g.status()["log"])
    s.check("% full: it goes to the backing all the same" in get(g.log_file).decode(errors="replace"), "and says so")
    g.flush()
    put(g.path("h"), b"set")
    time.sleep(0.7)
    s.check(not os.path.exists(g.backing + "/h"), "and after that it waits again")
    g.run("set", g.mnt, f"upload-hours={hours_now(23)}")
    s.check(in_backing(g, "h", b"set", 10), "other hours, set while mounted, count at once", g.status()["writeback"])
    g.run("set", g.mnt, f"upload-hours={hours_now(6)}")
    put(g.path("i"), b"last")
    s.check(g.umount().returncode == 0 and get(g.backing + "/i") == b"last", "umount goes all the same")
    r = s.gateway("no-hours").mount("--upload-hours", "25:00-1:00", must=False)
    s.check(r.returncode == 1 and "25:00" in r.stderr, "what are no hours is refused", r.stderr)


# ---- queue

def the_queue(s):
    g = s.gateway("queue", "--log-size", "256MiB", "--writeback-age", "1h")
    g.mount()
    s.check("nothing waits" in g.run("queue", g.mnt).stdout, "an empty queue says so")
    os.mkdir(g.path("d"))
    odd = os.path.join(os.fsencode(g.mnt), b"d", b"new\nline\xff\\")
    put(g.path("d/first"), b"1" * 100)
    time.sleep(0.05)
    put(odd, b"2" * 200)
    for n in range(300):
        put(g.path(f"d/f{n}"), b"x")
    q = queue(g)
    s.check(q["files"] == 302 + 2 and len(q["entries"]) == 50 and q["bytes"] == 600, "counts of all, the first 50 shown", {**q, "entries": len(q["entries"])})
    by = {e["path"]: e for e in queue(g, "--limit", "2000")["entries"]}
    s.check(by.get("d/first", {}).get("bytes") == 100 and by["d/first"]["state"] == "young" and 3000 < by["d/first"]["wait_seconds"] <= 3600,
            "an entry: path, bytes, age, why", by.get("d/first"))
    s.check("d/new\\nline\\xff\\\\" in by, "a name with a newline, a backslash and no UTF-8 is on one line", list(by)[:5])
    ages = [e["age_seconds"] for e in q["entries"]]
    s.check(ages == sorted(ages, reverse=True), "the oldest first", ages[:9])
    r = g.run("queue", g.mnt, "--limit", "3")
    s.check(len(r.stdout.splitlines()) == 1 + 1 + 3 + 1 and "301 more" in r.stdout, "as text, with a limit", r.stdout)
    r = sh([BIN, "queue", g.mnt, "bump", odd], 30)
    s.check(r.returncode == 0 and ("go first" in r.stdout or "goes first" in r.stdout), "bump of a file", r.stdout + r.stderr)
    there = os.path.join(os.fsencode(g.backing), b"d", b"new\nline\xff\\")
    s.check(wait_until(lambda: os.path.exists(there), 15) and not os.path.exists(g.backing + "/d/f7"), "it is there, the others are not")
    s.check(wait_until(lambda: state(odd) == "stored", 10) and state(g.path("d/first")).startswith("dirty 100 bytes"), "and their states say so")
    # a name that the backing has elsewhere
    os.rename(odd, g.path("moved"))
    g.run("queue", g.mnt, "bump", "moved")
    s.check(in_backing(g, "moved", b"2" * 200), "bump of a renamed file", queue(g)["files"])
    os.mkdir(g.path("tree"))
    os.mkdir(g.path("tree/sub"))
    put(g.path("tree/sub/x"), b"deep")
    put(g.path("treeless"), b"not")
    r = g.run("queue", g.mnt, "bump", "tree")
    s.check(in_backing(g, "tree/sub/x", b"deep") and not os.path.exists(g.backing + "/treeless"), "bump of a tree, of nothing beside it", r.stdout)
    s.check(wait_until(lambda: "nothing waits" in g.run("queue", g.mnt, "bump", "tree/sub").stdout, 10), "bump of what is stored says so",
            g.run("queue", g.mnt, "bump", "tree/sub"))
    r = g.run("queue", g.mnt, "bump", "nowhere")
    s.check(r.returncode == 2 and "no such file" in r.stderr, "bump of what is not there is refused", r.stderr)
    s.check(g.umount().returncode == 0 and get(g.backing + "/treeless") == b"not", "umount stores the rest")


def failing(s):
    """A backing that is full: which files failed, why, and when they are tried again."""
    back = s.loop_fs("small", 16)
    if not back:
        s.note("no loop device: the full backing is left out")
        return
    g = s.gateway("full", "--log-size", "256MiB", "--writeback-age", "0s", backing=back)
    g.mount()
    put(g.path("huge"), os.urandom(40 << 20))

    def failed():
        return [e for e in queue(g)["entries"] if e["path"] == "huge" and e["state"] == "failed" and e["reason"]]
    ok = wait_until(failed, 20, 0.1)
    s.check(ok and "space" in ok[0]["reason"].lower(), "a file that does not fit is shown as failed, with the reason", queue(g))
    got = wait_until(lambda: (t := state(g.path("huge"))).startswith("failed: ") and t, 10)
    s.check(got and "space" in got.lower(), "also by its state", state(g.path("huge")))
    put(g.path("tiny"), b"fits")
    s.check(in_backing(g, "tiny", b"fits", 40), "others are stored all the same", queue(g))
    os.truncate(g.path("huge"), 10)
    s.check(g.flush().returncode == 0 and state(g.path("huge")) == "stored" and queue(g)["failed"] == 0, "until it fits", queue(g))
    s.check(g.umount().returncode == 0, "umount")


def crowd(s):
    """As many files as a person may have: bounded answers, soon there."""
    g = s.gateway("crowd", "--log-size", "512MiB", "--writeback-age", "1h")
    g.mount()
    for n in range(20_000):
        with open(g.path(f"{n:06}-{'n' * 200}"), "wb"):
            pass
    began = time.monotonic()
    q = queue(g, "--limit", "2000")
    took = time.monotonic() - began
    s.check(q["files"] >= 20_000 and 500 < len(q["entries"]) <= 2000, f"20,000 files that wait, {len(q['entries'])} shown in {took:.2f} s", q["files"])
    r = g.run("queue", g.mnt, "bump", g.path(f"{19_999:06}-{'n' * 200}"))
    s.check(wait_until(lambda: os.path.exists(f"{g.backing}/{19_999:06}-{'n' * 200}"), 20), "the last is bumped before them", r.stdout + r.stderr)
    g.umount("--no-wait")


# ---- state

def states(s):
    back = s.dir("states/backing")
    put(back + "/own", b"theirs")
    os.setxattr(back + "/own", STATE, b"a real one")
    os.setxattr(back + "/own", "user.other", b"kept")
    g = s.gateway("states", "--log-size", "64MiB", "--writeback-age", "1h")
    g.mount()
    own, new = g.path("own"), g.path("new")
    s.check(state(own) == "stored" and os.listxattr(own) == ["user.other"], "one that the backing has does not confuse, and is not listed", os.listxattr(own))
    put(new, b"12345")
    s.check(state(new).startswith("dirty 5 bytes, ") and os.listxattr(new) == [], "a new file is dirty", state(new))
    r = sh(["getfattr", "-n", STATE, "--only-values", new], 20)
    s.check(r.returncode == 0 and r.stdout.startswith("dirty 5 bytes"), "getfattr shows it", r.stdout + r.stderr)
    s.check(state(g.mnt).startswith("dirty") and fails(os.setxattr, new, STATE, b"x") == 1 and fails(os.removexattr, own, STATE) == 1,
            "of directories too; it cannot be set or removed")
    os.setxattr(own, "user.more", b"1")
    copy = g.path("copy")
    r = sh(["cp", "-a", own, copy], 20)
    rs = sh(["rsync", "-aX", own, g.path("copy2")], 30) if shutil.which("rsync") else None
    s.check(r.returncode == 0 and sorted(os.listxattr(copy)) == ["user.more", "user.other"] and (not rs or rs.returncode == 0), "copies do not take it along",
            r.stderr + (rs.stderr if rs else ""))
    s.check(g.flush().returncode == 0 and state(new) == "stored" == state(own), "after a flush all is stored", state(new))
    s.check(g.umount().returncode == 0, "umount")
    s.check(os.getxattr(back + "/own", STATE) == b"a real one" and os.getxattr(back + "/own", "user.more") == b"1"
            and STATE not in os.listxattr(back + "/new") + os.listxattr(back + "/copy"), "nothing of it is in the backing, what was there is kept")


# ---- config

def config(s):
    g = s.gateway("config", "--log-size", "64MiB", "--upload-limit", "3M", "--seal-after", "7s")
    env = {**os.environ, "FORELOG_COMMIT_INTERVAL": "2s", "FORELOG_SEAL_AFTER": "9s"}
    file = s.dir("config") + "/one.toml"
    put(file, b'writeback-age = "11s"\ncommit-interval = "3s"\nupload_outside = "1M"\n')
    r = sh([BIN, *g.mount_command("--config", file, "--print-config")], 30, env=env)
    want = ('writeback-age = "11s"  # config ', 'commit-interval = "2s"  # FORELOG_COMMIT_INTERVAL', 'seal-after = "7s"  # --seal-after',
            'upload-outside = "1M"  # config ', 'predict = "auto"  # default')
    s.check(r.returncode == 0 and all(w in r.stdout for w in want) and not g.mounted(), "--print-config: flag over environment over file over default", r.stdout + r.stderr)
    whole = s.dir("config") + "/whole.toml"
    put(whole, r.stdout.encode())
    r = sh([BIN, "mount", "--config", whole], 60)
    now = g.status().get("settings", {})
    s.check(r.returncode == 0 and g.mounted() and (now.get("writeback-age"), now.get("commit-interval"), now.get("seal-after"), now.get("upload-limit"))
            == ("11s", "2s", "7s", "3MiB"), "and what it prints is a config file for the same mount", r.stderr + str(now))
    g.umount()
    for text, want in ((b'\n# c\nupload-limt = "1M"\n', ":3: no such key 'upload-limt'; did you mean 'upload-limit'?"),
                       (b'seal-after = "1s"\nseal_after = "2s"\n', ":2: 'seal_after' is given already in line 1"),
                       (b'\ncommit-interval = 5\n', ":2: commit-interval: '5' has no unit"), (b'a = = 1\n', ":1: ")):
        put(file, text)
        r = g.mount("--config", file, must=False)
        s.check(r.returncode in (1, 2) and file + want in r.stderr and r.stderr.count("\n") == 1, f"a wrong line is named: {want}", r.stderr)


PARTS = (("set", settings), ("hours", hours), ("queue", the_queue), ("failing", failing), ("crowd", crowd), ("states", states), ("config", config))


def main():
    parts = [sys.argv[i + 1] for i, a in enumerate(sys.argv) if a == "--part"]
    with Suite("control") as s:
        if FAKE:
            s.check(True, "nothing of this can be tried on a plain directory")
            return
        for name, fn in PARTS:
            if not parts or name in parts:
                t = time.monotonic()
                fn(s)
                s.note(f"{name}: {time.monotonic() - t:.0f} s")


if __name__ == "__main__":
    main()
