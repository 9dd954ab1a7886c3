"""What a person or a machine sees of a gateway: `top` on a terminal and in a pipe, metrics, the report."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import urllib.error
import urllib.request

from harness import BIN, LONG, ROOT, Suite, put, sh, wait_until


class Terminal:
    """A program on a pseudo-terminal; what it drew is kept as text, without being understood but for the last screen."""

    def __init__(self, args, columns=80, rows=24, env=None):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(args[0], args, {**os.environ, "TERM": "xterm-256color", **(env or {})})
        self.size(columns, rows)
        self.seen, self.code = b"", None

    def size(self, columns, rows):
        self.columns, self.rows = columns, rows
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds=0.3):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([self.fd], [], [], left)[0]:
            try:
                part = os.read(self.fd, 65536)
            except OSError:  # EIO: nobody has the other end any more
                return self.seen
            if not part:
                return self.seen
            self.seen += part
        return self.seen

    def waits_for(self, text, seconds=20):
        return wait_until(lambda: text in self.screen(), seconds, 0)

    def screen(self):
        """The screen as its cells are after all that was drawn."""
        self.read()
        cells = [[" "] * self.columns for _ in range(self.rows)]
        x = y = 0
        text = self.seen.decode(errors="replace")
        for m in re.finditer(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b.|([^\x1b])", text):
            args, verb, char = m.groups()
            if verb == "H":
                row, _, column = args.partition(";")
                y, x = int(row or 1) - 1, int(column or 1) - 1
            elif verb == "J":
                cells = [[" "] * self.columns for _ in range(self.rows)]
            elif char == "\r":
                x = 0
            elif char == "\n":
                y += 1
            elif char and y < self.rows and x < self.columns:
                cells[y][x] = char
                x += 1
        return "\n".join("".join(row).rstrip() for row in cells)

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def ended(self, seconds=15):
        """Exit code (negative: signal) or None."""
        def over():
            self.read(0.05)
            if self.code is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.code = os.waitstatus_to_exitcode(status)
            return self.code is not None
        wait_until(over, seconds, 0.05)
        return self.code

    def restored(self):
        """The main screen and the cursor are back, and the line takes keys as ever."""
        try:
            raw = not termios.tcgetattr(self.fd)[3] & termios.ICANON
        except termios.error:
            raw = False
        return self.seen.rfind(b"\x1b[?1049l") > self.seen.rfind(b"\x1b[?1049h") and self.seen.rfind(b"\x1b[?25h") > self.seen.rfind(b"\x1b[?25l") and not raw

    def kill(self):
        if self.ended(0) is None:
            os.kill(self.pid, signal.SIGKILL)
            self.ended(5)
        os.close(self.fd)


def get(url, **headers):
    """Status and body of a page."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as r:
            return r.status, r.read().decode(), r.headers
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode(), e.headers


def samples(text):
    """Samples of an exposition by name and labels."""
    return {m[1] + (m[2] or ""): float(m[3]) for m in re.finditer(r"^(\w+)(\{.*\})? (\S+)$", text, re.M)}


def keeps_the_rules(s, text):
    """What promtool and the OpenMetrics text format ask of an exposition."""
    kinds, helped, broken, last = {}, set(), [], None
    lines = text.split("\n")
    if lines[-2:] != ["# EOF", ""]:
        broken.append("no # EOF at the end")
    for line in lines[:-2]:
        word = line.split(" ")
        if line.startswith("# HELP "):
            helped.add(word[2])
        elif line.startswith("# TYPE "):
            if word[2] in kinds:
                broken.append(f"{word[2]} described twice")
            kinds[word[2]] = word[3]
            last = word[2]
        elif line.startswith("# UNIT "):
            if not word[2].endswith("_" + word[3]):
                broken.append(line)
        elif m := re.fullmatch(r'([a-z0-9_:]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*\})? ([0-9.eE+-]+|NaN|[+-]?Inf)', line):
            name, kind = m[1], kinds.get(last)
            ends = {"counter": ["_total"], "gauge": [""], "info": ["_info"], "histogram": ["_bucket", "_sum", "_count"]}.get(kind, [])
            if name not in [last + e for e in ends]:
                broken.append(f"{name} under {last} of type {kind}")
            if "/" in (m[2] or "") or (kind in ("counter", "histogram") and float(m[3]) < 0):
                broken.append(line)
        else:
            broken.append(line)
    units = [n for n in kinds if re.search(r"_(milliseconds|ms|us|ns|minutes|kib|mib|kb|mb|percent|total)$", n)]
    s.check(not broken and not units, "the exposition keeps the format, base units, and names no path", f"{broken[:5]} {units}")
    s.check(helped == set(kinds), "each metric has help and type")
    return kinds


