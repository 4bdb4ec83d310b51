package main_test

import (
	"bufio"
	"context"
	"os"
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

// A pipedDaemon is a daemon whose stderr is a pipe that nobody reads yet.
type pipedDaemon struct {
	*daemon
	stderr *os.File // to read from
	client *miniftp.Client
	server *miniftp.Server
	way    miniftp.Way
}

// startPiped starts the daemon on the router of a lab, and a session through it.
func startPiped(ctx context.Context, t *testing.T, config string) *pipedDaemon {
	t.Helper()
	l := labtest.New(t, lab.Config{})
	d := &pipedDaemon{daemon: &daemon{host: l.Router, log: &transcript{}}, server: &miniftp.Server{}}
	d.way = miniftp.Way{Via: ftpparse.R227, Server: l.Server.IPv4()}
	labtest.Serve(t, l.Server, d.server)
	installDropFirewall(t, l.Router, lab.Forward)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	d.stderr = r
	cmd := program("run", "-c", configFile(t, config))
	cmd.Stderr = w // which the test does not keep open
	d.process, err = l.Router.Start(cmd)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.end(t) })
	labtest.Eventually(t, "the daemon has its rules", func() bool { return cmp.Equal(running, traces(t, l.Router)) })
	d.client = labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
	return d
}

// reject makes the daemon reject announcements, each of which is a line at level debug,
// and makes sure that FTP works in between.
func (d *pipedDaemon) reject(ctx context.Context, t *testing.T, lines int) {
	t.Helper()
	for range lines {
		if _, err := d.client.Command(ctx, 500, "PORT 8,8,8,8,4,4"); err != nil {
			t.Fatal(err)
		}
	}
	labtest.RoundTrip(ctx, t, d.client, d.server, d.way)
}

// moreThanFits is more lines than a pipe and the daemon's buffers hold.
const moreThanFits = 6000

const debug = "[log]\nlevel = \"debug\"\n"

// TestUnreadLog does not read the daemon's stderr: FTP continues, and the daemon ends
// when it is told to.
func TestUnreadLog(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := startPiped(ctx, t, debug)
	d.reject(ctx, t, moreThanFits)
}

// TestLogReadAgain resumes reading the daemon's stderr: a line there reports how many
// lines are missing.
func TestLogReadAgain(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := startPiped(ctx, t, debug)
	d.reject(ctx, t, moreThanFits)

	rejected, missing := 0, 0
	missed := regexp.MustCompile(`level=WARN msg="log lines dropped: .*" lines=\d+$`)
	lines := bufio.NewScanner(d.stderr)
	for missing == 0 && lines.Scan() {
		switch line := lines.Text(); {
		case strings.Contains(line, "via=PORT"):
			rejected++
		case missed.MatchString(line):
			missing++
		}
	}
	if missing != 1 || rejected == 0 || rejected >= moreThanFits {
		t.Errorf("after %d of %d lines %d say that lines are missing (%v)", rejected, moreThanFits, missing, lines.Err())
	}
	d.reject(ctx, t, 1)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "via=PORT") {
			return
		}
	}
	t.Errorf("nothing is logged any more: %v", lines.Err())
}

// TestLogReaderGone closes the read end of the daemon's stderr, as a pager does.
func TestLogReaderGone(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := startPiped(ctx, t, debug)
	if err := d.stderr.Close(); err != nil {
		t.Fatal(err)
	}
	d.reject(ctx, t, 100)
}

// TestLogFlood is a client that causes very many lines.
func TestLogFlood(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	d := startPiped(ctx, t, "")
	d.reject(ctx, t, 2000)
	d.end(t)
	rejected, suppressed := 0, 0
	lines := bufio.NewScanner(d.stderr)
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.Contains(line, "via=PORT"):
			rejected++
		case strings.Contains(line, "suppressed=") && strings.Contains(line, "event=reject"):
			suppressed++
		}
	}
	// The limit depends on how long it takes: one line in 5 s, and a summary in 10 s.
	if rejected < 5 || rejected > 50 || suppressed < 1 || suppressed > 50 {
		t.Errorf("%d lines and %d summaries of 2000 rejections", rejected, suppressed)
	}
}

// TestUnreadNotifications is a systemd that does not read: the daemon obeys SIGHUP, and
// SIGTERM at the end of the test.
func TestUnreadNotifications(t *testing.T) {
	t.Parallel()
	l := labtest.New(t, lab.Config{})
	m := supervise(t, l.Router, 20*time.Millisecond, "")
	m.daemon.expectLog(t, "level=WARN", "sd_notify failed")
	for range 2 {
		before := m.daemon.log.count("configuration reloaded")
		if err := m.daemon.process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		labtest.Eventually(t, "the configuration is reloaded", func() bool { return m.daemon.log.count("configuration reloaded") > before })
	}
	if n := m.daemon.log.count("sd_notify failed"); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
}
