"""Runs contract-check.py on the binary: $CONTRACT_CHECK, or the project's own copy. A line that falls short is excused only
if tests/contract-excused.txt names a word of it, with the reason (word<TAB>reason)."""
import os
import sys

from harness import BIN, FAKE, HERE, Suite, sh

TESTS = os.path.dirname(HERE)
OWN = os.path.join(TESTS, "contract-check.py")
EXCUSED = os.path.join(TESTS, "contract-excused.txt")


def excuses():
    with open(EXCUSED, encoding="utf-8") as f:
        return dict(line.rstrip("\n").split("\t", 1) for line in f if line.strip() and not line.startswith("#"))


def judge(s, text, excused):
    """Every `ok` and `FAIL` line of the checker becomes a check; returns how many there were."""
    used, count = set(), 0
    for line in text.split("\n"):
        word, _, what = line.partition(" ")
        what = what.strip()
        if word not in ("ok", "FAIL"):
            continue
        count += 1
        why = next((w for w in excused if w in what.split(":")[0].split()), None)
        if word == "FAIL" and why:
            used.add(why)
            s.note(f"excused: {what} ({excused[why]})")
        else:
            s.check(word == "ok", what)
    s.check(used == excused.keys(), "every excuse is still needed", sorted(excused.keys() - used))
    return count


def main():
    with Suite("contract") as s:
        checker = os.environ.get("CONTRACT_CHECK", OWN)
        s.note(f"by {os.path.relpath(checker)}")
        if FAKE:
            s.check(os.access(checker, os.R_OK), "(fake) the checker is there")
            return
        r = sh([sys.executable, checker, BIN], 600)
        count = judge(s, r.stdout, excuses())
        s.check(r.stdout.strip().split("\n")[-1].endswith(("all holds", "fall short")), f"the checker ran to its end, {count} lines",
                r.stdout[-300:] + r.stderr[-800:])


if __name__ == "__main__":
    main()
