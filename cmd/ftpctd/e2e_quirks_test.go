package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
)

// toPeer is a host that connects to the server's own address whatever address a 227
// contains, as most clients do.
type toPeer struct {
	*lab.Host
	server netip.Addr
}

// DialTCP implements miniftp.Network.
func (n toPeer) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	return n.Host.DialTCP(ctx, local, netip.AddrPortFrom(n.server, remote.Port()))
}

// TestServerQuirks runs servers and clients with unusual behaviour: several transfers on
// each control connection, in all modes.
func TestServerQuirks(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		server *miniftp.Server
		client func(*miniftp.Client)
	}{
		{"replies byte by byte", &miniftp.Server{ByteWise: true}, nil},
		{"commands byte by byte", &miniftp.Server{}, func(c *miniftp.Client) { c.ByteWise = true }},
		{"connects before it answers PORT", &miniftp.Server{EagerConnect: true}, nil},
		{"announces a private address", &miniftp.Server{PassiveAddr: netip.MustParseAddr("10.0.0.5")}, nil},
		{"greets at length", &miniftp.Server{Greeting: "220-Hello\r\n227 (192,168,0,1,4,1)\r\n220 there"}, nil},
		{"listens before it says so", &miniftp.Server{PassiveDelay: 30 * time.Millisecond}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			l := labtest.New(t, lab.Config{})
			labtest.Serve(t, l.Server, tt.server)
			fw := installDropFirewall(t, l.Router, lab.Forward)
			start(t, l.Router, "")
			for _, w := range miniftp.Ways(l.Server.Addrs()...) {
				t.Run(w.String(), func(t *testing.T) {
					before := mustRead(t, fw.Related)
					c := labtest.Connect(ctx, t, toPeer{l.Client, w.Server}, w.Server)
					if tt.client != nil {
						tt.client(c)
					}
					const rounds = 3
					for range rounds {
						labtest.RoundTrip(ctx, t, c, tt.server, w)
					}
					if _, err := c.List(ctx, w.Via); err != nil {
						t.Error(err)
					}
					if err := c.Quit(ctx); err != nil {
						t.Error(err)
					}
					if got := mustRead(t, fw.Related) - before; got != 2*rounds+1 {
						t.Errorf("%d related packets for %d data connections", got, 2*rounds+1)
					}
				})
			}
			if n := mustRead(t, fw.Dropped); n != 0 {
				t.Errorf("%d packets dropped", n)
			}
		})
	}
}

// retransmitted returns how many SYNs and SYN/ACKs a host has retransmitted.
func retransmitted(t *testing.T, h *lab.Host) uint64 {
	t.Helper()
	text := netFile(t, h, "netstat")
	// A line of names and one of values for each group.
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(names) == len(fields) && names[0] == fields[0] {
			if i := slices.Index(names, "TCPSynRetrans"); i >= 0 {
				n, err := strconv.ParseUint(fields[i], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		names = fields
	}
	t.Fatalf("no TCPSynRetrans in %s", text)
	return 0
}

// TestManyClients runs many control connections at a time, with several transfers each.
// All must succeed, by exactly as many RELATED packets, unless the machine is so busy
// that some are retransmitted.
func TestManyClients(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, config string }{
		{"one queue", ""},
		{"two queues", "[queue]\ncount = 2\n"},
		{"entries", "admit = \"entry\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const connections, transfers = 50, 10
			ctx := testContext(t)
			l := labtest.New(t, lab.Config{})
			s := &miniftp.Server{DataTimeout: labtest.Patience}
			labtest.Serve(t, l.Server, s)
			want := labtest.Content(5000)
			s.Put("file", want)
			fw := installDropFirewall(t, l.Router, lab.Forward)
			d := start(t, l.Router, tt.config)
			all := miniftp.Ways(l.Server.Addrs()...)
			errs := make([]error, connections)
			var crowd sync.WaitGroup
			for i := range connections {
				w := all[i%len(all)]
				c := labtest.Connect(ctx, t, l.Client, w.Server)
				c.DataTimeout = labtest.Patience
				crowd.Go(func() {
					for n := range transfers {
						got, err := c.Retr(ctx, w.Via, "file")
						if err == nil && !bytes.Equal(got, want) {
							err = errors.New("another file came")
						}
						if err != nil {
							errs[i] = fmt.Errorf("connection %d, transfer %d, %s: %w", i, n, w, err)
							return
						}
					}
					errs[i] = c.Quit(ctx)
				})
			}
			crowd.Wait()
			if err := errors.Join(errs...); err != nil {
				t.Error(err)
			}
			// A first packet that the daemon, or whom it is for, has not come round to
			// in a second is sent again, and is RELATED again.
			again := retransmitted(t, l.Client) + retransmitted(t, l.Server)
			if got := mustRead(t, fw.Related); got < connections*transfers || got > connections*transfers+again {
				t.Errorf("%d related packets for %d data connections, %d first packets sent again", got, connections*transfers, again)
			}
			if n := mustRead(t, fw.Dropped); n != 0 {
				t.Errorf("%d packets dropped", n)
			}
			if n := d.log.count("level=WARN") + d.log.count("level=ERROR"); n != 0 {
				t.Errorf("%d warnings and errors in the log", n)
			}
		})
	}
}
