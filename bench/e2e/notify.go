package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// serviceManager receives what a daemon reports to systemd, as sd_notify(3)
// defines it: datagrams of lines VARIABLE=VALUE.
type serviceManager struct {
	path  string // of the socket, for NOTIFY_SOCKET
	conn  *net.UnixConn
	ready chan struct{} // closed by the first READY=1

	mu      sync.Mutex
	status  string        // the last STATUS
	changed chan struct{} // closed and replaced with each status
}

// newServiceManager listens at a socket in a directory.
func newServiceManager(dir string) (*serviceManager, error) {
	m := &serviceManager{path: filepath.Join(dir, "notify"), ready: make(chan struct{}), changed: make(chan struct{})}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		return nil, err
	}
	go m.listen()
	return m, nil
}

// listen reads until the socket is closed. Left unread, it would fill up and the
// daemon's reports would be lost.
func (m *serviceManager) listen() {
	b := make([]byte, 4096)
	for ready := false; ; {
		n, err := m.conn.Read(b)
		if err != nil {
			return
		}
		for line := range strings.SplitSeq(string(b[:n]), "\n") {
			variable, value, _ := strings.Cut(line, "=")
			switch {
			case variable == "READY" && value == "1" && !ready:
				ready = true
				close(m.ready)
			case variable == "STATUS":
				m.setStatus(value)
			}
		}
	}
}

func (m *serviceManager) setStatus(status string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = status
	close(m.changed)
	m.changed = make(chan struct{})
}

// waitTracked waits until the daemon tracks n control connections, the first
// number in ftpctd's status.
func (m *serviceManager) waitTracked(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		m.mu.Lock()
		status, changed := m.status, m.changed
		m.mu.Unlock()
		if firstNumber(status) == n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("the daemon does not track %d control connections; its status is %q", n, status)
		}
	}
}

var numberPattern = regexp.MustCompile(`\d+`)

// firstNumber returns the first number in a text, or -1.
func firstNumber(s string) int {
	n, err := strconv.Atoi(numberPattern.FindString(s))
	if err != nil {
		return -1
	}
	return n
}

func (m *serviceManager) close() error { return m.conn.Close() }
