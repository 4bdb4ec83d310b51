package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"ftpctd/bench/lab"
)

// daemon is the helper process on the router.
type daemon struct {
	process *lab.Process
	stderr  bytes.Buffer
	dir     string
	cleanup func() error    // called once the process has ended; may be nil
	manager *serviceManager // of ftpctd, else nil
}

// startFtpctd runs ftpctd on a host and waits until it reports READY=1.
func startFtpctd(ctx context.Context, h *lab.Host, program, config string) (_ *daemon, err error) {
	d := &daemon{}
	if d.dir, err = os.MkdirTemp("", "ftpctd-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.manager, err = newServiceManager(d.dir); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "run", "-c", "/dev/stdin")
	cmd.Stdin = strings.NewReader(config)
	cmd.Stderr = &d.stderr
	// With a watchdog the daemon reports its status four times a second.
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+d.manager.path, "WATCHDOG_USEC=1000000")
	if d.process, err = h.Start(cmd); err != nil {
		return nil, err
	}
	select {
	case <-d.manager.ready:
		return d, nil
	case <-d.process.Done():
		return nil, fmt.Errorf("%s exited: %w", program, d.process.Wait())
	case <-ctx.Done():
		return nil, fmt.Errorf("%s is not ready: %w", program, ctx.Err())
	}
}

// close stops the daemon. An error includes the daemon's stderr.
func (d *daemon) close() error {
	var errs []error
	if d.process != nil {
		if err := d.process.Stop(); err != nil {
			errs = append(errs, fmt.Errorf("%w: %s", err, bytes.TrimSpace(d.stderr.Bytes())))
		}
	}
	if d.manager != nil {
		errs = append(errs, d.manager.close())
	}
	if d.cleanup != nil {
		errs = append(errs, d.cleanup())
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}
