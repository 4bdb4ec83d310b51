package doctor

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/advice"
)

// inNetNS calls f in a new network namespace with a loopback link. The namespace ends
// with its thread when f returns, and everything in it. Errors are explained.
func inNetNS(f func() error) error {
	result := make(chan error, 1)
	go onPrivateThread(f, result)
	return advice.Explain(<-result)
}

// onPrivateThread ends the thread that it runs on: a locked goroutine takes its thread
// with it. The first thread of the process must stay: /proc/self shows its namespace.
func onPrivateThread(f func() error, result chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		result <- inNetNS(f) // on another thread, as this one is locked
		return
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		result <- fmt.Errorf("cannot create a network namespace: %w", os.NewSyscallError("unshare", err))
		return
	}
	if err := raiseLoopback(); err != nil {
		result <- fmt.Errorf("cannot set up a network namespace: %w", err)
		return
	}
	result <- f()
}

// raiseLoopback sets lo up.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return os.NewSyscallError("ioctl", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
}
