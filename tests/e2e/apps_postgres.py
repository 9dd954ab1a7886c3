"""PostgreSQL on the mount: load, a death of the gateway in the middle of it, recovery, and its own checkers."""
import glob
import os
import time

from harness import FAKE, LONG, sh, wait_until

SECONDS = 60 if LONG else 8
PORT = 54329


class Cluster:
    """A cluster of its own, run by the user `postgres`, without TCP."""

    def __init__(self, s, at):
        self.s, self.data, self.sock = s, at + "/data", s.dir("pgsock")
        os.chmod(self.sock, 0o777)
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        self.bin = found[-1] if found else ""

    def run(self, cmd, timeout=300):
        return sh(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "sh", "-c",
                   f"cd /; export PATH={self.bin}:$PATH PGHOST={self.sock} PGPORT={PORT} PGUSER=postgres; {cmd}"], timeout)

    def start(self):
        opts = f"-c listen_addresses= -c unix_socket_directories={self.sock} -c port={PORT} -c max_wal_size=128MB"
        return self.run(f"pg_ctl -D {self.data} -w -t 240 -s -l {self.sock}/log -o '{opts}' start", 260)

    def stop(self):
        return self.run(f"pg_ctl -D {self.data} -w -t 120 -s -m fast stop", 150)

    def end(self):
        """Kills what is left of it, also when its files are gone."""
        try:
            with open(self.sock + "/pid") as f:
                os.kill(int(f.read()), 9)
        except (OSError, ValueError):
            pass

    def note_pid(self):
        r = self.run("psql -Atc \"select pg_backend_pid()\" >/dev/null; head -1 " + self.data + "/postmaster.pid")
        with open(self.sock + "/pid", "w") as f:
            f.write(r.stdout.strip())

    def sql(self, text):
        return self.run(f'psql -AtX -c "{text}" bench').stdout.strip()


def checkers(s, c, when):
    r = c.run("pg_amcheck --heapallindexed --install-missing bench", 300)
    s.check(r.returncode == 0, f"pg_amcheck {when}", r.stdout[-300:] + r.stderr[-500:])
    r = c.sql("select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), "
              "(select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history), "
              "(select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)")
    s.check(r == "t|t|t", f"the books balance {when}", r)


def postgres(s, g, at):
    c = Cluster(s, at)
    if not c.bin:
        s.check(False, "PostgreSQL is installed", "apt-get install postgresql")
        return
    sh(["chown", "postgres:postgres", at])
    r = c.run(f"initdb -k -D {c.data} -A trust >/dev/null")
    s.check(r.returncode == 0, "initdb -k", r.stderr[-800:])
    r = c.start()
    s.check(r.returncode == 0, "PostgreSQL starts", r.stderr[-500:] + c.run(f"tail -5 {c.sock}/log").stdout)
    if r.returncode:
        return
    s.undo.append(c.end)
    c.note_pid()
    r = c.run("createdb bench && pgbench -i -q -s 5 bench")
    s.check(r.returncode == 0, "pgbench -i", r.stderr[-500:])
    r = c.run(f"pgbench -n -c 4 -j 2 -T {SECONDS} bench", SECONDS + 120)
    tps = next((line for line in r.stdout.splitlines() if line.startswith("tps")), "")
    s.check(r.returncode == 0, f"pgbench, 4 clients, {SECONDS} s: {tps}", r.stderr[-500:])
    checkers(s, c, "after the load")
    if not FAKE:
        crash(s, g, c)
    r = c.stop()
    s.check(r.returncode == 0, "PostgreSQL stops", r.stderr[-500:])
    r = c.run(f"pg_checksums --check -D {c.data}")
    s.check(r.returncode == 0, "pg_checksums finds none bad", r.stdout[-300:] + r.stderr[-300:])


def acknowledged(c, out):
    """Counts commits that were acknowledged, one row each, until the server is gone."""
    n = 0
    while n < 100_000:
        r = c.run(f'psql -AtXq -c "insert into acked values ({n + 1})" bench', 60)
        if r.returncode:
            return 0
        n += 1
        with open(out, "w") as f:
            f.write(str(n))
    return 0


def crash(s, g, c):
    c.sql("create table acked(n int)")
    out = c.sock + "/acked"
    load = s.spawn(lambda: c.run("pgbench -n -c 4 -j 2 -T 60 bench", 120).returncode * 0)
    ones = s.spawn(acknowledged, c, out)
    wait_until(lambda: os.path.exists(out) and int("0" + open(out).read()) >= 10, 60)
    time.sleep(1.5)
    pid = int(open(c.sock + "/pid").read())
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        family = [*map(int, f.read().split()), pid]
    g.kill9()
    for p in family:
        try:
            os.kill(p, 9)
        except ProcessLookupError:
            pass
    for k in (load, ones):
        k.join(60)
        k.kill()
    n = int(open(out).read())
    g.detach()
    # Reaped too: PostgreSQL takes the number of a dead one that nobody waited for yet for a running server.
    wait_until(lambda: not any(os.path.exists(f"/proc/{p}") for p in family), 30)
    g.mount()
    r = c.start()
    s.check(r.returncode == 0, "after the gateway was killed under load PostgreSQL recovers", r.stderr[-300:] + c.run(f"tail -8 {c.sock}/log").stdout)
    if r.returncode:
        return
    c.note_pid()
    got = c.sql("select count(*), coalesce(max(n), 0) from acked").split("|")
    s.check(int(got[0]) >= n and got[0] == got[1], f"each of {n} commits acknowledged one by one is there", got)
    checkers(s, c, "after the recovery")
