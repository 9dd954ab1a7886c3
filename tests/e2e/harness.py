"""Drives a built forelog from outside, by its command line alone.

FORELOG_BIN   the binary (default target/release/forelog)
FORELOG_FAKE  1: no binary; the backing directory itself plays the mount, so the logic of a suite can be proven alone
FORELOG_SCRATCH  an empty directory for a suite to work in (default: a new one below /var/tmp)
Everything a suite makes (processes, mounts, loop devices, directories) is removed at its end, by pid and by path.
`harness.py --scrub DIR` does the same from outside, for a suite that was killed.
"""
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BIN = os.path.abspath(os.environ.get("FORELOG_BIN", os.path.join(ROOT, "target/release/forelog")))
TOOLS = os.environ.get("FORELOG_TOOLS", os.path.join(ROOT, "target/tools"))
FAKE = os.environ.get("FORELOG_FAKE") == "1"
LONG = "--long" in sys.argv
GONE_ERRNOS = (107, 103, 125)  # ENOTCONN, ECONNABORTED, with a ring ECANCELED: what a call says that comes after its gateway is gone
DEAD_ERRNOS = (*GONE_ERRNOS, 5)  # and EIO: what one says that was under way


def mounts():
    """Mount points of this namespace, in mount order, read without touching any of them."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        return [line.split()[4].encode("latin-1", "surrogateescape").decode("unicode_escape") for line in f]


def alive(pid):
    """True while `pid` runs; a zombie that nobody reaps counts as gone, unless it is only the first thread that ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def fails(fn, *args):
    """The errno that a call gives, 0 if it works."""
    try:
        fn(*args)
        return 0
    except OSError as e:
        return e.errno


def wait_until(test, seconds, step=0.02):
    """Polls `test` until true or `seconds` are over; returns what it said last."""
    end = time.monotonic() + seconds
    while not (r := test()) and time.monotonic() < end:
        time.sleep(step)
    return r


def pids_naming(text):
    """Gateways whose command line holds `text` (a scratch path, so ours alone).

    Only those are looked at: /proc/PID/stat and cmdline of a process within exec() block until its exec is done, and that
    may wait for a mount that hangs."""
    found = []
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{p}/comm") as f:
                if f.read().strip() not in (os.path.basename(BIN)[:15], "forelog", "bindfs"):
                    continue
            with open(f"/proc/{p}/cmdline", "rb") as f:
                if text.encode() in f.read() and int(p) != os.getpid():
                    found.append(int(p))
        except OSError:
            pass
    return found


def sh(cmd, timeout=300, **kw):
    """Runs a command (list, or string for the shell); never raises, a timeout is return code 124.

    A command that hangs in a dead mount cannot be killed, so it is not waited for beyond its time."""
    p = subprocess.Popen(cmd, shell=isinstance(cmd, str), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         errors="replace", stdin=subprocess.DEVNULL, **kw)
    try:
        out, err = p.communicate(timeout=timeout)
        return subprocess.CompletedProcess(cmd, p.returncode, out, err)
    except subprocess.TimeoutExpired:
        p.kill()
        try:
            p.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            pass
        return subprocess.CompletedProcess(cmd, 124, "", f"timed out after {timeout} s")


def group_alive(pgid):
    """True while the process group has a member (a zombie counts: its reaper is soon there)."""
    try:
        os.killpg(pgid, 0)
        return True
    except (ProcessLookupError, PermissionError):
        return False


