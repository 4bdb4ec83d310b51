#!/bin/sh
# Runs the command in the virtual machine, as PID 1 or as a service of systemd. The
# host reads three virtio ports: the command's standard output, its standard error,
# and reports, one per line: that the command started, its exit code, or why it could
# not be run. Then the host switches the machine off.
cd /run/vm || exit
preload=''
# shellcheck source=/dev/null # written by newInitramfs
. ./parameters
exec 3>/dev/vport0p3

# The command gets pipes: a port can be opened only once, so a program could not reopen
# it as /dev/stderr.
mkfifo stdout stderr
cat stdout >/dev/vport0p1 &
out=$!
cat stderr >/dev/vport0p2 &
err=$!

# shellcheck disable=SC2086 # a list of names
if [ -n "$preload" ] && ! PATH=$PATH:/usr/sbin:/sbin modprobe -a $preload >modprobe.log 2>&1; then
	printf 'fail %s\n' "$(tr '\n' ' ' <modprobe.log)" >&3
	exec sleep infinity
fi

echo start >&3
sh command.sh </dev/null >stdout 2>stderr 3>&-
code=$?
# Processes left by the command may hold the pipes open.
(sleep 5; kill $out $err) 2>/dev/null 3>&- &
wait $out $err
echo "exit $code" >&3
exec sleep infinity
