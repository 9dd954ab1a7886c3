"""Several users on one mount: whose files are whose, groups, set-id bits, the umask, access lists, a mount by a user who is not
root, and who may look into a mount. What ext4 answers to the same commands is the measure.

users.py
"""
import os
import pwd
import re
import shutil

from harness import BIN, FAKE, Suite, sh

USERS = ("tests", "pjdfstest")


def as_user(user, code):
    """Runs Python `code` as `user` with no other groups; the text it prints, or the errno's name of an OSError."""
    prog = ("import os, errno\ntry:\n" + "".join(f"    {line}\n" for line in code.strip().split("\n")) +
            "except OSError as e:\n    print(errno.errorcode[e.errno])\n")
    r = sh(["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "/usr/bin/env", "python3", "-c", prog], 30)
    return (r.stdout + r.stderr).strip()


def users(s, top):
    one, two = USERS
    if as_user(one, "print('python')") != "python":
        s.check(False, "python3 runs as another user", "is it under a directory only root may enter?")
        return
    uid, gid = pwd.getpwnam(one).pw_uid, pwd.getpwnam(one).pw_gid
    d = top + "/users"
    os.mkdir(d)
    os.chmod(d, 0o1777)
    put = f"open('{d}/%s', 'w').write('x') and print('ok')"
    for what, user, code, want in (
        ("a user writes in a sticky directory", one, put % "mine", "ok"),
        ("another may not remove it there", two, f"os.unlink('{d}/mine')", "EPERM"),
        ("nor rename it", two, f"os.rename('{d}/mine', '{d}/other')", "EPERM"),
        ("nor write it", two, put % "mine", "EACCES"),
        ("nor change its mode", two, f"os.chmod('{d}/mine', 0o777)", "EPERM"),
        ("nor give it away", one, f"os.chown('{d}/mine', 0, 0)", "EPERM"),
        ("nor set its time", two, f"os.utime('{d}/mine', (1, 1))", "EPERM"),
        ("nor set an xattr", two, f"os.setxattr('{d}/mine', 'user.a', b'1')", "EACCES"),
        ("trusted xattrs are root's", one, f"os.setxattr('{d}/mine', 'trusted.a', b'1')", "EPERM"),
        ("the owner makes it private", one, f"os.chmod('{d}/mine', 0o600); print('ok')", "ok"),
        ("then another may not read it", two, f"open('{d}/mine').read()", "EACCES"),
        ("a private directory hides what is in it", one, f"os.mkdir('{d}/priv', 0o700); open('{d}/priv/f', 'w'); print('ok')", "ok"),
        ("also from stat", two, f"os.stat('{d}/priv/f')", "EACCES"),
        ("device nodes are root's", one, f"os.mknod('{d}/dev', 0o20666, os.makedev(1, 3))", "EPERM"),
        ("a fifo is anyone's", one, f"os.mkfifo('{d}/fifo'); print('ok')", "ok"),
    ):
        got = as_user(user, code)
        s.check(got == want, what, f"{got}, wanted {want}")
    st = os.stat(d + "/mine")
    s.check((st.st_uid, st.st_gid) == (uid, gid), "a new file is its maker's", (st.st_uid, st.st_gid))
    inherit(s, d, one)
    setuid(s, d, one)


def inherit(s, d, user):
    """A set-group-id directory gives its group to what is made in it, and directories there get the bit too."""
    os.mkdir(d + "/team")
    os.chown(d + "/team", 0, 4321)
    os.chmod(d + "/team", 0o2777)
    as_user(user, f"open('{d}/team/f', 'w'); os.mkdir('{d}/team/sub')")
    f, sub = os.stat(d + "/team/f"), os.stat(d + "/team/sub")
    s.check(f.st_gid == 4321 and sub.st_gid == 4321 and sub.st_mode & 0o2000, "set-group-id directories hand on their group", (f.st_gid, sub.st_gid))


def setuid(s, d, user):
    """Set-user-id and set-group-id go when someone without the right writes, truncates or takes over the file."""
    for how, code in (("write", "os.write(os.open('{p}', os.O_WRONLY), b'x')"), ("truncate", "os.truncate('{p}', 1)"),
                      ("append", "os.write(os.open('{p}', os.O_WRONLY | os.O_APPEND), b'x')")):
        p = f"{d}/suid-{how}"
        with open(p, "w") as f:
            f.write("#!")
        os.chmod(p, 0o6777)
        got = as_user(user, code.format(p=p))
        s.check(got == "" and os.stat(p).st_mode & 0o6000 == 0, f"set-id bits go at a stranger's {how}", f"{got} {os.stat(p).st_mode:o}")
    p = d + "/suid-chown"
    with open(p, "w") as f:
        f.write("#!")
    os.chmod(p, 0o6777)
    os.chown(p, 1, 1)
    s.check(os.stat(p).st_mode & 0o6000 == 0, "and at a chown", f"{os.stat(p).st_mode:o}")


def groups(s, d, plain, user):
    """Supplementary groups, umask and group rules: the same script here and on the backing's own filesystem."""
    script = """
umask 027; echo x > a; mkdir b; mkfifo c; stat -c '%n %a %U %G' a b c
chgrp 4321 a && stat -c '%n %g' a; chgrp 4322 a || echo refused
umask 0; mkdir -m 2775 team; chgrp 4321 team; chmod g+s team; echo y > team/f; mkdir team/d; stat -c '%n %a %g' team team/f team/d
python3 -c "import os; os.close(os.open('team/sg', os.O_CREAT | os.O_WRONLY, 0o2775))"; stat -c '%n %a %g' team/sg
touch g; chgrp 4321 g; chmod 2755 g; stat -c '%n %a' g; echo more >> g; stat -c '%n %a' g
cat ../shared-by-group; echo z >> ../shared-by-group && echo written; cat ../of-other-group || echo refused
chmod 4755 g; chgrp 4321 g; stat -c '%n %a' g; chown root a || echo refused; chmod 1777 b; stat -c '%n %a' b
ln a h; ln -s a l; chown -h :4321 l; stat -c '%n %a %h %g' a l; mv h team/; rm -r b team; ls
"""
    out = {}
    for where in (d, plain):
        os.mkdir(where + "/grp")
        for name, gid in (("shared-by-group", 4321), ("of-other-group", 4322)):
            with open(f"{where}/{name}", "w") as f:
                f.write(name + "\n")
            os.chown(f"{where}/{name}", 0, gid)
            os.chmod(f"{where}/{name}", 0o660)
        os.chown(where + "/grp", pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        r = sh(["setpriv", f"--reuid={user}", f"--regid={user}", "--groups=4321", "sh", "-c", script], 60, cwd=where + "/grp")
        out[where] = re.sub(re.escape(where), "", r.stdout + r.stderr)
    s.check(out[d] == out[plain], "groups, umask and set-id bits as on the backing's own filesystem", f"here:\n{out[d]}\nthere:\n{out[plain]}")
    s.check("refused" in out[d] and "written" in out[d], "and that script did what it should", out[d])


ACLS = """
touch f; mkdir d; setfacl -m u:tests:rw f; getfacl -cn f; stat -c %a f; chmod 640 f; getfacl -cn f; chmod 600 f; getfacl -cn f
setfacl -m g:4321:rwx,m::rx f; getfacl -cn f; stat -c %a f; setfacl -x u:tests f; getfacl -cn f; setfacl -b f; getfacl -cn f; stat -c %a f
setfacl -m u::rw,g::r,o::- f; stat -c %a f; getfattr -m - f
setfacl -d -m u:tests:rwx,g:4321:rx d; getfacl -cn d; umask 077; touch d/f; mkdir d/sub; mkfifo d/p; ln -s x d/l
for x in d/f d/sub d/p; do stat -c '%n %a' $x; getfacl -cn $x; done; touch d/sub/deep; getfacl -cn d/sub/deep
umask 022; python3 -c "import os; os.close(os.open('d/tight', os.O_CREAT | os.O_WRONLY, 0o600))"; stat -c %a d/tight; getfacl -cn d/tight
setfacl -k d; getfacl -cn d; touch d/after; stat -c %a d/after; setfacl -d -m u:tests:rw f || echo refused; setfacl -m u:tests:rw d/l || echo refused
cp -p f copy; setfacl -m u:tests:rw f; cp -p f copy2; getfacl -cn copy copy2; mv f moved; getfacl -cn moved; cp -a d e; find e | sort | xargs getfacl -cn
chown tests moved; chgrp 4321 moved; getfacl -n moved; truncate -s 5 moved; getfacl -cn moved; setfacl --set u::rwx,g::-,o::-,u:tests:rw,m::rw moved
"""


def acls(s, g, d, plain):
    """Access lists: the same commands here and on the backing's own filesystem; then the lists after a kill, and in the backing."""
    out = {}
    for where in (d, plain):
        os.mkdir(where + "/acl")
        os.chmod(where + "/acl", 0o755)
        r = sh(["sh", "-c", ACLS], 60, cwd=where + "/acl")
        out[where] = r.stdout + r.stderr
    s.check(out[d] == out[plain], "access lists as on the backing's own filesystem", difference(out[d], out[plain]))
    s.check("user:" in out[d] and out[d].count("mask::") > 10, "and the commands did what they should", out[d][-500:])
    for who, want in (("tests", ""), ("pjdfstest", "Permission denied")):
        r = sh(["setpriv", f"--reuid={who}", f"--regid={who}", "--clear-groups", "cat", d + "/acl/copy2"], 30)
        s.check((want in r.stderr if want else r.returncode == 0), f"the list decides: {who}", r.stderr)
    with open(d + "/acl/sealed", "w") as f:
        f.write("x")
    sh(["setfacl", "-m", "u:tests:rw,g::-", d + "/acl/sealed"])
    os.chown(d + "/acl/sealed", 0, pwd.getpwnam("pjdfstest").pw_gid)
    r = sh(["setpriv", "--reuid=pjdfstest", "--regid=pjdfstest", "--clear-groups", "cat", d + "/acl/sealed"], 30)
    s.check(r.returncode != 0, "the mask is not the group's right", r.stdout)
    return lists_of(d + "/acl")


def lists_of(where):
    return sh("find . ! -type l | sort | xargs getfacl -np", 60, cwd=where).stdout


def difference(a, b):
    a, b = a.split("\n"), b.split("\n")
    return "\n".join(f"{i}: here {x!r}, there {y!r}" for i, (x, y) in enumerate(zip(a, b)) if x != y) or f"{len(a)} and {len(b)} lines"


def listed_before(s, top, other):
    """Lists that the backing already holds count from the first moment, and survive that the file is written anew."""
    r = sh(["setpriv", f"--reuid={other}", f"--regid={other}", "--clear-groups", "cat", top + "/old-list"], 30)
    s.check(r.returncode == 0, "a list of the backing gives its right", r.stderr)
    r = sh(["getfacl", "-cn", "old-list"], 30, cwd=top)
    s.check("group::---" in r.stdout and "mask::rw-" in r.stdout, "and is shown", r.stdout)
    with open(top + "/old-list", "w") as f:
        f.write("new\n")


def by_a_user(s, user):
    """A mount by a user who is not root, through fusermount3."""
    device = os.stat("/dev/fuse").st_mode & 0o777
    s.undo.append(lambda: os.chmod("/dev/fuse", device))
    os.chmod("/dev/fuse", 0o666)
    home = s.dir("home")
    exe = s.dir("bin") + "/forelog"
    shutil.copy(BIN, exe)
    os.chmod(exe, 0o755)
    for x in ("b", "m", "l", "b2", "m2"):
        os.mkdir(f"{home}/{x}")
    for x in (home, *(f"{home}/{x}" for x in ("b", "m", "l", "b2", "m2"))):
        os.chown(x, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        os.chmod(x, 0o755)
    me = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "env", f"HOME={home}", f"XDG_RUNTIME_DIR={home}"]
    r = sh([*me, exe, "mount", home + "/b", home + "/m", "--log-dir", home + "/l", "--log-file", home + "/log"], 60)
    if not s.check(r.returncode == 0, "a user mounts without root", r.stderr):
        return
    r = sh([*me, "sh", "-c", f"cd {home}/m && echo mine > f && mkdir d && mv f d/ && ln -s d l && chmod 600 d/f && stat -c '%U %a' d/f && cat d/f"], 30)
    s.check(r.stdout == f"{user} 600\nmine\n", "and works in it", r.stdout + r.stderr)
    r = sh([*me, "sh", "-c", f"cd {home}/m && chown root d/f"], 30)
    s.check(r.returncode != 0 and "not permitted" in r.stderr, "but gives nothing away", r.stderr)
    r = sh(["ls", home + "/m"], 30)
    s.check(r.returncode != 0 and "denied" in r.stderr, "others, root among them, do not look into it", r.stderr)
    r = sh([*me, exe, "mount", home + "/b2", home + "/m2", "-o", "allow_other", "--log-dir", home + "/x"], 60)
    allowed = any(x.strip() == "user_allow_other" for x in open("/etc/fuse.conf")) if os.path.exists("/etc/fuse.conf") else False
    s.check(r.returncode == 0 if allowed else "user_allow_other" in r.stderr, "allow_other without leave names user_allow_other", r.stderr)
    r = sh([*me, exe, "status", home + "/m"], 30)
    s.check(r.returncode == 0, "status for the user", r.stderr)
    r = sh([*me, exe, "umount", home + "/m"], 60)
    s.check(r.returncode == 0, "and umount", r.stderr)
    st = os.stat(home + "/b/d/f")
    s.check((st.st_mode & 0o777, st.st_size) == (0o600, 5), "the backing has it", oct(st.st_mode))


def main():
    with Suite("users") as s:
        g = s.gateway("gw", "--log-size", "256MiB", "--writeback-age", "500ms", "-o", "allow_other")
        os.chmod(g.backing, 0o755)
        plain = s.dir("plain")
        os.chmod(plain, 0o755)
        with open(g.backing + "/old-list", "w") as f:
            f.write("old\n")
        sh(["setfacl", "-m", f"u:{USERS[1]}:rw,g::-", g.backing + "/old-list"])
        g.mount()
        users(s, g.mnt)
        groups(s, g.mnt, plain, USERS[0])
        listed_before(s, g.mnt, USERS[1])
        lists = acls(s, g, g.mnt, plain)
        if not FAKE:
            g.kill9()
            g.detach()
            g.mount()
            now = lists_of(g.mnt + "/acl")
            s.check(now == lists, "access lists after a kill", difference(now, lists))
        r = g.umount()
        s.check(r.returncode == 0, "umount returns 0", r.stderr)
        now = lists_of(g.backing + "/acl")
        s.check(now == lists, "access lists in the backing", difference(now, lists))
        now = sh(["getfacl", "-cn", "old-list"], 30, cwd=g.backing).stdout
        s.check("group::---" in now and "mask::rw-" in now, "a list that was there before is there after a rewrite", now)
        if not FAKE:
            by_a_user(s, USERS[0])


if __name__ == "__main__":
    main()
