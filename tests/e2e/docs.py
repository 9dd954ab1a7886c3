"""Runs what the documents tell people to type, and looks for the lines that they quote.

Each fenced block of `sh` in the README and in docs/ is run by `sh -eu`, in order, in one world a document: a root of its own, a layer
over this machine's, with forelog installed, so that `/data` and `/mnt/nas` are real. A block that cannot be run there has a comment
`<!-- not run: why -->` above it; there is no other way for a block not to be run."""
import glob
import os
import re
import sys

from harness import BIN, FAKE, ROOT, Suite, mounts, sh

PAGES = ("README.md", *sorted(os.path.relpath(p, ROOT) for p in glob.glob(ROOT + "/docs/*.md")))
# Blocks that nobody types: what a program prints, files.
SHOWN = ("text", "toml", "yaml", "ini", "json", "dockerfile")
COMMAND = re.compile(r"^\s*(sudo |[A-Z_]+=\S* )*(forelog [a-z]+|mount-scripts/|cargo |python3 |docker |curl |apt-get |systemctl |mount )", re.M)
FENCE = re.compile(r"(?:^<!-- not run: (?P<why>[^>]+) -->\n+)?^```(?P<kind>\S*)\n(?P<text>.*?)^```$", re.M | re.S)


def blocks(text):
    """(commands, why not) of each block of commands."""
    return [(m["text"], m["why"]) for m in FENCE.finditer(text) if m["kind"] == "sh"]


def stray(text):
    """Commands that stand in no `sh` block: blocks by indentation or without a kind, or shown as something else."""
    bare = FENCE.sub("", text)
    others = [m for m in FENCE.finditer(text) if m["kind"] != "sh"]
    return re.findall(r"(?<=\n\n)    \S.*", bare) + [m["text"] for m in others if m["kind"] not in SHOWN or COMMAND.search(m["text"])]


def own_namespace():
    if os.environ.get("FORELOG_OWN_NAMESPACE") != "1":
        os.environ["FORELOG_OWN_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def world(s, name):
    """A root to live in. What is written outside of the scratch directory is gone with it."""
    top = s.dir(name)
    sh(["mount", "-t", "tmpfs", "none", top])
    root = top + "/root"
    for d in ("up", "work", "root"):
        os.mkdir(f"{top}/{d}")
    r = sh(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={top}/up,workdir={top}/work", root])
    s.check(r.returncode == 0, f"(a root for {name})", r.stderr)
    for d in ("/proc", "/sys", "/dev"):
        sh(["mount", "--rbind", d, root + d])
    # A disk, not memory: what is to be kept.
    for d in ("/mnt", "/ssd", "/var/lib/forelog"):
        real = s.dir(f"disk-{name}{d}")
        os.makedirs(root + d, exist_ok=True)
        sh(["mount", "--bind", real, root + d])
    os.makedirs(root + "/run", exist_ok=True)
    sh(["mount", "-t", "tmpfs", "none", root + "/run"])
    for d in ("/opt/checkout", "/opt/bin"):
        os.makedirs(root + d)
    sh(["mount", "--bind", ROOT, root + "/opt/checkout"])
    sh(["cp", BIN, root + "/opt/bin/forelog"])
    with open(root + "/etc/fstab", "w"):
        pass
    r = inside(root, "FORELOG=/opt/bin/forelog mount-scripts/install.sh")
    s.check(r.returncode == 0, f"(installed for {name})", r.stderr)
    return root


def inside(root, text, timeout=120):
    return sh(["chroot", root, "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
               "FORELOG=/opt/bin/forelog", "sh", "-euc", "cd /opt/checkout\n" + text], timeout)


def run_page(s, page):
    with open(os.path.join(ROOT, page)) as f:
        text = f.read()
    s.check(not stray(text), f"{page}: all commands stand in blocks of `sh`", stray(text)[:3])
    todo = blocks(text)
    name = os.path.basename(page).split(".")[0].lower()
    root = world(s, name) if any(why is None for _, why in todo) else None
    for commands, why in todo:
        first = commands.strip().splitlines()[0]
        if why:
            s.note(f"{page}: not run ({why}): {first}")
            continue
        r = inside(root, commands)
        s.check(r.returncode == 0, f"{page}: {first}", f"exit {r.returncode}: {r.stdout[-500:]} {r.stderr[-800:]}")
    if root:
        left = [m for m in mounts() if m.startswith(root) and m.endswith("/data")]
        s.check(not left, f"{page}: leaves nothing mounted", left)


def quoted_lines(s):
    """What docs/TROUBLESHOOTING.md quotes stands in the source, piece by piece between its `…`."""
    source = ""
    for name in glob.glob(ROOT + "/src/**/*.rs", recursive=True):
        with open(name) as f:
            # A string that goes on in the next line, and what is filled in.
            source += re.sub(r"\{[^{}\"\n]*\}", "\0", re.sub(r"\\\n\s*", "", f.read())) + "\n"
    with open(ROOT + "/docs/TROUBLESHOOTING.md") as f:
        lines = [m[1] for m in re.finditer(r"^\| `([^|]+)` \|", f.read(), re.M)]
    s.check(len(lines) > 15, f"{len(lines)} lines are quoted")
    for line in lines:
        pieces = [p.strip().strip("`").strip() for p in line.split("…")]
        missing = [p for p in pieces if len(p) > 3 and p not in source]
        s.check(not missing, f"quoted: {line[:70]}", missing)


def links(s):
    """Each file that a document points to is there."""
    for page in ["README.md", "CHANGELOG.md", *(os.path.relpath(p, ROOT) for p in glob.glob(ROOT + "/docs/*.md"))]:
        with open(os.path.join(ROOT, page)) as f:
            text = f.read()
        bad = [t for t in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
               if not os.path.exists(os.path.join(ROOT, os.path.dirname(page), t))]
        s.check(not bad, f"{page}: links", bad)


def main():
    own_namespace()
    with Suite("docs") as s:
        quoted_lines(s)
        links(s)
        if FAKE:
            return
        for page in PAGES:
            run_page(s, page)


if __name__ == "__main__":
    main()
