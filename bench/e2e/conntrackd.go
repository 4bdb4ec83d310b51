package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"ftpctd/bench/lab"
)

// conntrackdConfig enables conntrackd's FTP helper and nothing else, with the limits of
// the kernel's helper. %[1]s is a directory.
const conntrackdConfig = `General {
	Systemd no
	LockFile %[1]s/lock
	UNIX {
		Path %[1]s/socket
		Backlog 5
	}
}
Helper {
	Type ftp inet tcp {
		QueueNum 0
		QueueLen 10240
		Policy ftp {
			ExpectMax 1
			ExpectTimeout 300
		}
	}
}
`

// startConntrackd runs conntrackd with its user-space helper for FTP over IPv4. Its
// name is ftp, like the kernel's, so it fails where nf_conntrack_ftp is loaded.
func startConntrackd(ctx context.Context, h *lab.Host) (_ *daemon, err error) {
	d := &daemon{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.dir, err = os.MkdirTemp("", "ftpctd-bench-"); err != nil {
		return nil, err
	}
	nfct := func(command string) error {
		_, err := h.Output(exec.Command("nfct", "helper", command, "ftp", "inet", "tcp"))
		return err
	}
	if err := nfct("add"); err != nil {
		return nil, err
	}
	d.cleanup = func() error { return nfct("delete") }
	config := filepath.Join(d.dir, "conntrackd.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, conntrackdConfig, d.dir), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("conntrackd", "-C", config)
	cmd.Stderr = &d.stderr
	if d.process, err = h.Start(cmd); err != nil {
		return nil, err
	}
	for {
		var queues []byte
		err := h.Do(func() (err error) { queues, err = os.ReadFile(queueFile); return err })
		// The file exists once the module nfnetlink_queue is loaded.
		if err != nil && !errors.Is(err, fs.ErrNotExist) || len(queues) > 0 {
			return d, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-d.process.Done():
			return nil, fmt.Errorf("conntrackd exited: %w", d.process.Wait())
		case <-ctx.Done():
			return nil, fmt.Errorf("conntrackd is not ready: %w", ctx.Err())
		}
	}
}
