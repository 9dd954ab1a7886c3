"""PostgreSQL under the knife: a cluster that commits while its gateway dies or the power goes, and its own checkers afterwards."""
import glob
import os
import shutil
import signal
import subprocess

from harness import alive, sh, wait_until
from killer_programs import Program, noted

PORT = 54330
AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


def binaries():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    return found[-1] if found else ""


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(x) for x in f.read().split()]
    except OSError:
        return []


class Postgres(Program):
    """Every COMMIT that returned is there, none that was never begun; indexes agree with their tables."""

    def __init__(self, scratch, journal, port=PORT):
        super().__init__("pg", journal)
        self.bin, self.port, self.sock = binaries(), port, os.path.join(scratch, "pgsock")
        self.template = os.path.join(scratch, "pgtemplate")
        self.server = self.session = None
        self.turns = 0
        os.makedirs(self.sock, exist_ok=True)
        os.chmod(self.sock, 0o777)
        if self.bin and not os.path.exists(self.template):
            os.mkdir(self.template)
            shutil.chown(self.template, "postgres", "postgres")
            r = sh([*AS_POSTGRES, self.bin + "/initdb", "-k", "-A", "trust", "--no-sync", "--wal-segsize=1", "-D", self.template + "/data"], 120)
            if r.returncode:
                raise RuntimeError(f"initdb: {r.stderr[-500:]}")

    def install(self, root):
        """The cluster on the mount, synced. False when there is no PostgreSQL."""
        if not self.bin:
            return False
        at = os.path.join(root, self.top)
        r = sh(["cp", "-a", self.template, at], 120)
        if r.returncode == 0:
            r = sh([*AS_POSTGRES, self.bin + "/initdb", "--sync-only", "-D", at + "/data"], 120)
        if r.returncode == 0:
            r = sh(["sync", at, root], 60)
        if r.returncode:
            raise RuntimeError(f"a cluster on the mount: {r.stderr[-500:]}")
        return True

    # ---- in the worker

    def begin(self, at):
        self.session = None
        if not self.start(at):
            return
        self.session = subprocess.Popen([*AS_POSTGRES, self.bin + "/psql", "-AtXq", "-h", self.sock, "-p", str(self.port), "-U", "postgres", "postgres"],
                                        cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1)
        self.ask("create table if not exists t(id int primary key, a text); select 'made';")

    def ask(self, text):
        """The answer's line; nothing when the server is gone."""
        try:
            self.session.stdin.write(text + "\n")
            return self.session.stdout.readline().strip()
        except OSError:
            return ""

    def step(self, at, n):
        return bool(self.session) and self.ask(f"insert into t values ({n}, repeat('r', {n % 3000})) returning id;") == str(n)

    # ---- the server

    def start(self, at):
        """In a process namespace of its own: when its first process is killed, none of the cluster's is left."""
        self.end()
        opts = ["-c", "listen_addresses=", "-c", "unix_socket_directories=" + self.sock, "-c", f"port={self.port}",
                "-c", "max_wal_size=8MB", "-c", "min_wal_size=2MB", "-c", "checkpoint_timeout=30s", "-c", "shared_buffers=16MB"]
        command = " ".join([*AS_POSTGRES, self.bin + "/postgres", "-D", at + "/data", *opts])
        with open(self.sock + "/log", "ab") as log:
            self.server = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child=KILL", "sh", "-c",
                                            f"trap 'kill -INT $p' INT; {command} & p=$!; wait $p; wait $p"],
                                           cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        first = wait_until(lambda: self.server.poll() is not None or children(self.server.pid), 20, 0.005)
        with open(self.sock + "/first", "w") as f:
            f.write(str(first[0] if isinstance(first, list) else 0))
        return wait_until(lambda: self.server.poll() is not None or self.sql("select 1") == "1", 90, 0.05) and self.server.poll() is None

    def sql(self, text, timeout=60):
        return sh([*AS_POSTGRES, self.bin + "/psql", "-AtXq", "-h", self.sock, "-p", str(self.port), "-U", "postgres", "-c", text, "postgres"],
                  timeout, cwd="/").stdout.strip()

    def first(self):
        """The first process of the cluster's namespace, 0 for none."""
        try:
            with open(self.sock + "/first") as f:
                return int(f.read() or 0)
        except OSError:
            return 0

    def end(self):
        """Kills what is left of it; true once none of its processes runs: each holds files of the mount open."""
        pid, ended = self.first(), True
        if pid and alive(pid):
            os.kill(pid, signal.SIGKILL)
            ended = wait_until(lambda: not alive(pid), 30)
        if self.server and ended:
            self.server.wait(30)
        with open(self.sock + "/first", "w") as f:
            f.write("0")
        return ended

    def verify(self, root):
        begun, done = noted(self.journal)
        at = os.path.join(root, self.top)
        if not self.start(at):
            return [f"pg: does not recover: {self.tail()}"]
        try:
            if self.sql("select to_regclass('t') is not null") != "t":
                return ["pg: table gone"] if done else []
            rows = [x.split("|") for x in self.sql("select id, length(a) from t order by id").splitlines()]
            have = {int(i): int(n) for i, n in rows}
            out = [f"pg: commit {n} lost" for n in done if n not in have]
            out += [f"pg: row {n} was never inserted" for n in have if n not in begun]
            out += [f"pg: row {n} has {size} bytes" for n, size in have.items() if size != n % 3000]
            self.turns += 1
            if self.turns % 5 == 1:
                r = sh([*AS_POSTGRES, self.bin + "/pg_amcheck", "-h", self.sock, "-p", str(self.port), "-U", "postgres", "--heapallindexed",
                        "--install-missing", "postgres"], 300, cwd="/")
                out += [f"pg: pg_amcheck: {(r.stdout + r.stderr)[-400:]}"] if r.returncode else []
            return out
        finally:
            self.stop()

    def stop(self):
        pid = self.first()
        if pid and alive(pid):
            os.kill(pid, signal.SIGINT)  # fast shutdown
            wait_until(lambda: not alive(pid), 60)
        self.end()

    def tail(self):
        with open(self.sock + "/log", errors="replace") as f:
            return " | ".join(x.strip()[:160] for x in f.readlines()[-4:])

