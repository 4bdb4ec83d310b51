package lab

import (
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// EnterNetns moves the calling thread into a new network namespace, whose only link,
// lo, is up. The goroutine must be locked to the thread: the namespace ends with it.
func EnterNetns() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
