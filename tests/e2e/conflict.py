"""Something else changes the backing while changes wait here: both versions are kept, one under a conflict name."""
import os
import shutil
import time

from harness import FAKE, Suite, get, put

BIG = 3 << 20


def patch(path, at, data):
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, data, at)
    os.close(fd)


def conflicts(folder):
    return sorted(n for n in os.listdir(folder) if ".conflict-" in n)


def fresh(s, name, files, *options):
    g = s.gateway(name, "--writeback-age", "10m", *options)
    for n, d in files.items():
        os.makedirs(os.path.dirname(f"{g.backing}/{n}"), exist_ok=True)
        put(f"{g.backing}/{n}", d)
    g.mount()
    return g


def done(s, g, what):
    r = g.umount()
    s.check(r.returncode == 0, f"{what}: umount returns 0", r.stderr)


def changed_in_place(s):
    old = os.urandom(BIG)
    for killed in (False, True):
        what = "changed in place while the gateway was dead" if killed else "changed in place"
        g = fresh(s, f"inplace{killed:d}", {"f": old})
        patch(g.path("f"), 1 << 20, b"OURS")
        if killed:
            g.kill9()
            g.detach()
        theirs = bytearray(old)
        theirs[100:106] = b"THEIRS"
        theirs += b"and more"
        patch(g.backing + "/f", 0, bytes(theirs))
        if killed:
            g.mount()
        s.check(get(g.path("f"))[1 << 20:(1 << 20) + 4] == b"OURS", f"{what}: programs see what they wrote")
        r = g.flush()
        s.check(r.returncode == 0, f"{what}: flush returns 0", r.stderr)
        kept = conflicts(g.backing)
        s.check(len(kept) == 1 and get(f"{g.backing}/{kept[0]}") == theirs, f"{what}: theirs is kept whole under a conflict name", kept)
        ours = get(g.backing + "/f")
        s.check(ours[1 << 20:(1 << 20) + 4] == b"OURS" and len(ours) == BIG, f"{what}: ours is at its name", len(ours))
        s.check(g.status().get("writeback", {}).get("conflicts", 0) >= 1, f"{what}: status counts it")
        s.check(kept == conflicts(g.mnt), f"{what}: it is seen in the mount", conflicts(g.mnt))
        with open(g.log_file) as f:
            s.check(kept and kept[0] in f.read(), f"{what}: the log names it")
        done(s, g, what)


def rewritten(s):
    g = fresh(s, "rewritten", {"f": b"old content"})
    put(g.path("f"), b"ours, all of it")
    patch(g.backing + "/f", 0, b"THEIRS")
    done(s, g, "rewritten here, changed there")
    kept = conflicts(g.backing)
    s.check(len(kept) == 1 and get(f"{g.backing}/{kept[0]}") == b"THEIRSntent" and get(g.backing + "/f") == b"ours, all of it",
            "rewritten here, changed there: both are kept", kept)


def replaced(s):
    g = fresh(s, "replaced", {"f": b"old content", "big": b"x" * BIG})
    put(g.path("f"), b"ours")
    patch(g.path("big"), 10, b"OURS")
    for n in ("f", "big"):
        put(f"{g.backing}/.{n}.new", b"theirs " + n.encode())
        os.rename(f"{g.backing}/.{n}.new", f"{g.backing}/{n}")
    done(s, g, "replaced by another file")
    kept = conflicts(g.backing)
    s.check(len(kept) == 2 and {get(f"{g.backing}/{n}") for n in kept} == {b"theirs f", b"theirs big"}, "replaced: theirs are kept", kept)
    s.check(get(g.backing + "/f") == b"ours" and get(g.backing + "/big")[10:14] == b"OURS", "replaced: ours are at their names")


def removed(s):
    old = os.urandom(BIG)
    g = fresh(s, "removed", {"whole": b"old", "part": old, "open": old, "mode": b"m"})
    put(g.path("whole"), b"ours")
    patch(g.path("part"), 4096, b"OURS")
    with open(g.path("open"), "rb") as f:
        f.read(10)  # its file in the backing is open from here on
        patch(g.path("open"), 4096, b"OURS")
        os.chmod(g.path("mode"), 0o600)
        for n in ("whole", "part", "open", "mode"):
            os.unlink(f"{g.backing}/{n}")
        s.check(g.flush().returncode == 0, "removed there: flush returns 0")
    done(s, g, "removed there")
    want = old[:4096] + b"OURS" + old[4100:]
    s.check(get(g.backing + "/whole") == b"ours", "removed there: what was wholly written here is there again")
    s.check(get(g.backing + "/open") == want, "removed there, open here: all of it is there again")
    part = get(g.backing + "/part")
    s.check(part[4096:4100] == b"OURS" and set(part[:4096] + part[4100:]) == {0}, "removed there: of the old content only zeros are left")
    with open(g.log_file) as f:
        s.check("its old content, which is lost" in f.read(), "and the log says so")
    s.check(not os.path.exists(g.backing + "/mode"), "one of which only the mode was changed stays removed")


