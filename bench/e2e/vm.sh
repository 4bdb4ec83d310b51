#!/bin/sh
# Runs the benchmark in a virtual machine that has conntrackd as if it were
# installed: it looks for its helpers nowhere but under /usr/lib. What is written
# there is forgotten with the machine.
#
#	vm.sh CONNTRACKD E2E [ARGUMENT...]
#
# CONNTRACKD is the directory that install-conntrackd.sh prints.
set -eu

# On a real machine it would overwrite what is installed.
[ -e /run/vm/parameters ] || { echo "vm.sh: not in a virtual machine of bench/vm" >&2; exit 1; }
cp -a "$1/usr/." /usr/
shift
PATH=$PATH:/usr/sbin:/sbin
exec "$@"
