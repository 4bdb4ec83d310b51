package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/ftpparse"
)

// largeFile is the size of a file that does not fit into the buffers of both ends: the
// server is still sending it when the client has read only its beginning.
const largeFile = 4 << 20

// gate is a host whose passive downloads stop after their first bytes until it
// is opened.
type gate struct {
	*lab.Host
	reached chan struct{} // closed when a download has begun
	open    func()        // lets it go on; may be called again
	opened  chan struct{}
}

func newGate(t *testing.T, h *lab.Host) *gate {
	g := &gate{Host: h, reached: make(chan struct{}), opened: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	t.Cleanup(g.open)
	return g
}

// DialTCP implements miniftp.Network.
func (g *gate) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	conn, err := g.Host.DialTCP(ctx, local, remote)
	if err != nil || remote.Port() == lab.ControlPort {
		return conn, err
	}
	return &gated{Conn: conn, gate: g}, nil
}

type gated struct {
	net.Conn
	gate  *gate
	begun bool
}

func (c *gated) Read(b []byte) (int, error) {
	if c.begun {
		<-c.gate.opened
		return c.Conn.Read(b)
	}
	c.begun = true
	defer close(c.gate.reached)
	return c.Conn.Read(b)
}

// download is a transfer under way.
type download struct {
	gate   *gate
	client *miniftp.Client
	done   chan struct{}
	data   []byte
	err    error
}

// startDownload starts a download and returns when its first bytes have arrived.
func startDownload(ctx context.Context, t *testing.T, l *lab.Lab, w miniftp.Way, name string) *download {
	t.Helper()
	d := &download{gate: newGate(t, l.Client), done: make(chan struct{})}
	d.client = labtest.Connect(ctx, t, d.gate, w.Server)
	go func() {
		defer close(d.done)
		d.data, d.err = d.client.Retr(ctx, w.Via, name)
	}()
	t.Cleanup(func() { d.gate.open(); <-d.done })
	select {
	case <-d.gate.reached:
	case <-d.done:
		t.Fatalf("the download ended: %v", d.err)
	}
	return d
}

// finish lets the download continue to its end and compares the content.
func (d *download) finish(ctx context.Context, t *testing.T, want []byte) {
	t.Helper()
	select {
	case <-d.done:
		t.Errorf("the download ended before it was let go on: %v", d.err)
	default:
	}
	d.gate.open()
	<-d.done
	if d.err != nil || !bytes.Equal(d.data, want) {
		t.Errorf("downloaded %d bytes, %v, that differ from the file's %d", len(d.data), d.err, len(want))
	}
	checkAlive(ctx, t, d.client)
}

// passive are the modes whose downloads a gate can stop.
func passive(l *lab.Lab) []miniftp.Way {
	return slices.DeleteFunc(miniftp.Ways(l.Server.Addrs()...), func(w miniftp.Way) bool { return w.Via.Active() })
}

