#!/bin/busybox sh
# PID 1 of a virtual machine until the root file system is mounted: the host's,
# read-only over 9p, below a tmpfs for the guest's writes. If a command fails, the
# machine stops.
set -e

/bin/busybox mkdir -p /proc /sys /dev /host /overlay /root
/bin/busybox --install -s /bin
export PATH=/bin
trap 'reboot -f' EXIT
boot='' modules='' release='' systemd=''
# shellcheck source=/dev/null # written by newInitramfs
. /vm/parameters

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid devtmpfs /dev

for module in /modules/*; do
	insmod "$module"
done

# The ports appear shortly after their driver.
for port in /dev/vport0p1 /dev/vport0p2 /dev/vport0p3; do
	tries=0
	until [ -e $port ]; do
		tries=$((tries + 1))
		[ $tries -le 300 ] || { echo "no $port" >&2; exit 1; }
		usleep 100000
	done
done

mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
mount -t tmpfs -o mode=755 tmpfs /overlay
mkdir /overlay/upper /overlay/work
chmod 755 /overlay/upper
mount -t overlay -o lowerdir=/host,upperdir=/overlay/upper,workdir=/overlay/work overlay /root

# The kernel's package, as if installed.
mkdir -p "/root/lib/modules/$release"
mount --bind "/root$modules" "/root/lib/modules/$release"
mount --bind "/root$boot" /root/boot

mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o nosuid,noexec,mode=620,gid=5,ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /root/dev/shm
ln -s /proc/self/fd /root/dev/fd
ln -s fd/0 /root/dev/stdin
ln -s fd/1 /root/dev/stdout
ln -s fd/2 /root/dev/stderr
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /root/run
cp -r /vm /root/run/vm
ifconfig lo up
hostname localhost # servers look their own name up

if [ -z "$systemd" ]; then
	mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /root/sys/fs/cgroup
	mount -t bpf -o nosuid,nodev,noexec bpf /root/sys/fs/bpf
	exec switch_root /root /bin/sh /run/vm/run.sh
fi

# If the host is a container, systemd must not take this machine for one.
rm -f /root/.dockerenv
# Enable none of the host's services.
rm -rf /root/etc/systemd/system/*.wants /root/etc/systemd/system/*.requires
# Mask units that are slow under emulation and useless here: there are no devices to
# discover, disks to mount or users to log in.
units=/root/run/systemd/system
mkdir -p $units
for unit in \
	systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
	systemd-udev-trigger.service systemd-hwdb-update.service \
	systemd-journal-flush.service systemd-journal-catalog-update.service \
	systemd-update-utmp.service systemd-update-done.service systemd-random-seed.service \
	systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
	systemd-ask-password-console.path systemd-ask-password-wall.path \
	dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
	sys-kernel-config.mount sys-fs-fuse-connections.mount tmp.mount \
	modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service \
	modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service \
	systemd-tmpfiles-clean.timer; do
	ln -s /dev/null "$units/$unit"
done
# The command may be in /tmp, which would be emptied at boot.
mkdir -p /root/run/tmpfiles.d
rm -f /root/etc/tmpfiles.d/tmp.conf
ln -s /dev/null /root/run/tmpfiles.d/tmp.conf
cp /vm/vm.service $units/vm.service
exec switch_root /root "$systemd"
