package labtest

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// EnterNetns moves the test's goroutine to a network namespace of its own whose
// only link is lo. The namespace goes away with the thread, which is thrown
// away with the goroutine, because it stays locked.
func EnterNetns(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		Unmet(t, "cannot make a network namespace (root is needed): "+err.Error())
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
}
