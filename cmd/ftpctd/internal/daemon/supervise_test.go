package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/engine"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/cmd/ftpctd/internal/notify"
	"ftpctd/nfq"
	"ftpctd/nfq/packet"
)

// stuckHandler does not return from a packet until it is let go.
type stuckHandler struct{ in, leave chan struct{} }

func (h stuckHandler) Packet(*packet.Packet) nfq.Verdict {
	select {
	case h.in <- struct{}{}:
		<-h.leave
	case <-h.leave:
	}
	return nfq.Verdict{}
}

// Flush implements nfq.Handler.
func (stuckHandler) Flush() {}

func (stuckHandler) Rejected(uint32, error) {}

// TestWatchdogOfStuckHandler makes sure that the watchdog is fed by what the
// packets need, and not by a clock: a handler that does not return starves it.
func TestWatchdogOfStuckHandler(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	systemd, err := notify.Dial(func(name string) string {
		return map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}[name]
	}, unix.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()

	handler := stuckHandler{make(chan struct{}), make(chan struct{})}
	cfg := config.Default()
	w := &worker{engine: engine.New(engine.Config{Tracker: cfg.Tracker(), Now: time.Now, Log: slog.New(slog.DiscardHandler)})}
	var table *firewall.Table
	err = l.Router.Do(func() (err error) {
		if w.queue, err = nfq.Open(nfq.Config{Num: cfg.Queue.Num}); err != nil {
			return err
		}
		table, err = firewall.Install(firewall.Config{Ports: cfg.Ports, QueueNum: cfg.Queue.Num, QueueCount: 1})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.queue.Run(ctx, handler) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := table.Remove(); err != nil {
			t.Error(err)
		}
	}()
	var log bytes.Buffer
	s := &supervisor{systemd: systemd, cfg: cfg, log: slog.New(slog.NewTextHandler(&log, nil)), workers: []*worker{w}}
	told := func() string {
		t.Helper()
		if err := socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4096)
		n, err := socket.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	tests := func(want string) {
		t.Helper()
		s.checkHealth(ctx)
		if got := told(); !strings.HasPrefix(got, want) {
			t.Errorf("systemd is told %q, want %q", got, want)
		}
	}

	tests("WATCHDOG=1\nSTATUS=")
	dial, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // a SYN, which waits in the queue
		conn, err := l.Client.DialTCP(dial, netip.AddrPort{}, netip.AddrPortFrom(l.Server.IPv4(), lab.ControlPort))
		if err == nil {
			_ = conn.Close()
		}
	}()
	<-handler.in
	tests("STATUS=nfq: ping queue 21: ")
	tests("STATUS=nfq: ping queue 21: ")
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors in the log, want one:\n%s", n, &log)
	}
	stop()
	close(handler.leave)
	if err := w.queue.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	tests("WATCHDOG=1\nSTATUS=")
	if !strings.Contains(log.String(), "recovered") {
		t.Errorf("the log does not report that the queue recovered:\n%s", &log)
	}
}
