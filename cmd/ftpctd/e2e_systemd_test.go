package main_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/ftpparse"
)

// manager plays systemd for one daemon.
type manager struct {
	socket *net.UnixConn
	daemon *daemon
	config string // the file
}

// supervise starts a daemon with WatchdogSec= set to watchdog.
func supervise(t *testing.T, h *lab.Host, watchdog time.Duration, config string) *manager {
	t.Helper()
	m := &manager{daemon: &daemon{host: h, log: &transcript{}}, config: configFile(t, config)}
	path := filepath.Join(t.TempDir(), "notify")
	var err error
	if m.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.socket.Close() })
	cmd := program("run", "-c", m.config)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path, fmt.Sprint("WATCHDOG_USEC=", watchdog.Microseconds()))
	cmd.Stderr = m.daemon.log
	if m.daemon.process, err = h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.daemon.end(t)
		if t.Failed() {
			t.Logf("the log of the daemon:\n%s", m.daemon.log)
		}
	})
	return m
}

// next returns the first variable of the next datagram, and its status.
func (m *manager) next(t *testing.T) (variable, status string) {
	t.Helper()
	if err := m.socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := m.socket.Read(b)
	if err != nil {
		t.Fatalf("no datagram of the daemon: %v\n%s", err, m.daemon.log)
	}
	variable, status, _ = strings.Cut(string(b[:n]), "\n")
	return variable, status
}

// expect reads datagrams up to one that begins with a variable, and returns its
// status. In between the watchdog may be fed, or not be fed on a busy machine.
func (m *manager) expect(t *testing.T, variable string) string {
	t.Helper()
	for {
		got, status := m.next(t)
		if got == variable {
			return status
		}
		if got != "WATCHDOG=1" && !strings.HasPrefix(got, "STATUS=") {
			t.Fatalf("the daemon says %s, %s; want %s", got, status, variable)
		}
	}
}

// reload makes the daemon reload a new configuration.
func (m *manager) reload(t *testing.T, config string) {
	t.Helper()
	if err := os.WriteFile(m.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.daemon.process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if stamp := m.expect(t, "RELOADING=1"); !regexp.MustCompile(`^MONOTONIC_USEC=\d+$`).MatchString(stamp) {
		t.Errorf("RELOADING=1 with %q, want a time stamp", stamp)
	}
	m.expect(t, "READY=1")
}

// TestNotify makes sure that systemd is notified of the start, of the counters and of
// the end, and that the daemon is ready at READY=1.
func TestNotify(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	s := &miniftp.Server{}
	labtest.Serve(t, l.Server, s)
	installDropFirewall(t, l.Router, lab.Forward)
	m := supervise(t, l.Router, 400*time.Millisecond, "")

	const idle = "STATUS=0 control connections; 0 data connections expected, 0 rejected"
	if diff := cmp.Diff(idle, m.expect(t, "READY=1")); diff != "" {
		t.Errorf("status at the start (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(running, traces(t, l.Router)); diff != "" {
		t.Errorf("at READY=1 (-want +got):\n%s", diff)
	}

	ctx := testContext(t)
	c := labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
	labtest.RoundTrip(ctx, t, c, s, miniftp.Way{Via: ftpparse.R227, Server: l.Server.IPv4()})
	const busy = "STATUS=1 control connections; 2 data connections expected, 0 rejected"
	labtest.Eventually(t, "the status "+busy, func() bool { return m.expect(t, "WATCHDOG=1") == busy })

	m.daemon.end(t)
	m.expect(t, "STOPPING=1")
}

// TestReload makes sure that SIGHUP applies the keys that can be reloaded, names those
// that need a restart, and that an invalid file changes nothing.
func TestReload(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	s := &miniftp.Server{DataTimeout: blockedTimeout}
	labtest.Serve(t, l.Server, s)
	s.Put("file", labtest.Content(smallFile))
	fw := installDropFirewall(t, l.Router, lab.Forward)
	m := supervise(t, l.Router, time.Minute, "")
	m.expect(t, "READY=1")
	ctx := testContext(t)
	c := labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
	passes := func(when string) {
		t.Helper()
		if _, err := c.Retr(ctx, ftpparse.PORT, "file"); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	passes("at the start")

	m.reload(t, "ports = [21, 2121]\nmin_port = 2000\n[active]\nenabled = false\n[log]\nlevel = \"debug\"\n")
	m.daemon.expectLog(t, "level=INFO", "configuration reloaded")
	m.daemon.expectLog(t, "level=WARN", "restart", "keys=[ports]")
	expectTransferBlocked(ctx, t, fw.Dropped, c, ftpparse.PORT, "file")
	m.daemon.expectLog(t, "reason=active-disabled")
	if _, err := c.Retr(ctx, ftpparse.R227, "file"); err != nil {
		t.Errorf("passive mode: %v", err)
	}
	m.daemon.expectLog(t, "level=DEBUG")

	m.reload(t, "[active]\nenabled = true\n[passive]\nports = \"all\"\ntypo = 1\n")
	m.daemon.expectLog(t, "level=ERROR", "not reloaded", m.config, "passive.ports")
	m.daemon.expectLog(t, "level=ERROR", "not reloaded", m.config, "typo")
	expectTransferBlocked(ctx, t, fw.Dropped, c, ftpparse.PORT, "file")

	if err := os.Remove(m.config); err != nil {
		t.Fatal(err)
	}
	if err := m.daemon.process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	m.expect(t, "RELOADING=1")
	m.expect(t, "READY=1")
	m.daemon.expectLog(t, "level=ERROR", "not reloaded", "no such file")

	m.reload(t, "")
	passes("with active mode again")
}

// TestWatchdogOfStoppedProcess makes sure that a stopped daemon does not ping the
// watchdog, and that it works when it continues.
func TestWatchdogOfStoppedProcess(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	const watchdog = 400 * time.Millisecond
	m := supervise(t, l.Router, watchdog, "")
	m.expect(t, "READY=1")
	m.expect(t, "WATCHDOG=1")
	if err := m.daemon.process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	drain := func() (n int) { // until the daemon is silent for as long as systemd waits
		for {
			if err := m.socket.SetReadDeadline(time.Now().Add(watchdog)); err != nil {
				t.Fatal(err)
			}
			if _, err := m.socket.Read(make([]byte, 4096)); errors.Is(err, os.ErrDeadlineExceeded) {
				return n
			} else if err != nil {
				t.Fatal(err)
			}
			if n++; n > 3 {
				t.Fatal("a stopped daemon feeds the watchdog")
			}
		}
	}
	drain()
	if err := m.daemon.process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	labtest.Eventually(t, "the watchdog is fed again", func() bool {
		variable, _ := m.next(t) // first perhaps that a ping was not answered in time
		return variable == "WATCHDOG=1"
	})
}