def documented():
    with open(os.path.join(ROOT, "docs/METRICS.md")) as f:
        return {m[1]: m[2] for m in re.finditer(r"^\| `(\w+)` \| (\w+) \|", f.read(), re.M)}


def metrics(s):
    g = s.gateway("metrics", "--metrics", ":0")
    g.mount()
    at = g.status()["metrics"]
    s.check(at and at.startswith("127.0.0.1:"), "a port alone is of loopback, and status says which", at)
    put(g.path("a"), b"x" * 300_000, True)
    code, text, headers = get(f"http://{at}/metrics")
    s.check(code == 200 and headers["Content-Type"].startswith("application/openmetrics-text"), "/metrics answers")
    kinds = keeps_the_rules(s, text)
    names = {n + {"counter": "_total", "info": "_info"}.get(k, ""): k for n, k in kinds.items()}
    s.check(names == documented(), "docs/METRICS.md and the endpoint agree exactly", set(names.items()) ^ set(documented().items()))
    try:
        from prometheus_client.openmetrics.parser import text_string_to_metric_families
        s.check(len(list(text_string_to_metric_families(text))) == len(kinds), "prometheus_client reads it")
    except ImportError:
        s.note("no prometheus_client here: only the rules above were checked")
    old = samples(text)
    for n in range(20):
        put(g.path("b"), b"y" * 100_000)
    put(g.path("b"), b"y" * 100_000, True)
    new = samples(get(f"http://{at}/metrics")[1])
    counters = [k for k in old if "_total" in k or "_bucket" in k or "_count" in k or "_sum" in k]
    s.check(all(new[k] >= old[k] for k in counters if k in new), "counters only grow")
    key = 'forelog_request_bytes_total{kind="write"}'
    s.check(new[key] - old[key] == 2_100_000, "bytes written are counted", new[key] - old[key])
    with open("/proc/self/comm") as f:
        me = f.read().strip()
    program = [k for k in new if k.startswith("forelog_program_written_bytes_total")]
    s.check(any(f'"{me}"' in k and new[k] >= 2_400_000 for k in program), "and by program", program)
    buckets = [v for k, v in new.items() if k.startswith("forelog_request_duration_seconds_bucket") and 'kind="write"' in k]
    s.check(buckets == sorted(buckets) and buckets[-1] == new['forelog_request_duration_seconds_count{kind="write"}'] >= 22,
            "the buckets of write times add up", buckets)
    g.run("flush", g.mnt)
    new = samples(get(f"http://{at}/metrics")[1])
    s.check(new["forelog_closes_after_write_total"] == 22 and 2 <= new["forelog_writeback_contents_stored_total"] <= 22
            and new["forelog_writeback_uploads_saved"] == 22 - new["forelog_writeback_contents_stored_total"] > 0,
            "stores that absorption saved are told", {k: v for k, v in new.items() if "uploads" in k or "close" in k or "contents" in k})
    s.check((get(f"http://{at}/")[0], get(f"http://{at}/x")[0]) == (200, 404), "other pages are none")

    h = s.gateway("taken", "--metrics", at)
    r = h.mount(must=False)
    s.check(r.returncode == 2 and at in r.stderr and "taken" in r.stderr and not h.mounted(), "a taken port refuses the mount in one line", r.stderr)
    s.check(h.run("mount", h.backing, h.mnt, "--log-dir", h.log, "--metrics", "somewhere").returncode in (1, 2), "so does nonsense")
    config = os.path.join(s.scratch, "c.toml")
    with open(config, "w") as f:
        f.write('metrics = "[::1]:0"\n')
    h.options = ["--config", config]
    if h.mount(must=False).returncode == 0:
        s.check(h.status()["metrics"].startswith("[::1]:"), "the config file has the key")
        h.umount()
    os.environ["FORELOG_METRICS"] = "0"
    h.options = []
    h.mount()
    del os.environ["FORELOG_METRICS"]
    other = h.status()["metrics"]
    s.check(get(f"http://{other}/metrics")[0] == 200, "so has the environment")
    h.umount()
    s.check(s.within(10, lambda: fails_to_connect(other)), "the port ends with the mount")
    return g


