#!/bin/sh
# Unpacks conntrackd, nfct and their libraries from Debian's packages into a cache
# outside the work tree, unless they are there, and prints the directory. They are not
# installed, because the package starts a service.
set -eu

export LC_ALL=C
cache=${XDG_CACHE_HOME:-/var/cache}/ftpctd-test/conntrackd
packages='conntrackd nfct libmnl0 libnfnetlink0 libnetfilter-conntrack3
	libnetfilter-cthelper0 libnetfilter-cttimeout1 libnetfilter-queue1'

die() { echo "install-conntrackd: $*" >&2; exit 1; }

if ! [ -x "$cache/usr/sbin/conntrackd" ]; then
	[ "$(id -u)" -eq 0 ] || die "must be root; run: sudo sh $0"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	echo "install-conntrackd: unpacking conntrackd into $cache" >&2
	# shellcheck disable=SC2086 # a list of words
	(cd "$work" && apt-get -q -y -o APT::Sandbox::User=root download $packages >log 2>&1) || {
		cat "$work/log" >&2
		die "apt-get download failed; after apt-get update it may not"
	}
	for package in "$work"/*.deb; do
		dpkg -x "$package" "$work/root"
	done
	mkdir -p "$(dirname "$cache")"
	mv "$work/root" "$cache"
fi
echo "$cache"
