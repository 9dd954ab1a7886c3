#!/bin/sh
# Installs forelog, its mount helpers, manual pages, completions and systemd unit; or removes them.
# usage: install.sh [--uninstall [--force]] [--prefix DIR]     (DESTDIR is respected; FORELOG names the binary)
# --uninstall is refused while something is mounted or a log in /var/lib/forelog holds data; --force does it all the same.
set -eu

usage() {
    echo "usage: $0 [--uninstall [--force]] [--prefix DIR]" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
prefix=/usr/local
remove=no
force=no
while [ $# -gt 0 ]; do
    case $1 in
        --uninstall) remove=yes ;;
        --force) force=yes ;;
        --prefix)
            [ $# -ge 2 ] || usage
            prefix=$2
            shift
            ;;
        *) usage ;;
    esac
    shift
done

root=${DESTDIR:-}
bin=$root$prefix/bin
man=$root$prefix/share/man/man1
bash_dir=$root$prefix/share/bash-completion/completions
zsh_dir=$root$prefix/share/zsh/site-functions
fish_dir=$root$prefix/share/fish/vendor_completions.d
# mount(8) looks for its helpers in /sbin only.
sbin=$root/sbin
unit=$root/etc/systemd/system/forelog@.service
helpers="mount.forelog mount.fuse.forelog umount.forelog umount.fuse.forelog"
verbs="mount umount flush status top report set queue versions undo fsck dump trace completions man"

if [ "$remove" = yes ]; then
    held=""
    if [ -x "$bin/forelog" ]; then
        # Without the program nobody could bring them to their backing.
        held=$(FORELOG=$bin/forelog "$here/held-logs" ${root:+"$root/var/lib/forelog"})
    fi
    if [ -n "$held" ]; then
        echo "$held" >&2
        if [ "$force" = no ]; then
            echo "not removed: unmount, or mount and unmount these logs, so that all is stored; --force removes forelog and keeps the logs" >&2
            exit 2
        fi
    fi
    rm -f "$bin/forelog" "$unit" "$man/forelog.1" \
        "$bash_dir/forelog" "$zsh_dir/_forelog" "$fish_dir/forelog.fish"
    for verb in $verbs; do rm -f "$man/forelog-$verb.1"; done
    for helper in $helpers; do rm -f "$sbin/$helper"; done
    echo "forelog is removed; logs in /var/lib/forelog are kept"
    exit 0
fi

forelog=${FORELOG:-$here/../target/release/forelog}
if [ ! -x "$forelog" ]; then
    echo "$forelog: not there; build it with \`cargo build --release\`" >&2
    exit 2
fi
mkdir -p "$bin" "$man" "$bash_dir" "$zsh_dir" "$fish_dir" "$sbin" "$(dirname "$unit")"
install -m 755 "$forelog" "$bin/forelog"
for helper in $helpers; do install -m 755 "$here/$helper" "$sbin/$helper"; done
sed "s|/usr/local/bin/|$prefix/bin/|" "$here/forelog@.service" >"$unit"
chmod 644 "$unit"
"$forelog" man >"$man/forelog.1"
for verb in $verbs; do "$forelog" man "$verb" >"$man/forelog-$verb.1"; done
"$forelog" completions bash >"$bash_dir/forelog"
"$forelog" completions zsh >"$zsh_dir/_forelog"
"$forelog" completions fish >"$fish_dir/forelog.fish"
if [ -z "$root" ] && command -v systemctl >/dev/null 2>&1; then
    systemctl daemon-reload || echo "systemctl daemon-reload failed; run it by hand" >&2
fi
echo "forelog is installed in $prefix/bin, its mount helpers in /sbin"
