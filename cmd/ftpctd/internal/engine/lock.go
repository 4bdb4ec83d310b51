package engine

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// lockName is an abstract unix socket: the kernel keeps such names apart by
// network namespace, and forgets them with their process, however it ends.
const lockName = "@ftpctd"

// Lock makes sure that one daemon runs in a network namespace: two would replace
// each other's rules. Close it to let another one start. Its error names the
// process that has it.
func Lock() (io.Closer, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: lockName, Net: "unix"})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("another ftpctd%s runs in this network namespace: stop it first", holder())
	}
	if err != nil {
		return nil, fmt.Errorf("cannot take the lock %s: %w", lockName, err)
	}
	return l, nil
}

// holder names the process that has the lock, as far as it can be told.
func holder() string {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: lockName, Net: "unix"})
	if err != nil {
		return ""
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return ""
	}
	pid := int32(0)
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = cred.Pid
		}
	})
	if pid == 0 { // of another PID namespace
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}
