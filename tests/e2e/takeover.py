"""A second gateway takes a backing over: only from one that gives no sign of life, and the first one never writes there again.

A directory and a bucket (SeaweedFS); the first gateway is stopped for a while, cut off from the store in a network namespace of its
own, or dead on another machine; the second one's clock is wrong. In the short form all times of leases are a tenth.
FORELOG_PART=directory,other_machine,outage,bucket,cut_off runs some of it."""
import glob
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import stores
from harness import BIN, FAKE, LONG, Gateway, Suite, alive, fails, get, put, sh, wait_until

HASTE = 1 if LONG else 10
BEAT, VALID = 5 / HASTE, 20 / HASTE
ESTALE = 116
FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
OPTIONS = ("--log-size", "64MiB", "--writeback-age")


class Elsewhere(Gateway):
    """A gateway that is mounted with words before its command: another network, another clock."""
    before = ()

    def run(self, *args, timeout=120):
        words = self.before if args[0] == "mount" else ()
        return sh([*words, BIN, *map(str, args)], timeout)


def elsewhere(s, name, before, *options, backing):
    g = Elsewhere(s, name, options, backing)
    g.before = before
    s.gateways.append(g)
    return g


def spent(pid):
    """Seconds of processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as f:
        words = f.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


HOLDER = """
import os, sys
path = sys.argv[1]
fd = os.open(path, os.O_CREAT | os.O_RDWR)
os.write(fd, b"first" * 1000)
def said(call, *args):
    try:
        call(*args)
        return 0
    except OSError as e:
        return e.errno
print("ready", flush=True)
for line in sys.stdin:
    if line == "sync\\n":
        d = os.open(os.path.dirname(path), os.O_RDONLY)
        print(said(os.fsync, fd), said(os.fdatasync, fd), said(os.fsync, d), flush=True)
        os.close(d)
    else:
        print(said(os.pwrite, fd, b"more", 0), flush=True)
"""


class Holder:
    """A program that has a file open. A process of its own: whoever starts others closes its files in them, and that
    waits for a gateway that is stopped."""

    def __init__(self, s, path):
        self.p = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        s.undo.append(self.p.kill)
        self.p.stdout.readline()

    def ask(self, what):
        """The errnos that calls give."""
        self.p.stdin.write(what + "\n")
        self.p.stdin.flush()
        return [int(x) for x in self.p.stdout.readline().split()]

    def close(self):
        self.p.stdin.close()
        self.p.wait(20)


def dethroned(s, what, g, h, held, look):
    """What must be so of the old gateway `g`, of which `held` has a file open, once `h` has the backing. `look`: the backing's names."""
    pid, new = g.pids()[0], str(h.status().get("pid"))
    s.check(fails(put, g.path("later"), b"x") == ESTALE and fails(os.mkdir, g.path("later-d")) == ESTALE and fails(os.unlink, g.path("both")) == ESTALE,
            f"{what}: nothing new is accepted, with ESTALE")
    s.check(held.ask("write") == [ESTALE], f"{what}: nor a write to an open file")
    errors = held.ask("sync")
    s.check(errors == [ESTALE] * 3, f"{what}: fsync, fdatasync and that of a directory go on to give ESTALE", errors)
    s.check(get(g.path("only-here")) == b"first" * 1000, f"{what}: what it holds can be read")
    st = g.status()
    reason = st.get("reason") or ""
    s.check(st.get("state") == "degraded" and f"pid {new} " in reason and socket.gethostname() in reason and g.log in reason,
            f"{what}: status says degraded, by whom, and where the log is", f"{st.get('state')} {reason}")
    used, errors = spent(pid), st.get("writeback", {}).get("errors")
    began = time.monotonic()
    r = g.flush()
    s.check(r.returncode == 3 and "taken over by" in r.stderr and time.monotonic() - began < 10, f"{what}: flush ends at once with 3", f"{r.returncode} {r.stderr}")
    time.sleep(2)
    s.check(spent(pid) - used < 1 and g.status().get("writeback", {}).get("errors") == errors, f"{what}: it does not try on and on", spent(pid) - used)
    s.check("only-here" not in look() and "later" not in look(), f"{what}: it stored nothing more", look())
    held.close()
    r = g.umount()
    s.check(r.returncode == 3 and "taken over by" in r.stderr and len(r.stderr.strip().splitlines()) == 1, f"{what}: umount says so, with 3", f"{r.returncode} {r.stderr}")
    s.check(not g.mounted() and wait_until(lambda: not alive(pid), 20), f"{what}: and it ends")


