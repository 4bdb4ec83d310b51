#!/bin/sh
# Installs the programs that ftpctd's tests need on Debian and Ubuntu. It prints
# nothing when nothing is missing.
#
# Clients, libraries and the C compiler (for the race detector) are installed
# with apt. The FTP servers are only unpacked, into a cache outside the work
# tree: their packages conflict, and installing one would enable an FTP service
# on this machine.
set -eu

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH DEBIAN_FRONTEND=noninteractive LC_ALL=C

cache=${XDG_CACHE_HOME:-/var/cache}/ftpctd-test
servers='vsftpd proftpd-core proftpd-mod-crypto pure-ftpd pure-ftpd-common'
programs='curl lftp tnftp iptables gcc make'

say() { echo "install-deps: $*" >&2; }
die() { say "$*"; exit 1; }

# unpacked succeeds when every server is in the directory $1 and finds its libraries.
unpacked() {
	for f in usr/sbin/vsftpd usr/sbin/proftpd usr/lib/proftpd/mod_tls.so usr/sbin/pure-ftpd usr/bin/pure-pw; do
		[ -e "$1/$f" ] || return 1
		! ldd "$1/$f" 2>/dev/null | grep -q 'not found' || return 1
	done
}

missing=
for p in $programs; do
	command -v "$p" >/dev/null || missing="$missing $p"
done
# A compiler without the C library's headers cannot build the race detector's
# runtime.
if ! [ -e /usr/include/stdlib.h ]; then
	missing="$missing libc6-dev"
fi
command -v nft >/dev/null || missing="$missing nftables"
# systemd-analyze judges the unit. The package does not make systemd the init.
if ! command -v systemd-analyze >/dev/null; then
	missing="$missing systemd"
fi
have_servers=yes
unpacked "$cache" || have_servers=no

[ -n "$missing" ] || [ $have_servers = no ] || exit 0

command -v apt-get >/dev/null ||
	die "no apt-get here; install by hand:$missing, and unpack $servers below $cache"
[ "$(id -u)" -eq 0 ] ||
	die "must be root to install:$missing$([ $have_servers = yes ] || echo " $servers"); run: sudo sh $0"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

update() {
	say "apt-get update"
	apt-get -q update >"$work/log" 2>&1 || { cat "$work/log" >&2; die "apt-get update failed"; }
}

# apt runs apt-get with these arguments. It usually fails because the package lists are
# missing or out of date, so it updates them and retries.
apt() {
	apt-get -q -y -o APT::Sandbox::User=root "$@" >"$work/log" 2>&1 && return
	update
	apt-get -q -y -o APT::Sandbox::User=root "$@" >"$work/log" 2>&1 && return
	cat "$work/log" >&2
	die "apt-get $* failed"
}

if [ $have_servers = no ]; then
	# shellcheck disable=SC2086 # lists of words
	apt-cache show $servers >/dev/null 2>&1 || update
	# The servers are not installed, so apt does not bring the libraries they
	# depend on; their names differ from one release to the next.
	# shellcheck disable=SC2086
	libraries=$(apt-cache depends --important $servers |
		sed -n 's/^[ |]*Depends: \(lib[a-z0-9.+-]*\)$/\1/p' | sort -u)
	for p in $libraries; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || :)" = installed ] ||
			missing="$missing $p"
	done
fi

if [ -n "$missing" ]; then
	say "installing:$missing"
	# shellcheck disable=SC2086
	apt install --no-install-recommends $missing
fi

if [ $have_servers = no ]; then
	say "unpacking $servers into $cache"
	# shellcheck disable=SC2086
	(cd "$work" && apt download $servers)
	for deb in "$work"/*.deb; do
		dpkg -x "$deb" "$work/root"
	done
	unpacked "$work/root" ||
		die "the unpacked servers lack libraries: $(ldd "$work"/root/usr/sbin/* "$work"/root/usr/lib/proftpd/mod_tls.so | grep 'not found' | sort -u)"
	# The cache may hold other things as well, and programs that run.
	chmod 755 "$work/root"
	mkdir -p "$cache"
	cp -a --remove-destination "$work/root/." "$cache"
fi