def attributes(s):
    g = fresh(s, "attributes", {"f": b"old content"})
    os.chmod(g.path("f"), 0o640)
    patch(g.backing + "/f", 0, b"THEIRS and longer")
    s.check(g.flush().returncode == 0, "chmod here, content there: flush returns 0")
    g.kill9()
    g.detach()
    g.mount()
    s.check(get(g.path("f")) == b"THEIRS and longer", "chmod here, content there: after a death programs see theirs", get(g.path("f")))
    done(s, g, "chmod here, content there")
    s.check(get(g.backing + "/f") == b"THEIRS and longer" and os.stat(g.backing + "/f").st_mode & 0o777 == 0o640 and not conflicts(g.backing),
            "chmod here, content there: their content, our mode", conflicts(g.backing))


def clean_files(s):
    g = fresh(s, "clean", {"f": b"old content", "gone": b"x"})
    s.check(get(g.path("f")) == b"old content" and get(g.path("gone")) == b"x", "clean files are read")
    time.sleep(0.01)
    put(g.backing + "/f", b"something else, and longer")
    s.check(get(g.path("f")) == b"something else, and longer", "a clean file that was changed there is read anew at the next open")
    put(g.path("f"), b"mine now")
    done(s, g, "clean")
    s.check(get(g.backing + "/f") == b"mine now" and not conflicts(g.backing), "and changed here after that there is no conflict", conflicts(g.backing))


def folder(s):
    g = fresh(s, "folder", {"d/e/f": b"x" * BIG, "d/other": b"o"})
    patch(g.path("d/e/f"), 5, b"OURS")
    put(g.path("d/e/new"), b"new")
    shutil.rmtree(g.backing + "/d")
    done(s, g, "its directory was removed there")
    s.check(get(g.backing + "/d/e/new") == b"new" and get(g.backing + "/d/e/f")[5:9] == b"OURS" and not os.path.exists(g.backing + "/d/other"),
            "its directory was removed there: made again for what was changed here")


def no_false_alarm(s):
    """Changes of our own are never taken for another's, whenever the gateway dies."""
    g = s.gateway("own", "--writeback-age", "200ms", "--seal-after", "200ms")
    for n in range(20):
        put(f"{g.backing}/f{n}", os.urandom(100_000))
    g.mount()
    for turn in range(6):
        for n in range(20):
            if n % 3 == 0:
                put(g.path(f"f{n}"), os.urandom(50_000 + turn))
            elif n % 3 == 1:
                patch(g.path(f"f{n}"), turn * 100, b"turn %d" % turn)
            else:
                os.chmod(g.path(f"f{n}"), 0o600 + turn)
                os.utime(g.path(f"f{n}"), (turn, turn + 0.123456789))
        time.sleep(0.15 + 0.05 * turn)
        g.kill9()
        g.detach()
        g.mount()
    done(s, g, "killed six times while draining")
    s.check(not conflicts(g.backing), "no conflict of the gateway with itself", conflicts(g.backing))


def another_backing(s):
    g = fresh(s, "absent", {"f": b"x" * BIG})
    patch(g.path("f"), 5, b"OURS")
    g.kill9()
    g.detach()
    os.rename(g.backing, g.backing + ".away")
    os.mkdir(g.backing)
    r = g.mount(must=False)
    s.check(r.returncode == 2 and not g.mounted() and ".forelog" in r.stderr and len(r.stderr.strip().splitlines()) < 3,
            "a log with changes refuses an empty directory in its backing's place", f"exit {r.returncode}: {r.stderr}")
    s.check(os.listdir(g.backing) == [], "and leaves nothing in it", os.listdir(g.backing))
    os.rmdir(g.backing)
    os.rename(g.backing + ".away", g.backing)
    g.mount()
    done(s, g, "with the backing back")
    s.check(get(g.backing + "/f")[5:9] == b"OURS", "all is there")


def reuse(folder, number):
    """Makes files in a folder until one has this inode number; its name, or nothing."""
    for n in range(3000):
        put(f"{folder}/g{n}", f"this is g{n}".encode())
        if os.stat(f"{folder}/g{n}").st_ino == number:
            return f"g{n}"
    return None


