package conntrack

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ftpctd/nfq/packet"
)

func TestOpaqueHosts(t *testing.T) {
	tr := New(testConfig())
	hosts := []HostPair{{Client: testClient.Addr(), Server: testServer.Addr()}}
	auth := func(w *wire) Decision {
		w.handshake()
		w.s("220 r\r\n")
		w.c("AUTH TLS\r\n")
		return w.s("234 go\r\n")
	}
	first, second := newWire(tr), newWire(tr)
	second.client = netip.MustParseAddrPort("192.0.2.10:40001")

	if _, ok := tr.OpaqueMaster(testClient.Addr(), testServer.Addr()); ok {
		t.Error("opaque before AUTH")
	}
	if d := auth(first); !slices.Equal(d.TLSStarted, hosts) {
		t.Errorf("first: %+v", d)
	}
	if d := auth(second); !slices.Equal(d.TLSStarted, hosts) {
		t.Errorf("second: %+v, want the hosts again, to restart their time", d)
	}
	if m, ok := tr.OpaqueMaster(testClient.Addr(), testServer.Addr()); !ok || m.Src != second.client {
		t.Errorf("master %v, %v, want the newest", m, ok)
	}
	if _, ok := tr.OpaqueMaster(netip.MustParseAddr("192.0.2.11"), testServer.Addr()); ok {
		t.Error("another client has a master")
	}
	if got := slices.Collect(tr.OpaqueHosts()); !slices.Equal(got, hosts) {
		t.Errorf("opaque hosts %v, want %v", got, hosts)
	}
	if d := first.send(first.server, first.client, first.sseq, 0, packet.RST, ""); !d.Idle() {
		t.Errorf("end of the first: %+v, want nothing: the second is open", d)
	}
	for _, w := range []struct {
		typ      byte
		toServer bool
	}{{22, true}, {22, false}, {21, true}, {21, false}} {
		record := string([]byte{w.typ, 3, 3, 0, 1, 'x'})
		if w.toServer {
			second.c(record)
		} else {
			second.s(record)
		}
	}
	second.c("NOOP\r\n")
	if d := second.s("200 ok\r\n"); !slices.Equal(d.TLSEnded, hosts) {
		t.Errorf("after CCC: %+v", d)
	}
	if _, ok := tr.OpaqueMaster(testClient.Addr(), testServer.Addr()); ok {
		t.Error("opaque after CCC")
	}
	if got := slices.Collect(tr.OpaqueHosts()); len(got) != 0 {
		t.Errorf("after CCC the opaque hosts are %v, want none", got)
	}
	if d := second.send(second.server, second.client, second.sseq, 0, packet.RST, ""); !d.Idle() {
		t.Errorf("end of the second: %+v", d)
	}
}

// TestOpaqueChain closes opaque connections between the same hosts in every order.
func TestOpaqueChain(t *testing.T) {
	for _, order := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			tr := New(testConfig())
			var wires [3]*wire
			for i := range wires {
				w := newWire(tr)
				w.client = netip.AddrPortFrom(testClient.Addr(), uint16(40000+i))
				w.handshake()
				w.s("220 r\r\n")
				w.c("AUTH TLS\r\n")
				w.s("234 go\r\n")
				wires[i] = w
			}
			open := map[int]bool{0: true, 1: true, 2: true}
			for n, i := range order {
				newest := 0
				for j := range open {
					newest = max(newest, j)
				}
				if m, ok := tr.OpaqueMaster(testClient.Addr(), testServer.Addr()); !ok || m.Src != wires[newest].client {
					t.Errorf("%d open: master %v, %v, want %v", len(open), m, ok, wires[newest].client)
				}
				d := wires[i].send(wires[i].client, wires[i].server, wires[i].cseq, 0, packet.RST, "")
				if (len(d.TLSEnded) == 1) != (n == 2) {
					t.Errorf("end %d: %+v, want the hosts only at the last", n, d)
				}
				delete(open, i)
				checkBooks(t, tr)
			}
		})
	}
}

// TestOpaqueBehindNAT demands that a connection with NAT is no master of data connections
// whose announcement cannot be parsed: they would not get its NAT.
func TestOpaqueBehindNAT(t *testing.T) {
	ends := Tuple{Src: testClient, Dst: testServer}
	outside := netip.MustParseAddrPort("203.0.113.9:1024")
	tests := []struct {
		name   string
		kernel Connection
		event  string
	}{
		{"no NAT", withoutNAT(0, ends), "opaque auth"},
		{"client behind NAT", Connection{Original: ends, Reply: Tuple{Src: testServer, Dst: outside}}, "opaque translated"},
		{"another port of the server itself", Connection{Original: Tuple{Src: testClient, Dst: netip.AddrPortFrom(testServer.Addr(), 2121)}, Reply: ends.reverse()}, "opaque auth"},
		{"server behind NAT", Connection{Original: Tuple{Src: testClient, Dst: outside}, Reply: ends.reverse()}, "opaque translated"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Observe = l.observe
			tt.kernel.State = StateSynRecv
			cfg.Lookup = func(*packet.Packet, Tuple) (Connection, bool) { return tt.kernel, true }
			tr := New(cfg)
			w := newWire(tr)
			w.handshake()
			w.s("220 r\r\n")
			w.c("AUTH TLS\r\n")
			d := w.s("234 go\r\n")
			if diff := cmp.Diff([]string{"open", tt.event}, l.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			want := tt.event == "opaque auth"
			if got := len(d.TLSStarted) > 0; got != want {
				t.Errorf("decision %+v, want hosts in it: %v", d, want)
			}
			if _, got := tr.OpaqueMaster(testClient.Addr(), testServer.Addr()); got != want {
				t.Errorf("is a master: %v, want %v", got, want)
			}
			if d := w.send(w.server, w.client, w.sseq, 0, packet.RST, ""); (len(d.TLSEnded) > 0) != want {
				t.Errorf("at the end %+v, want hosts in it: %v", d, want)
			}
		})
	}
}