def takes_over(s, what, h, lapse):
    began = time.monotonic()
    r = h.mount("--takeover", must=False, timeout=300)
    took = time.monotonic() - began
    return s.check(r.returncode == 0 and h.mounted() and took >= lapse, f"{what}: --takeover waits until the lease has lapsed, then mounts ({took:.0f} s)", r.stderr)


def refused(s, what, h, pid):
    began = time.monotonic()
    r = h.mount(must=False)
    took = time.monotonic() - began
    s.check(r.returncode == 2 and f"pid {pid} " in r.stderr and "since" in r.stderr and "--takeover" in r.stderr and len(r.stderr.strip().splitlines()) == 1,
            f"{what}: a second mount is refused, naming the holder and what to do", f"{r.returncode} {r.stderr}")
    s.check(took < 2, f"{what}: at once ({took:.2f} s)")


def stopped(s, what, g, h, look, lapse):
    """The first gateway is stopped, taken over, and goes on."""
    g.mount()
    put(g.path("both"), b"old")
    put(g.path("kept"), b"kept")
    s.check(g.flush().returncode == 0, f"{what}: flushed")
    pid = g.pids()[0]
    refused(s, what, h, pid)
    r = h.mount("--takeover", must=False, timeout=300)
    s.check(r.returncode == 2 and "alive" in r.stderr and not h.mounted(), f"{what}: one that lives is not taken over", r.stderr)
    held = Holder(s, g.path("only-here"))
    put(g.path("both"), b"of the first")
    s.check(held.ask("sync") == [0, 0, 0], f"{what}: fsync works before")
    os.kill(pid, signal.SIGSTOP)
    s.undo.append(lambda: alive(pid) and os.kill(pid, signal.SIGCONT))
    if not takes_over(s, what, h, lapse):
        return
    s.check(get(h.path("kept")) == b"kept" and not os.path.exists(h.path("only-here")), f"{what}: the second shows what was stored")
    put(h.path("both"), b"of the second")
    s.check(h.flush().returncode == 0, f"{what}: and stores what it is given")
    os.kill(pid, signal.SIGCONT)
    s.check(held.ask("sync") == [ESTALE] * 3, f"{what}: the very first fsync of the old one gives ESTALE")
    dethroned(s, what, g, h, held, look)
    s.check(get(h.path("both")) == b"of the second", f"{what}: the second's is untouched")
    s.check(h.umount().returncode == 0, f"{what}: the second unmounts")
    # The old log is brought there after all, beside what changed meanwhile.
    g.mount()
    s.check(g.flush().returncode == 0, f"{what}: the old log mounts again and drains")
    names = os.listdir(g.mnt)
    other = [n for n in names if n.startswith("both.conflict-")]
    s.check(get(g.path("only-here")) == b"first" * 1000 and get(g.path("both")) == b"of the first" and len(other) == 1 and get(g.path(other[0])) == b"of the second",
            f"{what}: what only it had is stored, what both changed is there twice", names)
    r = g.umount()
    s.check(r.returncode == 0 and "only-here" in look(), f"{what}: and it unmounts with 0", r.stderr)