// TestShutdown ends the daemon in the middle of a transfer, and starts it again.
// Established connections live on; new ones are blocked until the daemon is back.
func TestShutdown(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		signal os.Signal
		left   []string // what the daemon leaves
	}{
		{unix.SIGTERM, nil},
		{unix.SIGINT, nil},
		{unix.SIGKILL, []string{"table ftpctd"}},
	} {
		t.Run(tt.signal.String(), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			l := labtest.New(t, lab.Config{})
			s := &miniftp.Server{}
			labtest.Serve(t, l.Server, s)
			wantLarge, want := labtest.Content(largeFile), labtest.Content(smallFile)
			s.Put("large", wantLarge)
			s.Put("small", want)
			fw := installDropFirewall(t, l.Router, lab.Forward)
			retr := func(c *miniftp.Client, w miniftp.Way) {
				t.Helper()
				before := mustRead(t, fw.Related)
				got, err := c.Retr(ctx, w.Via, "small")
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: downloaded %d bytes, %v, that differ from the file's %d", w, len(got), err, len(want))
				}
				if got := mustRead(t, fw.Related) - before; got != 1 {
					t.Errorf("%s: %d related packets for 1 data connection", w, got)
				}
			}

			d := start(t, l.Router, "")
			idle := labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
			var downloads []*download
			for _, w := range passive(l) {
				downloads = append(downloads, startDownload(ctx, t, l, w, "large"))
			}

			if err := d.process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			d.killed = tt.signal == unix.SIGKILL
			if err := d.process.Wait(); (err != nil) != d.killed {
				t.Errorf("after %s the daemon ended with %v", tt.signal, err)
			}
			if diff := cmp.Diff(tt.left, traces(t, l.Router)); diff != "" {
				t.Errorf("left behind (-want +got):\n%s", diff)
			}

			expectTransferBlocked(ctx, t, fw.Dropped, idle, ftpparse.R227, "small")
			between := labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
			expectTransferBlocked(ctx, t, fw.Dropped, between, ftpparse.R229, "small")
			downloads[0].finish(ctx, t, wantLarge)

			start(t, l.Router, "")
			if diff := cmp.Diff(running, traces(t, l.Router)); diff != "" {
				t.Errorf("of the second daemon (-want +got):\n%s", diff)
			}
			for _, w := range miniftp.Ways(l.Server.Addrs()...) {
				retr(labtest.Connect(ctx, t, l.Client, w.Server), w)
			}
			// The helper that the first daemon assigned is still there.
			retr(idle, miniftp.Way{Via: ftpparse.R229, Server: l.Server.IPv4()})
			for _, d := range downloads[1:] {
				d.finish(ctx, t, wantLarge)
			}
		})
	}
}

// TestStaleExpectation kills the daemon while an expectation is outstanding: the next
// daemon removes it, and a helper of the first one that it does not use, whatever modes
// they run in.
func TestStaleExpectation(t *testing.T) {
	t.Parallel()
	for _, mode := range modes(t) {
		if mode == "entry" {
			continue // leaves none in the kernel
		}
		for _, next := range modes(t) {
			t.Run(mode+", then "+next, func(t *testing.T) {
				t.Parallel()
				staleExpectation(t, mode, next)
			})
		}
	}
}

func staleExpectation(t *testing.T, mode, next string) {
	t.Helper()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	labtest.Serve(t, l.Server, &miniftp.Server{})
	fw := installDropFirewall(t, l.Router, lab.Forward)
	helper := mode + "-" + next // no other test's: helpers are global
	config := func(mode string) string {
		return fmt.Sprintf("admit = %q\nhelper.name = %q\n", mode, helper)
	}
	t.Cleanup(func() { expectRegistered(t, helper, false) })

	d := start(t, l.Router, config(mode))
	c := labtest.Connect(ctx, t, l.Client, l.Server.IPv4())
	named := mustPASV(ctx, t, c)
	expectation := "expectation " + l.Client.IPv4().String() + " > " + named.String()
	if diff := cmp.Diff([]string{"table ftpctd", "queue 21", expectation, "lock"}, traces(t, l.Router)); diff != "" {
		t.Fatalf("of the daemon (-want +got):\n%s", diff)
	}
	d.kill(t)
	if diff := cmp.Diff([]string{"table ftpctd", expectation}, traces(t, l.Router)); diff != "" {
		t.Errorf("of the killed daemon (-want +got):\n%s", diff)
	}
	expectRegistered(t, helper, mode == "helper")
	start(t, l.Router, config(next))
	if diff := cmp.Diff(running, traces(t, l.Router)); diff != "" {
		t.Errorf("of the second daemon (-want +got):\n%s", diff)
	}
	expectRegistered(t, helper, next == "helper")
	expectBlocked(ctx, t, fw, l.Client, netip.AddrPort{}, named)
	checkAlive(ctx, t, c)
}

// expectRegistered fails the test unless the user-space helper is registered, or is not.
func expectRegistered(t *testing.T, name string, want bool) {
	t.Helper()
	kernel, err := ctnetlink.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	helpers, err := kernel.Helpers()
	if err != nil && !errors.Is(err, ctnetlink.ErrNoCTHelper) {
		t.Fatal(err)
	}
	got := slices.ContainsFunc(helpers, func(h ctnetlink.Helper) bool { return h.Name == name })
	if got != want {
		t.Errorf("helper %q registered: %t, want %t", name, got, want)
	}
}

