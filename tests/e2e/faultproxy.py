"""A proxy between a gateway and its store that does what bad networks and bad stores do.

faultproxy.py PORT STORE_PORT CONTROL_PORT. A line of JSON on the control port sets the rules and is answered by the counts:
{"rules": [RULE...], "latency": SECONDS}. A rule has `do` (below) and may have `op` (list get head put delete post), `key` (a regular
expression for the path), `chance`, `times`. What a rule does:
  status        answers with `status`, `code` and `headers` and asks the store nothing
  reset         closes the connection before the store hears of the request
  lost          closes it once the store has answered
  half          answers with half of the store's body
  short         the same, with a length that fits
  hang          never answers
"""
import asyncio
import json
import random
import re
import socket
import struct
import subprocess
import sys
import time

from harness import wait_until

MOST = 64 << 20


class Proxy:
    """The proxy as the suites see it: a process of its own."""

    def __init__(self, suite, store, port):
        self.port, self.control = port, port + 1
        self.process = subprocess.Popen([sys.executable, __file__, str(port), str(store.port), str(port + 1)], stdin=subprocess.DEVNULL)
        suite.undo.append(self.stop)
        if not wait_until(self.up, 20, 0.1):
            raise RuntimeError("the proxy does not start")

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def up(self):
        try:
            return self.say({}) is not None
        except OSError:
            return False

    def say(self, what):
        with socket.create_connection(("127.0.0.1", self.control), timeout=10) as s, s.makefile("rw") as f:
            f.write(json.dumps(what) + "\n")
            f.flush()
            return json.loads(f.readline())

    def set(self, *rules, latency=0.0):
        return self.say({"rules": rules, "latency": latency})

    def counts(self):
        """Requests, those that a rule hit, and bytes of bodies on their way to the store."""
        return self.say({})

    def stop(self):
        self.process.kill()
        self.process.wait()


def op_of(method, target):
    path, _, query = target.partition("?")
    if method == "GET" and ("list-type=" in query or "uploads" in query):
        return "list"
    return method.lower()


class Server:
    def __init__(self, store_port):
        self.store_port, self.rules, self.latency = store_port, [], 0.0
        self.counts = {"requests": 0, "hit": 0, "sent": 0, "open": 0}

    async def control(self, reader, writer):
        said = json.loads(await reader.readline())
        if "rules" in said:
            self.rules, self.latency = [dict(r) for r in said["rules"]], said.get("latency", 0.0)
        writer.write((json.dumps({**self.counts, "at": time.monotonic()}) + "\n").encode())
        await writer.drain()
        writer.close()

    def rule(self, op, path):
        for r in self.rules:
            if r.get("op") not in (None, op) or not re.search(r.get("key", ""), path) or random.random() >= r.get("chance", 1):
                continue
            if "times" in r:
                if r["times"] <= 0:
                    continue
                r["times"] -= 1
            self.counts["hit"] += 1
            return r
        return None

    async def serve(self, reader, writer):
        try:
            while await self.one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def one(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return False
        line, *fields = head[:-4].split("\r\n")
        method, target, _ = line.split(" ", 2)
        named = {k.lower(): v.strip() for k, _, v in (f.partition(":") for f in fields)}
        self.counts["requests"] += 1
        left, body = int(named.get("content-length", 0)), b""
        while left:
            part = await reader.read(min(left, 1 << 16))
            if not part:
                return False
            left -= len(part)
            self.counts["sent"] += len(part)
            body += part
        await asyncio.sleep(self.latency)
        op = op_of(method, target)
        rule = self.rule(op, target.partition("?")[0]) or {"do": "pass"}
        do = rule["do"]
        if do == "hang":
            await asyncio.sleep(3600)
        if do == "reset":
            return self.cut(writer)
        if do == "status":
            text = f"<Error><Code>{rule.get('code', '')}</Code><Message>by the proxy</Message></Error>".encode() if method != "HEAD" and rule.get("code") else b""
            more = "".join(f"{k}: {v}\r\n" for k, v in rule.get("headers", {}).items())
            writer.write(f"HTTP/1.1 {rule['status']} Fault\r\nContent-Type: application/xml\r\n{more}Content-Length: {len(text)}\r\n\r\n".encode() + text)
            await writer.drain()
            return True
        kept = [f for f in fields if f.partition(":")[0].lower() not in ("connection", "expect")]
        r2, w2 = await asyncio.open_connection("127.0.0.1", self.store_port, limit=MOST)
        try:
            w2.write("\r\n".join([line, *kept, "Connection: close", "", ""]).encode("latin-1") + body)
            await w2.drain()
            answer = await r2.read(-1)
        finally:
            w2.close()
        if do == "lost":
            return self.cut(writer)
        top, _, rest = answer.partition(b"\r\n\r\n")
        if do in ("half", "short"):
            rest = rest[:len(rest) // 2]
            if do == "short":
                top = re.sub(rb"(?i)\r\ncontent-length: *\d+", b"\r\nContent-Length: %d" % len(rest), top)
        writer.write(top + b"\r\n\r\n" + rest)
        await writer.drain()
        return False

    @staticmethod
    def cut(writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


async def main(port, store_port, control_port):
    s = Server(store_port)
    a = await asyncio.start_server(s.serve, "127.0.0.1", port, limit=MOST)
    b = await asyncio.start_server(s.control, "127.0.0.1", control_port)
    await asyncio.gather(a.serve_forever(), b.serve_forever())


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4])))
