#!/bin/sh
# Installs the programs and kernels for virtual machines on Debian and Ubuntu. It
# prints nothing when nothing is missing.
#
# QEMU, busybox, kmod and systemd are installed with apt: the virtual machines
# share this machine's files. No service is started. The kernels are only
# unpacked, into a cache outside the work tree: installing one would change what
# this machine boots. The argument is the version of a kernel, such as 6.12;
# without one all kernels are unpacked.
set -eu

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH DEBIAN_FRONTEND=noninteractive LC_ALL=C

cache=${XDG_CACHE_HOME:-/var/cache}/ftpctd-test/kernels
# The kernel's version, and the Debian release whose kernel it is.
kernels='6.1:bookworm 6.12:trixie'
packages='qemu-system-x86 busybox-static kmod systemd dbus'

say() { echo "install-deps: $*" >&2; }
die() { say "$*"; exit 1; }

# program_of names the file by which the package $1 is known to be there.
program_of() {
	case $1 in
	qemu-system-x86) command -v qemu-system-x86_64 ;;
	busybox-static) echo /bin/busybox ;;
	kmod) command -v modprobe ;;
	systemd) echo /lib/systemd/systemd ;;
	dbus) command -v dbus-daemon ;;
	esac
}

# unpacked succeeds when the directory $1 holds a kernel and its modules.
unpacked() {
	for f in "$1"/boot/vmlinuz-*; do
		[ -s "$1/lib/modules/${f##*/vmlinuz-}/modules.dep" ] || return 1
	done
}

missing=
for p in $packages; do
	[ -x "$(program_of "$p")" ] || missing="$missing $p"
done
# busybox runs before there are libraries, so it must be static.
if [ -x /bin/busybox ] && grep -aq /lib64/ld-linux /bin/busybox; then
	missing="$missing busybox-static"
fi
wanted=
known=
for k in $kernels; do
	[ "${1:-all}" = all ] || [ "$1" = "${k%:*}" ] || continue
	known=$k
	unpacked "$cache/${k%:*}" || wanted="$wanted $k"
done

[ -n "$known" ] || die "there is no kernel $1; the kernels are: $kernels"
[ -n "$missing$wanted" ] || exit 0

command -v apt-get >/dev/null ||
	die "no apt-get here; install by hand:$missing, and unpack the kernels of Debian ($kernels) below $cache"
[ "$(dpkg --print-architecture)" = amd64 ] ||
	die "the virtual machines are x86-64, and so must this machine be"
[ "$(id -u)" -eq 0 ] ||
	die "must be root to install:$missing${wanted:+ the kernels$wanted}; run: sudo sh $0"

work=$(mktemp -d)
policy=
trap 'rm -rf "$work" $policy' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# apt runs apt-get with these arguments.
apt() {
	apt-get -q -y -o APT::Sandbox::User=root "$@" >"$work/log" 2>&1
}

failed() {
	cat "$work/log" >&2
	die "apt-get $* failed"
}

if [ -n "$missing" ]; then
	say "installing:$missing"
	# Maintainer scripts ask this program whether they may start a service. An
	# existing one is kept.
	if ! [ -e /usr/sbin/policy-rc.d ]; then
		policy=/usr/sbin/policy-rc.d
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	# It usually fails because the package lists are missing or out of date: update
	# them and retry.
	# shellcheck disable=SC2086 # a list of words
	apt install --no-install-recommends $missing || {
		say "apt-get update"
		apt update || failed update
		apt install --no-install-recommends $missing || failed install
	}
fi

[ -n "$wanted" ] || exit 0

# This machine's Debian mirror has the other releases, too. On Ubuntu there is none,
# so DEBIAN_MIRROR must name one.
mirror() {
	# shellcheck disable=SC2016 # apt's own notation
	apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Identifier: Packages' |
		sed -n 's/^Debian //p' | head -n 1
}
mirror=${DEBIAN_MIRROR:-$(mirror)}
if [ -z "$mirror" ]; then
	say "apt-get update"
	apt update || failed update
	mirror=$(mirror)
fi
[ -n "$mirror" ] ||
	die "no mirror of Debian among apt's sources; run: sudo env DEBIAN_MIRROR=URL sh $0"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e $keyring ] || die "no $keyring; run: sudo apt-get install debian-archive-keyring"

mkdir -p "$cache"
for k in $wanted; do
	version=${k%:*} suite=${k#*:}
	say "unpacking Debian's kernel $version into $cache/$version"

	# A separate apt root for this release leaves the machine's package lists alone.
	# Settings such as proxies are the machine's.
	root=$work/$suite
	mkdir -p "$root/lists/partial" "$root/cache/archives/partial" "$root/unpacked/usr/lib"
	: >"$root/status"
	echo "deb [signed-by=$keyring] $mirror $suite main" >"$root/sources.list"
	set -- \
		-o Dir::Etc::SourceList="$root/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
		-o Dir::State::Lists="$root/lists" -o Dir::State::Status="$root/status" \
		-o Dir::Cache="$root/cache" -o Acquire::Languages=none
	apt "$@" -o APT::Update::Error-Mode=any update || failed "update ($suite)"
	package=$(apt-cache "$@" depends linux-image-amd64 |
		sed -n "s/^[ |]*Depends: \(linux-image-${version}[.+][a-z0-9.+-]*\)\$/\1/p" | head -n 1)
	[ -n "$package" ] || die "Debian's $suite has no kernel $version at $mirror"
	(cd "$root" && apt "$@" download "$package") || failed "download $package"

	# Debian moved the modules to usr/lib at some point; both end there.
	ln -s usr/lib "$root/unpacked/lib"
	dpkg-deb --fsys-tarfile "$root"/*.deb | tar -x -C "$root/unpacked" --keep-directory-symlink
	depmod -b "$root/unpacked" "${package#linux-image-}"
	unpacked "$root/unpacked" || die "$package is not laid out as expected"
	rm -rf "${cache:?}/$version"
	cp -a "$root/unpacked" "$cache/$version.new"
	mv "$cache/$version.new" "$cache/$version"
done