def directory(s):
    g = s.gateway("dir-first", *OPTIONS, "10m")
    h = s.gateway("dir-second", *OPTIONS, "10m", backing=g.backing)
    stopped(s, "directory", g, h, lambda: os.listdir(g.backing), 90 / HASTE)
    s.check(".forelog" not in os.listdir(g.backing), "directory: nothing of ours stays")
    # A lease makes no noise.
    before = os.stat(g.backing)
    g.mount()
    lease = g.backing + "/.forelog/lease"
    time.sleep(5 * BEAT)
    first = get(lease)
    time.sleep(5 * BEAT)
    s.check(get(lease) == first, "directory: who has nothing to store writes no beats")
    now = os.stat(g.backing)
    s.check(stat.S_IMODE(os.stat(lease).st_mode) == 0o600 and now.st_mtime_ns == before.st_mtime_ns, "directory: and the root's times do not move")
    put(g.path("f"), b"f")
    s.check(g.flush().returncode == 0 and get(lease) != first, "directory: storing something renews it")
    sh(["rm", "-rf", g.backing + "/.forelog"])
    put(g.path("g"), b"g")
    s.check(wait_until(lambda: g.flush().returncode == 0, 20) and os.path.exists(lease), "directory: a lease that was removed by hand is put back")
    s.check(g.umount().returncode == 0 and ".forelog" not in os.listdir(g.backing), "directory: umount returns 0")


def retell(path, **words):
    """Writes other words into a lease."""
    lines = get(path).decode().splitlines()
    with open(path, "r+b") as f:
        f.write(("\n".join(f"{x.split()[0]} {words.get(x.split()[0])}" if x.split()[0] in words else x for x in lines) + "\n").encode())
        f.truncate()


def other_machine(s):
    """The holder was on a machine that cannot be seen from here; its lock is lost."""
    g = s.gateway("far-first", *OPTIONS, "10m")
    h = s.gateway("far-second", *OPTIONS, "10m", backing=g.backing)
    g.mount()
    put(g.path("f"), b"f")
    pid = g.pids()[0]
    g.kill9()
    g.detach()
    lease = g.backing + "/.forelog/lease"
    retell(lease, boot="elsewhere", machine="elsewhere", log="0" * 16, pid="77 on host far-away since 2020-01-01T00:00:00Z")
    r = h.mount(must=False)
    s.check(r.returncode == 2 and "far-away" in r.stderr and "--takeover" in r.stderr, "far away: refused, naming the other machine", r.stderr)
    done = threading.Event()

    def beats():
        n = 100
        while not done.wait(BEAT):
            n += 1
            retell(lease, beat=f"{n:012}")
    t = threading.Thread(target=beats)
    t.start()
    r = h.mount("--takeover", must=False, timeout=300)
    done.set()
    t.join()
    s.check(r.returncode == 2 and "alive" in r.stderr, "far away: not taken over while it beats, though its lock is lost", r.stderr)
    if takes_over(s, "far away", h, 90 / HASTE):
        text = get(lease).decode()
        s.check("\nepoch 2\n" in text and not [n for n in os.listdir(g.backing + "/.forelog") if n.startswith("lease.")], "far away: the epoch is raised", text)
        s.check(h.umount().returncode == 0, "far away: umount returns 0")
    g.mount()
    s.check(g.umount().returncode == 0 and get(g.backing + "/f") == b"f" and pid, "far away: the first one's log is not lost")
    g.mount()
    g.kill9()
    g.detach()
    began = time.monotonic()
    r = h.mount(must=False)
    s.check(r.returncode == 0 and time.monotonic() - began < 5, "one that died on this machine is no obstacle to another log", r.stderr)
    s.check(h.umount().returncode == 0, "umount returns 0")


