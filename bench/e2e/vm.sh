#!/bin/sh
# Runs the benchmark in a virtual machine with conntrackd copied into /usr, because
# it looks for its helpers only in /usr/lib. The copy disappears with the machine.
#
#	vm.sh CONNTRACKD E2E [ARGUMENT...]
#
# CONNTRACKD is the directory that install-conntrackd.sh prints.
set -eu

# On a real machine it would overwrite installed files.
[ -e /run/vm/parameters ] || { echo "vm.sh: not in a virtual machine of bench/vm" >&2; exit 1; }
cp -a "$1/usr/." /usr/
shift
PATH=$PATH:/usr/sbin:/sbin
exec "$@"