// TestStaleExpectationInZone leaves an expectation in a conntrack zone, which the kernel
// omits when it lists the expectation.
func TestStaleExpectationInZone(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	labtest.Serve(t, l.Server, &miniftp.Server{})
	iptables(t, l.Router, `
		-t raw -A PREROUTING -p tcp --dport 21 -j CT --zone 7 --helper sane
		-t raw -A PREROUTING -j CT --zone 7
	`)
	c := connect(ctx, t, l)
	c.expectReply(t, 220)
	x := expectationOf(l, c.addr, 7)
	inConntrack(t, l, func(kernel *ctnetlink.Conn) error { return kernel.Expect(x) })
	if diff := cmp.Diff([]string{"expectation " + l.Client.IPv4().String() + " > " + x.Tuple.Dst.String()}, traces(t, l.Router)); diff != "" {
		t.Fatalf("before the daemon (-want +got):\n%s", diff)
	}
	d := start(t, l.Router, "")
	if diff := cmp.Diff(running, traces(t, l.Router)); diff != "" {
		t.Errorf("of the daemon (-want +got):\n%s", diff)
	}
	if n := d.log.count("removed stale expectation", "dst="+x.Tuple.Dst.String()); n != 1 {
		t.Errorf("withdrawn %d times in the log, want once", n)
	}
}

// TestExpectationOfKernelHelper leaves the expectations of the kernel's own helper "ftp" to
// it, though helper.name is the same.
func TestExpectationOfKernelHelper(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	labtest.Serve(t, l.Server, &miniftp.Server{})
	iptables(t, l.Router, "-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp")
	c := connect(ctx, t, l)
	c.expectReply(t, 220)
	x := expectationOf(l, c.addr, 0)
	inConntrack(t, l, func(kernel *ctnetlink.Conn) error { return kernel.Expect(x) })
	start(t, l.Router, "[helper]\nname = \"ftp\"\n")
	want := slices.Insert(slices.Clone(running), 2, "expectation "+l.Client.IPv4().String()+" > "+x.Tuple.Dst.String())
	if diff := cmp.Diff(want, traces(t, l.Router)); diff != "" {
		t.Errorf("of the daemon (-want +got):\n%s", diff)
	}
	inConntrack(t, l, func(kernel *ctnetlink.Conn) error { return kernel.Delete(x) })
}

// expectationOf is an expectation of a control connection in a zone.
func expectationOf(l *lab.Lab, client netip.AddrPort, zone uint16) *conntrack.Expectation {
	return &conntrack.Expectation{
		Zone:   zone,
		Master: conntrack.Tuple{Src: client, Dst: netip.AddrPortFrom(l.Server.IPv4(), lab.ControlPort)},
		Tuple:  conntrack.Tuple{Src: netip.AddrPortFrom(client.Addr(), 0), Dst: netip.AddrPortFrom(l.Server.IPv4(), 30000)},
	}
}

// inConntrack calls f with a socket of the router's network namespace.
func inConntrack(t *testing.T, l *lab.Lab, f func(*ctnetlink.Conn) error) {
	t.Helper()
	err := l.Router.Do(func() error {
		kernel, err := ctnetlink.Dial()
		if err != nil {
			return err
		}
		return errors.Join(f(kernel), kernel.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOlderConnection is a control connection that predates the daemon's rules, and so
// has no helper to attach expectations to.
func TestOlderConnection(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	l := labtest.New(t, lab.Config{})
	s := &miniftp.Server{}
	labtest.Serve(t, l.Server, s)
	fw := installDropFirewall(t, l.Router, lab.Forward)
	older := make(map[miniftp.Way]*miniftp.Client)
	for _, w := range miniftp.Ways(l.Server.Addrs()...) {
		older[w] = labtest.Connect(ctx, t, l.Client, w.Server)
	}
	start(t, l.Router, "")
	for _, w := range miniftp.Ways(l.Server.Addrs()...) {
		t.Run(w.String(), func(t *testing.T) {
			before := mustRead(t, fw.Related)
			labtest.RoundTrip(ctx, t, older[w], s, w)
			if got := mustRead(t, fw.Related) - before; got != 2 {
				t.Errorf("%d related packets for 2 data connections", got)
			}
		})
	}
}