class Child:
    """A forked worker; dies with the suite."""

    def __init__(self, fn, args):
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.code = None
        self.gone = False  # it and its group: the number may be somebody else's by now
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setpgid(0, 0)  # what it starts is killed with it
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if os.getppid() == parent:
                code = int(fn(*args) or 0)
        except BaseException:  # a worker must never run the suite's own cleanup
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self):
        if self.code is None:
            pid, st = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(st)
                self.gone = not group_alive(self.pid)
        return self.code

    def join(self, seconds):
        """Exit code (negative: signal), or None if it still runs after `seconds`."""
        wait_until(lambda: self.poll() is not None, seconds, 0.01)
        return self.code

    def kill(self):
        """Ends the worker and all it started; returns once none of them runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        if self.gone:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.join(10)
        self.gone = wait_until(lambda: not group_alive(self.pid), 3)


def scrub(top):
    """Ends every process that names a path below `top`, takes down the mounts and loop devices there, removes it all."""
    for m in mounts():
        if m.startswith(top + "/"):
            if sh(["findmnt", "-no", "FSTYPE", m], 20).stdout.startswith("ext"):
                sh(["fsfreeze", "-u", m], 20)
    for pid in pids_naming(top + "/"):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for m in reversed(mounts()):
        if m.startswith(top + "/"):
            sh(["umount", "-l", m], 20)
    for line in sh(["losetup", "-nO", "NAME,BACK-FILE"], 20).stdout.splitlines():
        dev, _, back = line.strip().partition(" ")
        if back.strip().startswith(top + "/"):
            sh(["losetup", "-d", dev], 20)
    if os.environ.get("FORELOG_KEEP") != "1":
        wait_until(lambda: shutil.rmtree(top, ignore_errors=True) or not os.path.exists(top), 10, 0.2)


class Suite:
    """Counts checks, owns a scratch directory, cleans up whatever happens."""

    def __init__(self, name):
        self.name, self.passed, self.failed = name, 0, []
        self.gateways, self.children, self.undo = [], [], []
        self.headline = ""  # the figure that the summary line ends with
        self.began = time.monotonic()

    def __enter__(self):
        for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(s, lambda n, _: sys.exit(128 + n))
        base = os.environ.get("FORELOG_SCRATCH")  # paths stay short: a socket's may have 107 bytes
        if base:
            self.scratch = os.path.join(base, self.name)
            os.mkdir(self.scratch)
        else:
            self.scratch = tempfile.mkdtemp(prefix=f"fl-{self.name[:5]}.", dir="/var/tmp")
        os.chmod(self.scratch, 0o755)
        if not FAKE and not os.access(BIN, os.X_OK):
            print(f"{self.name}: no binary at {BIN}: build it with `cargo build --release` or set FORELOG_BIN")
            sys.exit(2)
        return self

    def __exit__(self, kind, value, tb):
        if kind and kind is not SystemExit:
            self.check(False, f"the suite itself broke: {kind.__name__}: {value}")
            traceback.print_exception(kind, value, tb)
        if self.failed:
            for g in self.gateways:
                g.show_log()
        self.cleanup()
        state = "FAILED" if self.failed else "interrupted" if kind else "ok"
        print(f"{self.name}: {state}, {self.passed} checks held, {len(self.failed)} did not, "
              f"{time.monotonic() - self.began:.0f} s{'; ' + self.headline if self.headline else ''}", flush=True)
        if kind is SystemExit and value.code not in (0, None):
            return False
        sys.exit(1 if self.failed else 0)

    def cleanup(self):
        for fn in reversed(self.undo):  # a thaw comes before the end of those who wait for it
            try:
                fn()
            except Exception as e:
                print(f"cleanup: {e}")
        for c in self.children:
            c.kill()
        scrub(self.scratch)

    def check(self, ok, what, detail=""):
        """Records one fact; prints it at once when it does not hold."""
        if ok:
            self.passed += 1
            print(f"  ok   {what}", flush=True)
        else:
            self.failed.append(what)
            print(f"  FAIL {what}{': ' + str(detail).strip()[:2000] if detail else ''}", flush=True)
        return bool(ok)

    def note(self, text):
        print(f"  ---- {text}", flush=True)

    def spawn(self, fn, *args):
        c = Child(fn, args)
        self.children.append(c)
        return c

    def dir(self, name):
        p = os.path.join(self.scratch, name)
        os.makedirs(p, exist_ok=True)
        return p

    def gateway(self, name, *options, backing=None):
        g = Gateway(self, name, options, backing)
        self.gateways.append(g)
        return g

    def loop_fs(self, name, mib, mkfs="mkfs.ext4 -q -F"):
        """A small filesystem of its own on a loop device; None where that cannot be had."""
        img, mnt = os.path.join(self.scratch, name + ".img"), self.dir(name)
        with open(img, "wb") as f:
            f.truncate(mib << 20)
        if sh(f"{mkfs} {img} && mount -o loop {img} {mnt}", 60).returncode:
            return None
        return mnt

    def freeze(self, path, at_most=240):
        """Stops every write to the filesystem at `path`; a watchdog thaws it after `at_most` seconds, come what may."""
        self.undo.append(lambda: self.thaw(path))
        watchdog = self.spawn(lambda: (time.sleep(at_most), self.thaw(path))[0])
        self.check(watchdog.pid and sh(["fsfreeze", "-f", path], 20).returncode == 0, "(the backing is frozen)")

    @staticmethod
    def thaw(path):
        sh(["fsfreeze", "-u", path], 20)

    def within(self, seconds, fn, *args):
        """True if `fn` (in a process of its own) returned true within that time: a hanging call cannot hang the suite."""
        return self.spawn(lambda: 0 if fn(*args) else 1).join(seconds) == 0


class Gateway:
    """One backing, one log and one mount point, with the commands a person would type."""

    def __init__(self, suite, name, options, backing):
        self.suite, self.options = suite, list(options)
        base = suite.dir(name)
        self.backing = backing or suite.dir(name + "/backing")
        self.log = os.path.join(base, "log")
        self.mnt = self.backing if FAKE else suite.dir(name + "/mnt")
        self.log_file = os.path.join(base, "gateway.log")
        self.fake_mounted = False

    def run(self, *args, timeout=120):
        return sh([BIN, *map(str, args)], timeout)

    def mount_command(self, *more):
        return ["mount", self.backing, self.mnt, "--log-dir", self.log, "--log-file", self.log_file,
                *self.options, *map(str, more)]

    def mount(self, *more, must=True, timeout=120):
        """Mounts in the background; with `must` a failure ends the suite."""
        if FAKE:
            self.fake_mounted = True
            return subprocess.CompletedProcess([], 0, "", "")
        r = self.run(*self.mount_command(*more), timeout=timeout)
        if must and (r.returncode or not self.mounted()):
            raise RuntimeError(f"mount: exit {r.returncode}, mounted {self.mounted()}: {r.stderr.strip()[-800:]}")
        return r

    def mounted(self):
        return self.fake_mounted if FAKE else self.mnt in mounts()

    def umount(self, *more, timeout=300):
        if FAKE:
            self.fake_mounted = False
            return subprocess.CompletedProcess([], 0, "", "")
        return self.run("umount", self.mnt, *more, timeout=timeout)

    def status(self):
        """The parsed `status --json`, or {} with a note when there is none."""
        if FAKE:
            return {"pid": os.getpid(), "state": "serving", "log": {}, "writeback": {}, "requests": {}, "clients": []}
        r = self.run("status", self.mnt, "--json", timeout=30)
        try:
            return json.loads(r.stdout)
        except ValueError:
            self.suite.note(f"status: exit {r.returncode}: {(r.stderr or r.stdout).strip()[:200]}")
            return {}

    def pids(self):
        """The gateway's pid as status has it, else every process that names our log."""
        pid = self.status().get("pid")
        return [pid] if pid and alive(pid) else pids_naming(self.log)

    def kill9(self):
        """SIGKILL to the gateway; returns once it is gone."""
        if FAKE:
            return
        self.finish_kill(self.pids())

    def finish_kill(self, pids):
        if not pids:
            raise RuntimeError("no gateway process to kill")
        for p in pids:
            os.kill(p, signal.SIGKILL)
        if not wait_until(lambda: not any(map(alive, pids)), 30):
            raise RuntimeError(f"gateway {pids} outlived SIGKILL by 30 s")

    def detach(self):
        """Takes a dead (or any) mount off the tree: `umount -l`, as a person would after a crash."""
        if FAKE:
            self.fake_mounted = False
            return
        while self.mounted():
            r = sh(["umount", "-l", self.mnt], 30)
            if r.returncode:
                raise RuntimeError(f"umount -l: {r.stderr}")

    def flush(self, *paths):
        return self.umount() if FAKE else self.run("flush", self.mnt, *paths)

    def show_log(self, lines=8):
        """The end of the gateway's log, without what fuser says of calls that nobody needs."""
        try:
            with open(self.log_file, errors="replace") as f:
                text = [x.rstrip() for x in f if x.startswith("[") and " fuser]" not in x]
        except OSError:
            return
        if text:
            print(f"  ---- {os.path.basename(os.path.dirname(self.log_file))}'s gateway log ends:")
            print("\n".join("       " + x[:300] for x in text[-lines:]))

    def path(self, *parts):
        return os.path.join(self.mnt, *parts)


def leftovers(backing):
    """Names of ours that must not be in a backing after a clean unmount."""
    bad = []
    for top, dirs, files in os.walk(backing):
        if top == backing and ".forelog" in dirs:
            dirs.remove(".forelog")
        bad += [os.path.join(top, n) for n in dirs + files if "forelog" in n.lower()]
    return bad


def put(path, data, sync=False):
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        if sync:
            os.fsync(f.fileno())


def get(path):
    with open(path, "rb") as f:
        return f.read()


def numbers(values):
    """p50, p99 and maximum of a list of seconds, in microseconds."""
    v = sorted(values)
    return [round(x * 1e6) for x in (v[len(v) // 2], v[min(len(v) - 1, int(len(v) * 0.99))], v[-1])]


if __name__ == "__main__" and sys.argv[1:2] == ["--scrub"]:
    if not os.path.basename(sys.argv[2]).startswith(("fl.", "fl-")):
        sys.exit(f"{sys.argv[2]}: not a scratch directory of these suites")
    scrub(os.path.abspath(sys.argv[2]))
