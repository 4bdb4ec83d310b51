// Package vm runs programs of this machine on other kernels: it boots a
// distribution's kernel under QEMU and runs a command line in it.
//
// The virtual machine has this machine's files: its root is the host's,
// read-only, under a layer that takes what the guest writes and is gone
// afterwards. So the command may be a test binary that was just built, the
// servers and clients installed here are there, and nothing that happens in the
// guest can change the host. Only /dev, /proc, /run and /sys are the guest's
// own. Files that the guest uses must not change meanwhile.
//
// The kernel's modules are those of its own package and are loaded as on any
// machine, by modprobe when the kernel asks for them. There is no network but
// what the guest makes itself.
//
// The processor is emulated in software (QEMU's TCG), also where /dev/kvm is
// present: on a CI machine, itself a guest, KVM is mostly absent and sometimes
// there but broken, and the kernel then hangs. On two processors with nothing
// else to do a boot takes some fifteen seconds, with systemd half a minute, and
// several times that on busy ones; programs run ten times slower than here.
//
// bench/vm/install-deps.sh installs QEMU and fetches the kernels.
package vm
