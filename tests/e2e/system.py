"""At home on the machine: installing and removing, /etc/fstab and the mount helpers, a plain umount that waits, what a service manager
hears, the unit and what it takes away from the gateway.

It runs in a mount namespace of its own, with layers over /usr, /etc and /var/lib, so that it installs for real and leaves nothing."""
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time

from harness import BIN, FAKE, ROOT, Suite, alive, get, mounts, put, sh, wait_until

INSTALL = os.path.join(ROOT, "mount-scripts/install.sh")
UNIT = os.path.join(ROOT, "mount-scripts/forelog@.service")
ENV = {**os.environ, "FORELOG": BIN}


def own_namespace():
    """Goes on in a mount namespace of its own."""
    if os.environ.get("FORELOG_OWN_NAMESPACE") != "1":
        os.environ["FORELOG_OWN_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def layer(s, *tops):
    """What is written to these directories stays in the scratch directory."""
    held = s.dir("layers")
    sh(["mount", "-t", "tmpfs", "none", held])
    for n, top in enumerate(tops):
        up, work = f"{held}/up{n}", f"{held}/work{n}"
        os.mkdir(up)
        os.mkdir(work)
        r = sh(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={top},upperdir={up},workdir={work}", top])
        if not s.check(r.returncode == 0, f"(a layer over {top})", r.stderr):
            raise RuntimeError("no layers here")


def tree(top):
    return sorted(os.path.relpath(os.path.join(t, n), top) for t, _, names in os.walk(top) for n in names)


def installing(s):
    """With DESTDIR: twice the same, then nothing is left."""
    to = s.dir("dest")
    env = {**ENV, "DESTDIR": to}
    s.check(sh([INSTALL], env=env).returncode == 0, "install.sh")
    first = tree(to)
    for want in ("usr/local/bin/forelog", "sbin/mount.fuse.forelog", "sbin/umount.forelog", "usr/local/share/man/man1/forelog-mount.1",
                 "usr/local/share/bash-completion/completions/forelog", "etc/systemd/system/forelog@.service"):
        s.check(want in first, f"installs {want}")
    verbs = re.findall(r"^  (\w+) ", sh([BIN, "--help"]).stdout.partition("Commands:")[2].partition("Options:")[0], re.M)
    pages = {n.rpartition("/")[2] for n in first}
    s.check(len(verbs) > 10 and all(f"forelog-{v}.1" in pages for v in verbs), "and a manual page of each command", verbs)
    s.check(sh([INSTALL], env=env).returncode == 0 and tree(to) == first, "a second time changes nothing")
    g = s.gateway("held", "--writeback-age", "1h")
    g.log = to + "/var/lib/forelog/held"
    os.makedirs(g.log)
    g.mount()
    put(g.path("f"), b"only in the log")
    g.kill9()
    g.detach()
    r = sh([INSTALL, "--uninstall"], env=env)
    s.check(r.returncode == 2 and g.log in r.stderr and set(first) <= set(tree(to)), "--uninstall is refused while a log holds data", r.stderr)
    r = sh([INSTALL, "--uninstall", "--force"], env=env)
    left = [n for n in tree(to) if not n.startswith("var/lib/forelog/")]
    s.check(r.returncode == 0 and not left and os.path.exists(g.log + "/checkpoint"), "--force removes the program and keeps the log", left)
    sh([INSTALL], env=env)
    g.mount()
    s.check(g.umount().returncode == 0 and get(g.backing + "/f") == b"only in the log", "(the log is drained)")
    r = sh([INSTALL, "--uninstall"], env=env)
    s.check(r.returncode == 0, "--uninstall with an empty log", r.stderr)
    sh(["rm", "-rf", to])


def on_terminal(cmd, seconds):
    """Exit code and what a command shows on a terminal."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp(cmd[0], cmd)
    out, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([fd], [], [], 0.2)[0]:
            try:
                out += os.read(fd, 65536)
            except OSError:
                break
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode(errors="replace")


def fstab(s):
    """mount(8) and umount(8) by /etc/fstab, both types."""
    s.check(sh([INSTALL, "--prefix", "/usr"], env=ENV).returncode == 0, "installed in /usr")
    lines, places = [], []
    for n, kind in enumerate(("forelog", "fuse.forelog")):
        back, at, log = s.dir(f"tab{n}/backing"), s.dir(f"tab{n}/mnt"), s.dir(f"tab{n}/log")
        places.append((back, at))
        lines.append(f"{back} {at} {kind} _netdev,nofail,x-systemd.requires=network-online.target,x-systemd.mount-timeout=30,"
                     f"log_dir={log},writeback_age=1h,upload_limit=4MiB 0 0")
    with open("/etc/fstab", "w") as f:
        f.write("\n".join(lines) + "\n")
    r = sh(["mount", "-a"])
    s.check(r.returncode == 0 and all(at in mounts() for _, at in places), "mount -a mounts both types", r.stderr)
    r = sh(["mount", "-a"])
    s.check(r.returncode == 0 and all(mounts().count(at) == 1 for _, at in places), "mount -a once more changes nothing", r.stderr)
    data = os.urandom(10 << 20)
    for back, at in places:
        put(at + "/f", data)
    with open("/run/mount/utab") as f:
        tab = f.read()
    s.check(all(f"TARGET={at} " in tab for _, at in places), "a line in libmount's table for each", tab)
    (back, at), (back2, at2) = places
    s.check(not os.path.exists(back + "/f"), "(not stored yet)")
    code, shown = on_terminal(["umount", at], 60)
    s.check(code == 0 and at not in mounts() and get(back + "/f") == data, "a plain umount returns 0 with all of it in the backing", (code, shown))
    s.check("left" in shown and "MiB" in shown, "and shows on a terminal what is left", shown[:300])
    r = sh(["umount", at2], 60)
    s.check(r.returncode == 0 and get(back2 + "/f") == data, "also by the type fuse.forelog", r.stderr)
    with open("/run/mount/utab") as f:
        s.check(not any(at + " " in f.read() for _, at in places), "no line is left in libmount's table")
    os.rename(back, back + "-away")
    r = sh(["mount", at])
    s.check(r.returncode == 32 and back in r.stderr and at not in mounts() and not os.path.exists(back),
            "a backing that is not there: exit 32, a line that names it, nothing mounted or made", (r.returncode, r.stderr))
    r = sh(["mount", "-a"])
    s.check(at2 in mounts() and at not in mounts(), "the others are mounted all the same", r.stderr)
    os.rename(back + "-away", back)
    r = sh(["mount", "-a"])
    s.check(r.returncode == 0 and get(at + "/f") == data, "and it is mounted when it is back", r.stderr)
    r = sh(["umount", at, at2], 60)
    s.check(r.returncode == 0 and at not in mounts() and at2 not in mounts(), "umount of both at once", r.stderr)


class Manager:
    """What systemd is to a service: a socket that takes datagrams."""

    def __init__(self, s, g, *more, watchdog="", under=()):
        self.path = s.scratch + "/notify"
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        self.heard = []  # (time, line)
        env = {**os.environ, "NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": watchdog}
        self.log = open(g.log_file, "ab")
        self.process = subprocess.Popen([*under, BIN, *g.mount_command("--foreground", *more)], env=env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=self.log)
        s.undo.append(self.end)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)

    def listen(self, until, seconds):
        """Takes what comes until that is true."""
        end = time.monotonic() + seconds
        self.sock.settimeout(0.05)
        while not (done := until()) and time.monotonic() < end:
            try:
                for line in self.sock.recv(65536).decode().splitlines():
                    self.heard.append((time.monotonic(), line))
            except TimeoutError:
                pass
        return done

    def said(self, start, since=0.0):
        return [line for t, line in self.heard if line.startswith(start) and t >= since]


def service(s):
    back = s.loop_fs("service-disk", 64)
    if not s.check(back, "(a filesystem that can be stopped)"):
        return
    g = s.gateway("service", "--writeback-age", "1h", "--transport", "device", backing=back)
    m = Manager(s, g, watchdog="2000000")
    m.listen(lambda: m.said("READY=1"), 60)
    s.check(m.said("READY=1") and g.mounted() and g.status().get("state") == "serving", "READY=1, and the mount answers", m.heard)
    s.check(m.listen(lambda: len(m.said("WATCHDOG=1")) >= 3, 20), "signs of life", m.heard)
    data = os.urandom(9 << 20)
    put(g.path("f"), data)
    s.check(m.listen(lambda: any("9.0 MiB in " in x for x in m.said("STATUS=serving: ")), 20), "STATUS says what is left to store", m.said("STATUS"))
    s.freeze(back, 60)
    os.kill(m.process.pid, signal.SIGTERM)
    m.listen(lambda: m.said("STATUS=draining: ") and len(m.said("EXTEND_TIMEOUT_USEC=")) > 1, 20)
    s.thaw(back)
    m.listen(lambda: m.process.poll() is not None, 60)
    s.check(m.process.returncode == 0 and get(g.backing + "/f") == data and not g.mounted(), "SIGTERM drains, unmounts, exits 0", m.process.returncode)
    stopping = [t for t, line in m.heard if line == "STOPPING=1"]
    s.check(stopping and m.said("EXTEND_TIMEOUT_USEC=", stopping[0]) and m.said("STATUS=draining: ", stopping[0])
            and not any("everything is stored" in x for x in m.said("STATUS=", stopping[0])),
            "STOPPING=1 at once, then more time and the state while it drains, nothing stored too early", m.heard[-12:])
    s.check(m.said("WATCHDOG=1", stopping[0]) if stopping else False, "and signs of life to the end")


def hangs(s):
    """A gateway that lives but answers nobody gives no sign of life."""
    g = s.gateway("hangs", "--transport", "device")
    m = Manager(s, g, watchdog="2000000")
    s.check(m.listen(lambda: m.said("WATCHDOG=1"), 60), "(signs of life)")
    strace = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=read,readv", "-e", "inject=read,readv:delay_enter=60000000",
                               "-p", str(m.process.pid)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    s.undo.append(strace.kill)
    m.listen(lambda: False, 5)
    since = time.monotonic()
    m.listen(lambda: False, 5)
    s.check(alive(m.process.pid) and not m.said("WATCHDOG=1", since), "requests are not answered: no signs of life, though the process lives",
            m.said("WATCHDOG=1", since))
    strace.kill()
    strace.wait(20)
    m.end()
    sh(["umount", "-l", g.mnt], 30)


def both_at_once(s):
    """At a shutdown an unmount and SIGTERM come at once."""
    back = s.loop_fs("both-disk", 64)
    if not s.check(back, "(a filesystem that can be stopped)"):
        return
    g = s.gateway("both", "--writeback-age", "1h", backing=back)
    g.mount()
    data = os.urandom(9 << 20)
    put(g.path("f"), data)
    pid = g.pids()[0]
    s.freeze(back, 60)
    u = subprocess.Popen([BIN, "umount", g.mnt, "--quiet"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    s.check(wait_until(lambda: g.status().get("state") == "draining", 20), "(draining)")
    os.kill(pid, signal.SIGTERM)
    time.sleep(1)
    s.check(alive(pid) and u.poll() is None, "SIGTERM during an unmount does not break it off")
    s.thaw(back)
    err = u.communicate(timeout=90)[1]
    s.check(u.returncode == 0 and get(g.backing + "/f") == data, "SIGTERM during an unmount lets it drain on: exit 0, all stored", err)
    s.check(wait_until(lambda: not alive(pid), 20), "and the gateway ends")


def unit(s):
    """The unit is well-formed, and a gateway with no more than it leaves does its work."""
    with open(UNIT) as f:
        keys = dict(line.strip().split("=", 1) for line in f if "=" in line and line[0] not in "#[")
    for bad in ("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "RestrictSUIDSGID"):
        s.check(bad not in keys, f"no {bad}: the mount would not be seen, or programs be refused")
    if sh("command -v systemd-analyze").returncode == 0:
        at = s.dir("unit")
        with open(UNIT) as f:
            text = f.read().replace("/usr/local/bin/forelog", BIN)
        put(at + "/forelog@x.service", text.encode())
        r = sh(["systemd-analyze", "verify", "--man=no", at + "/forelog@x.service"], 60)
        mine = [line for line in r.stderr.splitlines() if "forelog@" in line]
        s.check(not mine, "systemd-analyze verify has nothing to say", mine)
    g = s.gateway("hardened", "--writeback-age", "1h")
    caps = ",".join("+" + c.removeprefix("CAP_").lower() for c in keys["CapabilityBoundingSet"].split())
    m = Manager(s, g, under=["setpriv", "--no-new-privs", "--bounding-set", "-all," + caps, "--inh-caps", "-all"])
    s.check(m.listen(lambda: m.said("READY=1"), 60), "mounts without new privileges and with the unit's capabilities only", get(g.log_file)[-500:])
    put(g.path("f"), b"x" * 100_000, True)
    os.chown(g.path("f"), 1234, 1234)
    os.chmod(g.path("f"), 0o6755)
    os.mkfifo(g.path("p"))
    os.mknod(g.path("n"), 0o020644, os.makedev(1, 3))
    os.symlink("f", g.path("l"))
    os.link(g.path("f"), g.path("h"))
    os.setxattr(g.path("f"), "user.a", b"b")
    os.setxattr(g.path("f"), "trusted.a", b"b")
    os.mkdir(g.path("d"), 0o700)
    os.chown(g.path("d"), 1234, 1234)
    put(g.path("d/in"), b"in a closed directory of another")
    r = sh(["umount", g.mnt], 60)
    m.process.wait(30)
    b = g.backing
    st = os.stat(b + "/f")
    s.check(r.returncode == 0 and (st.st_uid, st.st_mode & 0o7777, st.st_nlink) == (1234, 0o6755, 2) and os.getxattr(b + "/f", "trusted.a") == b"b"
            and os.stat(b + "/n").st_rdev == os.makedev(1, 3) and get(b + "/d/in") == b"in a closed directory of another",
            "owners, set-id bits, devices, attributes: all stored", (r.stderr, st))


def as_user(s):
    """allow_other, by the leave of /etc/fuse.conf."""
    g = s.gateway("user")
    for d in (g.backing, g.mnt, s.dir("user/home")):
        os.chown(d, 65534, 65534)
    sh(["mount", "-t", "tmpfs", "-o", "dev", "none", s.dir("user/dev")])
    os.mknod(s.scratch + "/user/dev/fuse", 0o020666, os.makedev(10, 229))
    os.chmod(s.scratch + "/user/dev/fuse", 0o666)
    sh(["mount", "--bind", s.scratch + "/user/dev/fuse", "/dev/fuse"])
    run = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", f"HOME={s.scratch}/user/home", BIN]
    with open("/etc/fuse.conf", "w") as f:
        f.write("")
    r = sh([*run, "mount", g.backing, g.mnt, "-o", "allow_other"])
    s.check(r.returncode == 2 and "user_allow_other" in r.stderr and "/etc/fuse.conf" in r.stderr, "without leave: a line that says which line where", r.stderr)
    with open("/etc/fuse.conf", "w") as f:
        f.write("user_allow_other\n")
    r = sh([*run, "mount", g.backing, g.mnt, "-o", "allow_other"])
    s.check(r.returncode == 0 and os.listdir(g.mnt) == [], "with that line others see it", r.stderr)
    r = sh([*run, "umount", g.mnt])
    s.check(r.returncode == 0, "the user unmounts", r.stderr)


def main():
    own_namespace()
    with Suite("system") as s:
        if FAKE:
            s.check(True, "(fake) nothing to install")
            return
        layer(s, "/usr", "/etc", "/var/lib")
        for step in (installing, fstab, service, hangs, both_at_once, unit, as_user):
            try:
                step(s)
            except (OSError, RuntimeError, IndexError, subprocess.TimeoutExpired) as e:
                s.check(False, f"{step.__name__} ran to its end", f"{type(e).__name__}: {e}")


if __name__ == "__main__":
    main()