def numbers_reused(s):
    """The store gives the number of a removed file to what somebody else makes there: it is not taken for the one that had it."""
    for dirty in (False, True):
        what = f"a number given out again, with changes here: {dirty}"
        g = fresh(s, f"reuse{dirty:d}", {"f": b"old f"})
        number = os.stat(g.backing + "/f").st_ino
        s.check(get(g.path("f")) == b"old f", f"{what}: (read once)")
        put(g.path("f"), b"new content of f")
        g.flush()  # replaced as a whole: its old number is free now
        if dirty:
            with open(g.path("f"), "ab") as f:
                f.write(b", longer")
        want = b"new content of f" + b", longer" * dirty
        other = reuse(g.backing, number)
        if not other:
            s.note("this filesystem does not give numbers out again so soon: not tested")
            g.umount()
            continue
        s.check(get(g.path(other)) == f"this is {other}".encode() and get(g.path("f")) == want, f"{what}: each file is itself")
        s.check(os.stat(g.path(other)).st_ino != os.stat(g.path("f")).st_ino, f"{what}: and has a number of its own")
        with open(g.path(other), "ab") as f:
            f.write(b" and more")
        g.kill9()
        g.detach()
        g.mount()
        s.check(get(g.path(other)) == f"this is {other} and more".encode() and get(g.path("f")) == want, f"{what}: also after a death")
        done(s, g, what)
        s.check(get(g.backing + "/f") == want and get(f"{g.backing}/{other}") == f"this is {other} and more".encode(), f"{what}: and in the backing")


def number_of_a_removed_one(s):
    """A file with changes here is removed in the backing, and its number goes to a new one at once."""
    g = fresh(s, "removed", {"f": b"old f, of some length"})
    number = os.stat(g.backing + "/f").st_ino
    patch(g.path("f"), 0, b"OURS")
    os.unlink(g.backing + "/f")
    other = reuse(g.backing, number)
    if other:
        s.check(get(g.path(other)) == f"this is {other}".encode(), "the number of a removed file: the new one is itself")
        done(s, g, "the number of a removed file")
        s.check(get(g.backing + "/f")[:4] == b"OURS" and get(f"{g.backing}/{other}") == f"this is {other}".encode(),
                "the number of a removed file: ours is written again, the new one is untouched")
    else:
        g.umount()


def copied(s):
    """The backing comes back as a copy: other numbers, the same files."""
    for touched in (False, True):
        what = "a copied backing" + " in which a file was changed" * touched
        g = fresh(s, f"copied{touched:d}", {"f": b"old content of f " * 1000, "d/g": b"g", "other": b"o", "more/x": b"x"})
        patch(g.path("f"), 5, b"OURS")
        put(g.path("d/new"), b"new here")
        g.kill9()
        g.detach()
        os.rename(g.backing, g.backing + "-old")
        shutil.copytree(g.backing + "-old", g.backing, symlinks=True)
        for name in ("f", "d/g", "other", "more/x", "d", "more", "."):  # copytree keeps times, not to the nanosecond
            st = os.stat(f"{g.backing}-old/{name}")
            os.utime(f"{g.backing}/{name}", ns=(st.st_atime_ns, st.st_mtime_ns))
        ours = b"old cOURSnt of f " + b"old content of f " * 999
        if touched:
            put(g.backing + "/f", b"THEIRS")
        g.mount()
        s.check(get(g.path("other")) == b"o" and get(g.path("more/x")) == b"x" and get(g.path("d/g")) == b"g" and get(g.path("d/new")) == b"new here",
                f"{what}: each file is itself")
        if not touched:
            s.check(get(g.path("f")) == ours, f"{what}: the one with changes has them")
        done(s, g, what)
        kept = conflicts(g.backing)
        s.check(get(g.backing + "/d/new") == b"new here" and get(g.backing + "/d/g") == b"g" or touched, f"{what}: what was new is there", os.listdir(g.backing))
        if touched:
            s.check(get(g.backing + "/f")[5:9] == b"OURS" and any(get(f"{g.backing}/{k}") == b"THEIRS" for k in kept if os.path.isfile(f"{g.backing}/{k}")),
                    f"{what}: both versions are kept", kept)
            everything = [get(os.path.join(t, n)) for t, _, ns in os.walk(g.backing) for n in ns]
            s.check(all(x in everything for x in (b"g", b"o", b"x", b"new here")), f"{what}: nothing else is lost", len(everything))
        else:
            s.check(get(g.backing + "/f") == ours and not kept, f"{what}: no conflict", kept)


def main():
    with Suite("conflict") as s:
        if FAKE:
            s.check(True, "on plain directories there is nothing to agree on")
            return
        for part in (changed_in_place, rewritten, replaced, removed, attributes, clean_files, folder, no_false_alarm, another_backing, numbers_reused, number_of_a_removed_one, copied):
            part(s)


if __name__ == "__main__":
    main()
