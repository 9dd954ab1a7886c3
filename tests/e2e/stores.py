"""Stores for the suite of buckets, on loopback: SeaweedFS and `rclone serve s3`, both from PyPI."""
import json
import os
import signal
import socket
import subprocess

from harness import TOOLS, sh, wait_until

KEY, SECRET = "testkey", "testsecret"
OUR_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")


def program(name):
    """The store's program, from the tools' own environment if it is there."""
    own = os.path.join(TOOLS, "stores", "bin", name)
    return own if os.access(own, os.X_OK) else name


def ports(n):
    """Free ports, n in a row (a store wants several)."""
    for base in range(21000 + os.getpid() % 5000, 60000, 40):
        held = []
        try:
            for p in range(base, base + n):
                s = socket.socket()
                held.append(s)
                s.bind(("127.0.0.1", p))
            return base
        except OSError:
            continue
        finally:
            for s in held:
                s.close()
    raise RuntimeError("no free ports")


class Store:
    """One server with one bucket, and rclone to look into it."""
    obeys_conditions = True
    takes_markers = "true"

    def __init__(self, suite, name):
        self.suite, self.name, self.process = suite, name, None
        self.dir = suite.dir(f"store-{name}")
        self.port = ports(30)
        self.bucket = "tests-" + name
        suite.undo.append(self.stop)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def command(self):
        raise NotImplementedError

    def start(self):
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        os.environ.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_ENDPOINT_URL=self.endpoint, AWS_REGION="us-east-1")
        if not wait_until(lambda: self.rclone("mkdir", f"w:{self.bucket}", timeout=20).returncode == 0, 60, 0.5):
            raise RuntimeError(f"{self.name} does not start: {self.rclone('lsd', 'w:').stderr[-500:]}")

    def stop(self):
        """Ends the server and what it started: its own process group alone."""
        if self.process:
            try:
                os.killpg(self.process.pid, signal.SIGCONT)
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self.process = None

    def pause(self, stopped):
        os.killpg(self.process.pid, signal.SIGSTOP if stopped else signal.SIGCONT)

    def rclone(self, *args, timeout=300):
        config = {"TYPE": "s3", "PROVIDER": "Other", "ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET, "ENDPOINT": self.endpoint,
                  "FORCE_PATH_STYLE": "true", "DIRECTORY_MARKERS": self.takes_markers, "LIST_URL_ENCODE": "true", "LIST_VERSION": "2"}
        env = {**os.environ, "RCLONE_CONFIG": "", **{f"RCLONE_CONFIG_W_{k}": v for k, v in config.items()}}
        return sh([program("rclone"), *map(str, args), "--retries", "1", "--low-level-retries", "2"], timeout, env=env)

    def url(self, prefix=""):
        return f"s3://{self.bucket}/{prefix}" if prefix else f"s3://{self.bucket}"

    def at(self, path):
        return f"w:{self.bucket}/{path}"

    def uploads(self):
        """Uploads in parts that nobody ended; None where the store cannot say."""
        r = self.rclone("backend", "list-multipart-uploads", f"w:{self.bucket}")
        if r.returncode:
            return None
        return [u["Key"] for all_of in json.loads(r.stdout or "{}").values() for u in all_of or []]


class Seaweed(Store):
    def command(self):
        p = self.port
        users = {"identities": [{"name": "t", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
        with open(os.path.join(self.dir, "s3.json"), "w") as f:
            json.dump(users, f)
        where = {"master.port": p + 1, "volume.port": p + 2, "filer.port": p + 3, "master.port.grpc": p + 11, "volume.port.grpc": p + 12,
                 "filer.port.grpc": p + 13, "s3.port.grpc": p + 14, "s3.port.iceberg": 0, "s3.port.lance": 0}
        return [program("weed"), f"-logdir={self.dir}", "server", f"-dir={self.dir}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.port={p}",
                f"-s3.config={self.dir}/s3.json", "-master.volumeSizeLimitMB=256", "-volume.max=40", *[f"-{k}={v}" for k, v in where.items()]]


class RcloneServe(Store):
    """Keeps metadata in its memory alone and ignores conditions: the poorest store there is."""
    obeys_conditions = False
    takes_markers = "false"

    def command(self):
        root = os.path.join(self.dir, "root")
        os.makedirs(root, exist_ok=True)
        return [program("rclone"), "serve", "s3", root, "--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{self.port}", "--config", ""]
