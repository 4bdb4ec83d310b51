package conntrack

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ftpctd/nfq/packet"
)

// TestClientShare demands that one client gets a quarter of the table at most.
func TestClientShare(t *testing.T) {
	limit := []string{"open", "not-ftp client-limit"}
	tests := []struct {
		name  string
		addr  func(i int) string
		equal bool // they are one client
	}{
		{"one IPv4 address", func(int) string { return "192.0.2.10" }, true},
		{"several IPv4 addresses", func(i int) string { return fmt.Sprintf("192.0.2.%d", 10+i) }, false},
		{"one IPv6 network", func(i int) string { return fmt.Sprintf("2001:db8::%d", 10+i) }, true},
		{"several IPv6 networks", func(i int) string { return fmt.Sprintf("2001:db8:0:%d::1", i) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Connections, cfg.Observe = 16, l.observe
			tr := New(cfg)
			wires := make([]*wire, 5)
			for i := range wires {
				w := newWire(tr)
				wires[i] = w
				w.client = netip.AddrPortFrom(netip.MustParseAddr(tt.addr(i)), uint16(40000+i))
				if w.client.Addr().Is6() {
					w.server = netip.MustParseAddrPort("[2001:db8:ffff::1]:21")
				}
				l.take()
				w.login()
				want := []string{"open"}
				if tt.equal && i == 4 {
					want = limit
				}
				if diff := cmp.Diff(want, l.take()); diff != "" {
					t.Errorf("session %d: events (-want +got):\n%s", i, diff)
				}
				checkBooks(t, tr)
			}
			if !tt.equal {
				return
			}
			// When one closes, there is room for the next.
			wires[0].send(wires[0].client, wires[0].server, wires[0].cseq, 0, packet.RST, "")
			wires[4].cseq, wires[4].sseq = 5, 6
			l.take()
			wires[4].login()
			if diff := cmp.Diff([]string{"close closed", "open"}, l.take()); diff != "" {
				t.Errorf("after the end of one: events (-want +got):\n%s", diff)
			}
			checkBooks(t, tr)
		})
	}
}

// TestExpectationShare demands that one client gets a quarter of all expectations at most,
// in however many sessions.
func TestExpectationShare(t *testing.T) {
	const share = maxExpectations / sourceShare
	cfg := testConfig()
	sessions := share/cfg.MaxExpected + 1
	cfg.Connections = sourceShare * sessions
	tr := New(cfg)
	wires := make([]*wire, sessions)
	for i := range wires {
		w := newWire(tr)
		w.client = netip.AddrPortFrom(testClient.Addr(), uint16(40000+i))
		w.login()
		wires[i] = w
	}
	for n := range cfg.MaxExpected {
		for i, w := range wires {
			want := min(1, share-tr.expected.n)
			port := 2000 + i*cfg.MaxExpected + n
			d := w.c(fmt.Sprintf("PORT 192,0,2,10,%d,%d\r\n", port>>8, port&0xff))
			if len(d.Expect) != want {
				t.Fatalf("session %d, announcement %d: %d expectations, want %d; there are %d", i, n, len(d.Expect), want, tr.expected.n)
			}
		}
	}
	full := wires[0]
	if d := full.c("PORT 192,0,2,10,200,0\r\n"); len(d.Expect) != 1 || len(d.Withdraw) != 1 {
		t.Errorf("%+v, want one in place of another", d)
	}
	checkBooks(t, tr)
}

// TestKernelShare demands that expectations beyond a client's share of the kernel's table
// are marked.
func TestKernelShare(t *testing.T) {
	cfg := testConfig()
	cfg.KernelShare = 2
	tr := New(cfg)
	announce := func(w *wire, port int) bool {
		t.Helper()
		d := w.c(fmt.Sprintf("PORT 192,0,2,%d,10,%d\r\n", w.client.Addr().As4()[3], port))
		if len(d.Expect) != 1 {
			t.Fatalf("port %d: %+v, want an expectation", port, d)
		}
		return d.Expect[0].Overflow
	}
	one, same, other := newWire(tr), newWire(tr), newWire(tr)
	same.client = netip.AddrPortFrom(testClient.Addr(), 40001)
	other.client = netip.MustParseAddrPort("192.0.2.11:40000")
	for _, w := range []*wire{one, same, other} {
		w.login()
	}
	steps := []struct {
		name string
		w    *wire
		port int
		want bool
	}{
		{"first", one, 1, false},
		{"second, of another session", same, 2, false},
		{"third", one, 3, true},
		{"another client's", other, 4, false},
	}
	for _, s := range steps {
		if got := announce(s.w, s.port); got != s.want {
			t.Errorf("%s: Overflow %v, want %v", s.name, got, s.want)
		}
	}
	same.send(same.client, same.server, same.cseq, 0, packet.RST, "")
	one.c("NOOP\r\n")
	if d := one.c("PORT 192,0,2,10,10,1\r\n"); len(d.Expect) != 1 || d.Expect[0].Overflow {
		t.Errorf("after the end of a session: %+v, want room again", d)
	}
	checkBooks(t, tr)
}
