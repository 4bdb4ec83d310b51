// Package vm runs programs of this machine on other kernels: it boots a
// distribution's kernel under QEMU and runs a command line in it.
//
// The virtual machine shares this machine's files: its root is the host's,
// read-only, below a temporary layer for the guest's writes. So the command can
// be a test binary that was just built and use the servers and clients
// installed here, and nothing in the guest can change the host. Only /dev,
// /proc, /run and /sys are the guest's own. Files that the guest uses must not
// change while it runs.
//
// The kernel's modules are those of its own package, and modprobe loads them
// when the kernel requests them. There is no network except those the guest
// creates.
//
// The CPU is emulated (QEMU's TCG), even where /dev/kvm is present: on a CI
// machine, itself a guest, KVM is usually absent and sometimes broken, and then
// the kernel hangs. On two idle CPUs a boot takes about fifteen seconds, with
// systemd half a minute, and several times that on busy ones. Programs run ten
// times slower than on the host.
//
// bench/vm/install-deps.sh installs QEMU and fetches the kernels.
package vm