def outage(s):
    """A lease that could not be renewed for long is no takeover."""
    top = s.loop_fs("small", 64)
    if not s.check(top, "(a filesystem of its own)"):
        return
    os.mkdir(top + "/b")
    g = s.gateway("outage", *OPTIONS, "100ms", backing=top + "/b")
    g.mount()
    fd = os.open(g.path("f"), os.O_CREAT | os.O_RDWR)
    os.write(fd, b"before")
    s.check(g.flush().returncode == 0, "outage: flushed")
    # Not `s.freeze`: a fork would keep the other threads' pipes open.
    s.undo.append(lambda: s.thaw(top))
    watchdog = threading.Timer(120, s.thaw, [top])
    watchdog.start()
    s.check(sh(["fsfreeze", "-f", top], 20).returncode == 0, "(the backing is frozen)")
    os.pwrite(fd, b"during", 0)
    end, errors = time.monotonic() + 100 / HASTE, set()
    while time.monotonic() < end:
        errors.add(fails(os.fsync, fd))
        time.sleep(0.1)
    s.check(errors == {0}, "outage: fsync works on while the backing hangs for longer than a lease lasts", errors)
    s.check("taken over" not in str(g.status().get("reason")), "outage: status speaks of no takeover", g.status().get("reason"))
    s.thaw(top)
    watchdog.cancel()
    s.check(wait_until(lambda: get(top + "/b/f") == b"during", 60, 0.2), "outage: then it is stored")
    sh(["mount", "-o", "remount,ro", top])
    os.pwrite(fd, b"sealed", 0)
    time.sleep(2 * VALID)
    s.check(fails(os.fsync, fd) == 0, "outage: the same with a backing that is read-only")
    s.check(sh(["mount", "-o", "remount,rw", top]).returncode == 0 and wait_until(lambda: get(top + "/b/f") == b"sealed", 60, 0.2), "outage: and then it is stored")
    with open(top + "/fill", "wb") as f:
        fails(lambda: [f.write(b"x" * (1 << 20)) for _ in range(99)])
    time.sleep(2 * VALID)
    put(g.path("more"), b"m" * (1 << 20), sync=True)
    s.check(fails(os.fsync, fd) == 0 and "taken over" not in str(g.status().get("reason")), "outage: the same with a full one", g.status().get("reason"))
    os.remove(top + "/fill")
    s.check(wait_until(lambda: os.path.exists(top + "/b/more"), 60, 0.2), "outage: and then it is stored")
    os.close(fd)
    s.check(g.umount().returncode == 0, "outage: umount returns 0")


def lapse_of_bucket():
    return 90 if LONG else VALID + 11 + 1


def bucket(s, store):
    g = s.gateway("s3-first", *OPTIONS, "10m", backing=store.url("stopped"))
    h = s.gateway("s3-second", *OPTIONS, "10m", backing=store.url("stopped"))
    stopped(s, "bucket", g, h, lambda: store.rclone("lsf", store.at("stopped")).stdout.split(), lapse_of_bucket() - BEAT)


class Relay:
    """Carries the store's port, which is on loopback, to an address that other networks reach."""

    def __init__(self, s, address, port):
        self.port, self.listener = port, socket.create_server((address, port))
        s.undo.append(self.listener.close)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                a, _ = self.listener.accept()
                b = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                return
            for x, y in ((a, b), (b, a)):
                threading.Thread(target=self.carry, args=(x, y), daemon=True).start()

    @staticmethod
    def carry(x, y):
        try:
            while data := x.recv(1 << 16):
                y.sendall(data)
        except OSError:
            pass
        for c in (x, y):
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def network(s, n):
    """A network namespace that reaches this one; returns its name and the address of this one."""
    name, net = f"fl{os.getpid() % 10000}x{n}", f"10.{200 + n}.{os.getpid() % 250}"
    s.undo.append(lambda: sh(f"ip netns del {name}; ip link del {name}o"))
    r = sh(f"ip netns add {name} && ip link add {name}o type veth peer name {name}i && ip link set {name}i netns {name}"
           f" && ip addr add {net}.1/24 dev {name}o && ip link set {name}o up"
           f" && ip -n {name} addr add {net}.2/24 dev {name}i && ip -n {name} link set {name}i up && ip -n {name} link set lo up")
    return (name, f"{net}.1") if r.returncode == 0 else (None, r.stderr)


