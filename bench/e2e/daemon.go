package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ftpctd/bench/lab"
)

// daemon is a process on the router that does the work.
type daemon struct {
	process *lab.Process
	stderr  bytes.Buffer
	dir     string
	after   func() error  // what is left to do once it has ended; may be nil
	notify  *net.UnixConn // what the daemon takes for systemd
	status  chan string   // the last that it said
}

// startFtpctd runs ftpctd on a host and waits until it says that it is ready, as
// it would say to systemd.
func startFtpctd(ctx context.Context, h *lab.Host, program, config string) (_ *daemon, err error) {
	d := &daemon{status: make(chan string, 1)}
	if d.dir, err = os.MkdirTemp("", "ftpctd-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	path := filepath.Join(d.dir, "notify")
	if d.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "run", "-c", "/dev/stdin")
	cmd.Stdin = strings.NewReader(config)
	cmd.Stderr = &d.stderr
	// The watchdog has it tell its status several times a second.
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=1000000")
	if d.process, err = h.Start(cmd); err != nil {
		return nil, err
	}
	go d.listen()
	for {
		select {
		case status := <-d.status:
			// Not READY=1, which what it said next may have taken the place of.
			if strings.Contains(status, "control connections:") {
				return d, nil
			}
		case <-d.process.Done():
			return nil, fmt.Errorf("%s has ended: %w", program, d.process.Wait())
		case <-ctx.Done():
			return nil, fmt.Errorf("%s is not ready: %w", program, ctx.Err())
		}
	}
}

// listen takes what the daemon says, until the socket is closed. Somebody has to:
// a daemon waits until there is room for more. Only the last of it is kept.
func (d *daemon) listen() {
	b := make([]byte, 4096)
	for {
		n, err := d.notify.Read(b)
		if err != nil {
			return
		}
		select {
		case <-d.status:
		default:
		}
		d.status <- string(b[:n])
	}
}

// waitTracked waits until the daemon says that it follows n control connections.
func (d *daemon) waitTracked(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	want := fmt.Sprintf("control connections: %d;", n)
	status := "nothing"
	for {
		select {
		case status = <-d.status:
			if strings.Contains(status, want) {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("the daemon does not follow %d control connections, but says %q", n, status)
		}
	}
}

// close ends the daemon. What it said is part of the error.
func (d *daemon) close() error {
	var errs []error
	if d.process != nil {
		if err := d.process.Stop(); err != nil {
			errs = append(errs, fmt.Errorf("%w: %s", err, bytes.TrimSpace(d.stderr.Bytes())))
		}
	}
	if d.notify != nil {
		errs = append(errs, d.notify.Close())
	}
	if d.after != nil {
		errs = append(errs, d.after())
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}
