package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/ftpparse"
)

// What a flood may cost the daemon. Each is far above what it takes, and far below
// what it would if every line, packet or connection of a flood were logged or kept.
const (
	maxLog = 64 << 10  // bytes
	maxRSS = 512 << 20 // bytes, of a program that may be built for the race detector
)

// manyLines is a segment full of lines that are rejected.
var manyLines = strings.Repeat("PORT 1\r\n", 181)

// TestFlood is an honest client that sends NOOP during each flood, and transfers files
// over its session and a new one.
func TestFlood(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		config string
		// begin prepares the flood and returns it. It ends by itself.
		begin func(ctx context.Context, t *testing.T, s *stage) func() error
	}{
		{name: "refused lines of one connection", begin: func(ctx context.Context, t *testing.T, s *stage) func() error {
			k := s.crowd(ctx, 0)
			k.handshake(t)
			k.say(t, k.server, "220 hello\r\n")
			k.say(t, k.client, "NOOP\r\n")
			return func() error {
				return repeat(500, func(int) error { return k.push(k.client, manyLines) })
			}
		}},
		{name: "segments of connections that nobody opened", begin: func(ctx context.Context, _ *testing.T, s *stage) func() error {
			return func() error {
				return repeat(1000, func(i int) error {
					k := s.crowd(ctx, i)
					return k.push(k.client, manyLines)
				})
			}
		}},
		{name: "announcements that supersede each other", begin: func(ctx context.Context, t *testing.T, s *stage) func() error {
			sessions := s.sessions(ctx, t, 64, false)
			return func() error {
				// Fewer than the queue holds: what it does not hold passes unread.
				return repeat(2000, func(i int) error {
					k := sessions[i%len(sessions)]
					var lines strings.Builder
					for n := range 8 {
						port := uint16(10_000 + (i*8+n)%50_000)
						lines.WriteString(announce(netip.AddrPortFrom(k.client.addr.Addr(), port)) + "\r\n")
					}
					return k.push(k.client, lines.String())
				})
			}
		}},
		{name: "sessions that announce the same endpoint", begin: func(ctx context.Context, t *testing.T, s *stage) func() error {
			sessions := s.sessions(ctx, t, 100, true)
			line := announce(netip.AddrPortFrom(sessions[0].client.addr.Addr(), secretPort)) + "\r\n"
			return func() error {
				return repeat(2000, func(i int) error {
					k := sessions[i%len(sessions)]
					return k.push(k.client, line)
				})
			}
		}},
		{name: "announcements of connections that nobody opened", begin: func(ctx context.Context, _ *testing.T, s *stage) func() error {
			return func() error {
				return repeat(6000, func(i int) error {
					k := s.crowd(ctx, i)
					line := announce(netip.AddrPortFrom(k.client.addr.Addr(), secretPort)) + "\r\n"
					return errors.Join(k.push(k.client, "NOOP\r\n"), k.push(k.client, line))
				})
			}
		}},
		{name: "sessions of one client that fill the kernel's table", begin: func(ctx context.Context, t *testing.T, s *stage) func() error {
			// nf_conntrack_expect_max is 4096 or less, unless it was raised.
			sessions := s.sessions(ctx, t, 4300, true)
			for batch := range slices.Chunk(sessions, 200) {
				for i, k := range batch {
					line := announce(netip.AddrPortFrom(k.client.addr.Addr(), k.client.addr.Port())) + "\r\n"
					if err := k.push(k.client, line); err != nil {
						t.Fatal(err)
					}
					if i == len(batch)-1 {
						k.fence(t)
					}
				}
			}
			return func() error { return nil }
		}},
		{name: "half-open connections", config: "[limits]\nconnections = 64\n", begin: func(ctx context.Context, _ *testing.T, s *stage) func() error {
			return func() error {
				return repeat(1000, func(i int) error {
					k := s.crowd(ctx, i)
					syn := k.segment(k.client, lab.SYN, "")
					k.client.next++
					return errors.Join(k.client.wire.Send(syn), k.server.wire.Send(k.segment(k.server, lab.SYN|lab.ACK, "")))
				})
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, config string) {
				ctx := testContext(t)
				s := newStage(t)
				server := &miniftp.Server{}
				want := labtest.Content(smallFile)
				server.Put("file", want)
				labtest.Serve(t, s.inside, server)
				d := startSilent(t, s.Router, config+tt.config)
				flood := tt.begin(ctx, t, s)
				honest := labtest.Connect(ctx, t, s.outside, s.inside.IPv4())
				slow := labtest.Dial(ctx, t, s.outside, netip.AddrPortFrom(s.inside.IPv4(), lab.ControlPort)) // greeted, not logged in

				done := make(chan error, 1)
				go func() { done <- flood() }()
				for range 50 {
					checkAlive(ctx, t, honest)
				}
				expectDownload(ctx, t, labtest.Connect(ctx, t, s.outside, s.inside.IPv4()), want)
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if err := slow.Login(ctx, "anonymous", "lab@example.com"); err != nil {
					t.Fatal(err)
				}
				expectDownload(ctx, t, slow, want)
				expectDownload(ctx, t, honest, want)
				if n := len(d.log.String()); n > maxLog {
					t.Errorf("the log has %d bytes, want at most %d", n, maxLog)
				}
				if n := rss(t, d); n > maxRSS {
					t.Errorf("the daemon has %d bytes of memory, want at most %d", n, maxRSS)
				}
			})
		})
	}
}

