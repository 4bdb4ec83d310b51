package cli

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// needNetAdmin fails unless the process may configure the network namespace.
func needNetAdmin() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	if data[unix.CAP_NET_ADMIN/32].Effective&(1<<(unix.CAP_NET_ADMIN%32)) == 0 {
		return &exitError{exitPermission, errors.New("CAP_NET_ADMIN is required for packet queues and firewall rules: run ftpctd as root")}
	}
	return nil
}
