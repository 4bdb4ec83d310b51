package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/nfq"
)

// takeLock makes sure that only one daemon runs in a network namespace: two would
// replace each other's rules, even with different queues. Closing it lets another one
// start. Its error names the process that holds it.
//
// The lock is a packet queue: the kernel binds a queue to one process in a network
// namespace, demands CAP_NET_ADMIN, and unbinds it when the process ends, however that
// is. A file or a unix socket would lack one of these: containers share a network
// namespace without sharing /run, and any user can bind an abstract name.
func takeLock() (io.Closer, error) {
	// No rule sends packets to it and nobody reads it: it fails open.
	q, err := nfq.Open(nfq.Config{Num: config.LockQueue, Length: 1, CopyRange: 1})
	if errors.Is(err, unix.EBUSY) {
		return nil, lockTaken()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot take the daemon's lock: %w", err)
	}
	return q, nil
}

// lockTaken names the process that holds the lock.
func lockTaken() error {
	const running = "ftpctd is already running in this network namespace"
	o, _ := nfq.FindOwner(config.LockQueue)
	if o.PID == "" { // of another PID namespace, or it has ended since
		return errors.New(running)
	}
	if own, err := os.ReadFile("/proc/self/comm"); err == nil && o.Command != strings.TrimSpace(string(own)) {
		return fmt.Errorf("queue %d, the lock against a second ftpctd, is already bound by %v: stop it first", config.LockQueue, o)
	}
	return fmt.Errorf("%s (process %s)", running, o.PID)
}
