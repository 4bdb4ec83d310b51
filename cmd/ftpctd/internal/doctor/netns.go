package doctor

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inPrivate calls f in a network namespace of its own that has a loopback link.
// The namespace goes away with its thread when f returns, with everything in it.
func inPrivate(f func() error) error {
	result := make(chan error, 1)
	go onPrivateThread(f, result)
	return <-result
}

// onPrivateThread throws the thread that it runs on away: a locked goroutine
// takes its thread with it. The first thread of the process is not one to lose:
// what /proc/self shows is its namespace.
func onPrivateThread(f func() error, result chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		result <- inPrivate(f) // this thread is taken meanwhile: it will be another
		return
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		result <- fmt.Errorf("cannot make a network namespace: %w", os.NewSyscallError("unshare", err))
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