def fails_to_connect(at):
    try:
        get(f"http://{at}/metrics")
        return False
    except (urllib.error.URLError, ConnectionError):
        return True


def writer(path, seconds):
    """Writes in bursts, as a program called `burst`."""
    end = time.monotonic() + seconds
    with open("/proc/self/comm", "w") as f:
        f.write("burst")
    n = 0
    while time.monotonic() < end:
        for _ in range(8 if n % 4 == 0 else 1):
            put(f"{path}/f{n % 5}", b"z" * 500_000)
        n += 1
        time.sleep(0.3)


def live(s, g):
    """`top` on a terminal."""
    load = s.spawn(writer, g.mnt, 60)
    t = Terminal([BIN, "top", g.mnt, "--interval", "300ms"])
    s.undo.append(t.kill)
    s.check(t.waits_for("burst") and g.mnt[:14] in t.screen() and g.mnt[-12:] in t.screen() and "q quit" in t.screen(), "top shows the mount, its clients and the keys", t.screen())
    s.check(wait_until(lambda: "█" in t.screen() and " written " in t.screen(), 15, 0), "and draws what is written", t.screen())
    if shots := os.environ.get("FORELOG_SHOTS"):
        time.sleep(8)
        with open(os.path.join(shots, "top-80x24.txt"), "w") as f:
            f.write(t.screen() + "\n")
    t.type("g")
    s.check(t.waits_for("group: program"), "g groups")
    t.type("g")
    s.check(t.waits_for("root"), "by user too", t.screen())
    t.type("gg s")
    s.check(t.waits_for("PAUSED") and t.waits_for("sort: dirty"), "it pauses and sorts", t.screen())
    t.type(" f")
    s.check(t.waits_for("flush") and "PAUSED" not in t.screen(), "it flushes", t.screen())
    t.seen = b""
    t.size(120, 40)
    os.kill(t.pid, signal.SIGWINCH)
    s.check(wait_until(lambda: "q quit" in t.screen().split("\n")[39], 15, 0), "it follows the terminal's size", t.screen())
    t.seen = b""
    t.size(30, 6)
    os.kill(t.pid, signal.SIGWINCH)
    s.check(wait_until(lambda: "q quit" in t.screen().split("\n")[5], 15, 0), "down to a small one", t.screen())
    t.type("q")
    s.check(t.ended() == 0 and t.restored(), "q ends it, the terminal is as before", t.code)

    t = Terminal([BIN, "top", g.mnt], env={"NO_COLOR": "1"})
    s.undo.append(t.kill)
    s.check(t.waits_for("q quit"), "with NO_COLOR too")
    colours = [m for m in re.findall(rb"\x1b\[([\d;]*)m", t.seen) if re.search(rb"(^|;)(3[0-8]|4[0-8]|9[0-7]|10[0-7])(;|$)", m)]
    s.check(not colours, "there are no colours then", colours[:3])
    os.kill(t.pid, signal.SIGTERM)
    s.check(t.ended() == 0 and t.restored(), "SIGTERM gives the terminal back", (t.code, t.seen[-80:]))

    t = Terminal([BIN, "top", g.mnt, "--interval", "300ms"])
    s.undo.append(t.kill)
    t.waits_for("q quit")
    load.kill()
    g.kill9()
    s.check(t.waits_for("GATEWAY GONE"), "a dead gateway is told", t.screen())
    g.detach()
    g.mount()
    s.check(wait_until(lambda: "GATEWAY GONE" not in t.screen() and "serving" in t.screen(), 20, 0), "and the next one found", t.screen())
    t.type("\x03")
    s.check(t.ended() == 0 and t.restored(), "Ctrl-C ends it")