def cut_off(s, store):
    """Two machines with one bucket: the first one's network goes away and comes back, the second one's clock is wrong."""
    ways = []
    for n in (0, 1):
        name, address = network(s, n)
        if not s.check(name, "(a network namespace)", address):
            return
        Relay(s, address, store.port)
        ways.append((name, ["nsenter", f"--net=/run/netns/{name}", "env", f"AWS_ENDPOINT_URL=http://{address}:{store.port}"]))
    (first, a), (_, b) = ways
    g = elsewhere(s, "cut-first", a, *OPTIONS, "200ms", backing=store.url("cut"))
    if not s.check(FAKETIME, "(libfaketime is installed)", "apt-get install faketime"):
        return
    clock = [f"LD_PRELOAD={FAKETIME[0]}", "FAKETIME=-5m", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
    h = elsewhere(s, "cut-second", [*b, *clock], *OPTIONS, "200ms", backing=store.url("cut"))

    def look():
        return store.rclone("lsf", store.at("cut")).stdout.split()
    g.mount()
    put(g.path("both"), b"first 0")
    s.check(g.flush().returncode == 0, "cut off: flushed")
    both = os.open(g.path("both"), os.O_RDWR)
    sh(f"ip link set {first}o down")
    held = Holder(s, g.path("only-here"))
    os.pwrite(both, b"first 1", 0)
    os.close(both)
    errors, seen, stop = [], [], threading.Event()

    def syncs():
        while not stop.wait(0.1):
            errors.extend(held.ask("sync"))
    t = threading.Thread(target=syncs)
    t.start()
    ok = takes_over(s, "cut off", h, lapse_of_bucket() - BEAT)
    s.check(errors and set(errors) == {0}, "cut off: fsync works on all the while: it may be an outage", set(errors))
    stop.set()
    t.join()
    if not ok:
        return
    for n in range(5):
        put(h.path("both"), b"second %d" % n)
        if n == 2:
            sh(f"ip link set {first}o up")
        h.flush()
        seen.append(store.rclone("cat", store.at("cut/both")).stdout)
    s.check(wait_until(lambda: held.ask("sync") == [ESTALE] * 3, 60, 0.2), "cut off: fsync gives ESTALE soon after the network is back")
    time.sleep(4 * BEAT)
    seen.append(store.rclone("cat", store.at("cut/both")).stdout)
    s.check(seen == [f"second {n}" for n in (0, 1, 2, 3, 4, 4)], "cut off: the bucket has what the second wrote, at every moment", seen)
    s.check(not [n for n in look() if "conflict" in n], "cut off: there is no trace of a second writer", look())
    dethroned(s, "cut off", g, h, held, look)
    s.check(h.umount().returncode == 0, "cut off: the second unmounts")
    sh(f"ip link set {first}o up")
    g.mount()
    s.check(g.flush().returncode == 0 and get(g.path("both")) == b"first 1" and any(n.startswith("both.conflict-") for n in os.listdir(g.mnt)),
            "cut off: the old log is brought there, beside what changed meanwhile", os.listdir(g.mnt))
    s.check(g.umount().returncode == 0, "cut off: umount returns 0")


def main():
    with Suite("takeover") as s:
        if FAKE:
            s.check(True, "plain directories have no gateways")
            return
        if HASTE > 1:
            os.environ["FORELOG_TEST_LEASE_HASTE"] = str(HASTE)
        only = os.environ.get("FORELOG_PART", "directory,other_machine,outage,bucket,cut_off").split(",")
        parts = [(f, ()) for f in (directory, other_machine, outage)]
        if {"bucket", "cut_off"} & set(only):
            store = stores.Seaweed(s, "weed")
            store.start()
            parts += [(bucket, (store,)), (cut_off, (store,))]

        def run(part, args):
            try:
                part(s, *args)
            except Exception as e:
                s.check(False, f"{part.__name__} broke", f"{type(e).__name__}: {e}")
        # They mostly wait.
        threads = [threading.Thread(target=run, args=p) for p in parts if p[0].__name__ in only]
        for t in threads:
            t.start()
        for t in threads:
            t.join()


if __name__ == "__main__":
    main()
