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

// takeLock makes sure that one daemon runs in a network namespace: two would replace
// each other's rules, even with different queues. Close it to let another one start.
// Its error names the process that has it.
//
// The kernel gives a queue to one process in a network namespace, asks CAP_NET_ADMIN of
// it, and takes it back when the process ends, however that is. A file or a unix
// socket would lack one or the other: containers share a network namespace without
// sharing /run, and any user can bind an abstract name.
func takeLock() (io.Closer, error) {
	// Nothing reads it, and nothing is to: what strays there passes.
	q, err := nfq.Open(nfq.Config{Num: config.LockQueue, Length: 1, CopyRange: 1})
	if errors.Is(err, unix.EBUSY) {
		return nil, lockTaken()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot take the daemon's lock: %w", err)
	}
	return q, nil
}

// lockTaken says who has the lock.
func lockTaken() error {
	o, _ := nfq.FindOwner(config.LockQueue)
	if o.PID == "" { // of another PID namespace, or it has ended since
		return errors.New("another ftpctd runs in this network namespace: stop it first")
	}
	if own, err := os.ReadFile("/proc/self/comm"); err == nil && o.Command != strings.TrimSpace(string(own)) {
		return fmt.Errorf("queue %d, which keeps a second ftpctd out, is bound by %v: stop it first", config.LockQueue, o)
	}
	return fmt.Errorf("another ftpctd (process %s) runs in this network namespace: stop it first", o.PID)
}