// TestFloodDownload downloads from a web server inside with the source port of a control
// connection. The packets must not even be queued: their sender is a server.
func TestFloodDownload(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, config string) {
		ctx := testContext(t)
		s := newStage(t)
		s.openPort(t, 80)
		server := &miniftp.Server{}
		want := labtest.Content(smallFile)
		server.Put("file", want)
		labtest.Serve(t, s.inside, server)
		d := startSilent(t, s.Router, config)
		honest := labtest.Connect(ctx, t, s.outside, s.inside.IPv4())
		web := netip.AddrPortFrom(s.inside.IPv4(), 80)
		const size = 4 << 20
		says(ctx, t, s.inside, web, strings.Repeat("PORT 1\r\n", size/8))
		conn, err := s.outside.DialTCP(ctx, netip.AddrPortFrom(s.outside.IPv4(), lab.ControlPort), web)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		before := queued(t, s.Router)
		done := make(chan error, 1)
		go func() {
			_, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
			if err == nil {
				_, err = io.CopyN(io.Discard, conn, size)
			}
			done <- err
		}()
		for range 50 {
			checkAlive(ctx, t, honest)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		// 50 commands and replies, each acknowledged; the download is of some 3000
		// segments.
		if n := queued(t, s.Router) - before; n > 300 {
			t.Errorf("%d packets were queued", n)
		}
		expectDownload(ctx, t, honest, want)
		if n := len(d.log.String()); n > maxLog {
			t.Errorf("the log has %d bytes, want at most %d", n, maxLog)
		}
	})
}

// expectDownload downloads a file twice, in passive and active mode.
func expectDownload(ctx context.Context, t *testing.T, c *miniftp.Client, want []byte) {
	t.Helper()
	for _, via := range []ftpparse.Via{ftpparse.R227, ftpparse.PORT} {
		got, err := c.Retr(ctx, via, "file")
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("via %s: downloaded %d bytes, %v, that differ from the file's %d", via, len(got), err, len(want))
		}
	}
}

// rss returns the memory of a daemon, in bytes.
func rss(t *testing.T, d *daemon) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.process.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		t.Fatal("no VmRSS")
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// repeat calls a function until it fails.
func repeat(n int, f func(i int) error) error {
	for i := range n {
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

// crowd returns a connection from one of many hosts outside to a server inside.
func (s *stage) crowd(ctx context.Context, i int) *talk {
	client := netip.AddrFrom4([4]byte{10, 9, byte(1 + i>>8), byte(i)})
	return s.talk(ctx, netip.AddrPortFrom(client, 5000), netip.AddrPortFrom(netip.MustParseAddr("10.8.0.2"), lab.ControlPort))
}

// push sends data and does not wait.
func (k *talk) push(from *side, data string) error {
	s := k.segment(from, lab.ACK|lab.PSH, data)
	from.next = s.Next()
	return from.wire.Send(s)
}

// fence waits until everything that the client has sent has passed the router.
func (k *talk) fence(t *testing.T) {
	t.Helper()
	k.say(t, k.client, "NOOP\r\n")
}

// sessions returns sessions that have logged in, of one client or of a client each. They
// take their steps in batches, so that their packets do not fill the queue.
func (s *stage) sessions(ctx context.Context, t *testing.T, n int, oneClient bool) []*talk {
	t.Helper()
	all := make([]*talk, n)
	for i := range all {
		k := s.crowd(ctx, i)
		if oneClient {
			k.client.addr = netip.AddrPortFrom(attackerIPv4, uint16(10_000+i))
		}
		all[i] = k
	}
	steps := []struct {
		server bool
		flags  lab.Flags
		data   string
	}{
		{false, lab.SYN, ""},
		{true, lab.SYN | lab.ACK, ""},
		{false, lab.ACK, ""},
		{true, lab.ACK | lab.PSH, "220 hello\r\n"},
		{false, lab.ACK | lab.PSH, "USER anonymous\r\n"},
		{true, lab.ACK | lab.PSH, "331 which password?\r\n"},
		{false, lab.ACK | lab.PSH, "PASS lab@example.com\r\n"},
		{true, lab.ACK | lab.PSH, "230 logged in\r\n"},
	}
	for batch := range slices.Chunk(all, 200) {
		for _, step := range steps {
			for i, k := range batch {
				from := k.client
				if step.server {
					from = k.server
				}
				segment := k.segment(from, step.flags, step.data)
				from.next = segment.Next()
				k.send(t, from, segment)
				if i == len(batch)-1 {
					k.crossed(t, segment)
				}
			}
		}
	}
	return all
}