def pipe(s, g):
    r = g.run("top", g.mnt, "--once")
    s.check(r.returncode == 0 and r.stdout.startswith(g.mnt) and "\x1b" not in r.stdout, "top --once is plain text", r.stdout[:200])
    r = g.run("top", g.mnt, "--once", "--json")
    s.check(json.loads(r.stdout).keys() == g.status().keys(), "top --once --json is the status")
    p = subprocess.Popen([BIN, "top", g.mnt, "--json", "--interval", "200ms"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ups = [json.loads(p.stdout.readline())["uptime_seconds"] for _ in range(3)]
    s.check(ups[0] < ups[1] < ups[2], "top --json gives a line each interval", ups)
    for c in s.children:
        c.kill()
    g.umount()
    out, err = p.communicate(timeout=30)
    s.check(p.returncode == 2 and err.count("\n") == 1 and g.mnt in err, "and ends with a clear line", err)
    s.check(g.run("top", g.mnt).returncode == 2 and g.run("top", g.mnt, "--interval", "1ms").returncode in (1, 2), "without a gateway there is no top")


def report(s, g):
    """The pages: of a gateway, of the history it kept, of a trace."""
    page = os.path.join(s.scratch, "live.html")
    s.spawn(writer, g.mnt, 90)
    s.check(wait_until(lambda: len(open_series(g, page)) > 0, 20, 1), "report writes a page with pictures")
    text = open_series(g, page)
    titles = ["Write rate and forecast", "Reserve against need", "Service time of writes", "Who writes", "Backlog", "Absorption"]
    s.check(all(t in text for t in titles) and text.count("<svg") == 9, "of all that it promises")
    outside = [u for u in re.findall(r"""(?:https?:)?//[^"'\s<)]+""", text) if "www.w3.org" not in u]
    s.check(not outside and "<script" not in text and "<link" not in text, "the page needs nothing from elsewhere", outside[:3])
    r = g.run("report", g.mnt, "-o", "/dev/null")
    s.check(r.returncode == 2 and os.path.exists("/dev/null") and not os.path.isfile("/dev/null"), "it never replaces a device", r.stderr)
    trace = os.path.join(s.scratch, "t.trace")
    s.check(g.run("trace", "record", g.mnt, trace, "--for", "3s").returncode == 0, "(a trace is recorded)")
    r = g.run("report", trace, "-o", page + "2")
    s.check(r.returncode == 0 and "Forecast against what came" in open(page + "2").read(), "a trace has a page", r.stderr)
    r = g.run("report", s.scratch, "-o", page + "3")
    s.check(r.returncode == 2 and "no forelog is mounted" in r.stderr and not os.path.exists(page + "3"), "a directory of no meaning has none", r.stderr)
    return page


def open_series(g, page):
    r = g.run("report", g.mnt, "-o", page)
    text = open(page).read() if r.returncode == 0 else ""
    return text if "<svg" in text else ""


def kept(s, g):
    page = os.path.join(s.scratch, "kept.html")
    r = g.run("report", g.log, "-o", page)
    s.check(r.returncode == 0 and "Who wrote" in open(page).read(), "the kept history has a page", r.stderr)


def pictures(s, pages):
    """With a browser: the pages are drawn, on light and dark screens."""
    if LONG and not any(os.access(f"/usr/bin/{b}", os.X_OK) for b in ("chromium", "chromium-browser")):
        sh("apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium", 600)
    browser = next((f"/usr/bin/{b}" for b in ("chromium", "chromium-browser") if os.access(f"/usr/bin/{b}", os.X_OK)), None)
    if not browser:
        return s.note("no chromium here: the pages were not drawn")
    for page in pages:
        shot = page + ".png"
        sh([browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={s.scratch}/browser",
            "--window-size=1300,1200", f"--screenshot={shot}", "file://" + page], 120)
        s.check(os.path.exists(shot) and os.path.getsize(shot) > 20_000, f"chromium draws {os.path.basename(page)}")


with Suite("observe") as s:
    g = metrics(s)
    live(s, g)
    page = report(s, g)
    pipe(s, g)
    kept(s, g)
    pictures(s, [page, os.path.join(s.scratch, "kept.html")])
