package conntrack

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ftpctd/ftpparse"
	"ftpctd/nfq/packet"
)

var compareAddrs = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

// TestNAT runs control connections with NAT. In the packets the client is always
// 192.0.2.10:40000 and the server 198.51.100.20:21.
func TestNAT(t *testing.T) {
	const (
		pasv       = "PASV\r\n"
		own, outer = "227 (198,51,100,20,122,8)\r\n", "227 (203,0,113,1,122,8)\r\n"
	)
	ap := netip.MustParseAddrPort
	ends := Tuple{Src: testClient, Dst: testServer}
	clientBehind := Connection{Original: ends, Reply: Tuple{Src: testServer, Dst: ap("203.0.113.9:1024")}}
	serverBehind := Connection{Original: Tuple{Src: testClient, Dst: ap("203.0.113.1:2121")}, Reply: ends.reverse()}
	bothBehind := Connection{Original: serverBehind.Original, Reply: clientBehind.Reply, Zone: 7}
	otherPort := Connection{Original: Tuple{Src: testClient, Dst: ap("198.51.100.20:2121")}, Reply: ends.reverse()}

	passive := func(c Connection, dst string, nat bool) Expectation {
		return Expectation{
			Zone: c.Zone, Master: c.Original, AddrNAT: c.hasAddrNAT(), NAT: nat, Via: ftpparse.R227,
			Tuple: Tuple{Src: netip.AddrPortFrom(testClient.Addr(), 0), Dst: ap(dst)},
		}
	}
	active := func(c Connection, dst string, nat bool) Expectation {
		return Expectation{
			Zone: c.Zone, Master: c.Original, AddrNAT: c.hasAddrNAT(), NAT: nat, Via: ftpparse.PORT,
			Tuple: Tuple{Src: netip.AddrPortFrom(testServer.Addr(), 0), Dst: ap(dst)},
		}
	}
	tests := []struct {
		name    string
		kernel  Connection
		address AddressPolicy
		play    func(w *wire) Decision
		want    []Expectation
		why     string
	}{
		{
			name: "passive, client behind NAT", kernel: clientBehind, address: AddressPeer,
			play: func(w *wire) Decision { w.c(pasv); return w.s(own) },
			want: []Expectation{passive(clientBehind, "198.51.100.20:31240", true)},
		},
		{
			name: "passive, server behind NAT names itself", kernel: serverBehind, address: AddressPeer,
			play: func(w *wire) Decision { w.c(pasv); return w.s(own) },
			want: []Expectation{passive(serverBehind, "203.0.113.1:31240", true)},
		},
		{
			name: "passive, another port of the server itself", kernel: otherPort, address: AddressPeer,
			play: func(w *wire) Decision { w.c(pasv); return w.s(own) },
			want: []Expectation{{
				Master: otherPort.Original, NAT: true, Via: ftpparse.R227,
				Tuple: Tuple{Src: netip.AddrPortFrom(testClient.Addr(), 0), Dst: ap("198.51.100.20:31240")},
			}},
		},
		{
			name: "passive, server behind NAT names its outer address", kernel: serverBehind, address: AddressStrict,
			play: func(w *wire) Decision { w.c(pasv); return w.s(outer) },
			want: []Expectation{passive(serverBehind, "203.0.113.1:31240", true)},
		},
		{
			name: "passive, server behind NAT names itself, strict", kernel: serverBehind, address: AddressStrict,
			play: func(w *wire) Decision { w.c(pasv); return w.s(own) },
			want: []Expectation{passive(serverBehind, "203.0.113.1:31240", true)},
		},
		{
			name: "passive, server behind NAT names a third host, trusted", kernel: serverBehind, address: AddressReply,
			play: func(w *wire) Decision { w.c(pasv); return w.s("227 (192,0,2,99,122,8)\r\n") },
			want: []Expectation{passive(serverBehind, "192.0.2.99:31240", false)},
		},
		{
			name: "passive, both behind NAT, in a zone", kernel: bothBehind, address: AddressPeer,
			play: func(w *wire) Decision { w.c(pasv); return w.s(own) },
			want: []Expectation{passive(bothBehind, "203.0.113.1:31240", true)},
		},
		{
			name: "active, server behind NAT", kernel: serverBehind, address: AddressPeer,
			play: func(w *wire) Decision { return w.c("PORT 192,0,2,10,154,208\r\n") },
			want: []Expectation{active(serverBehind, "192.0.2.10:39632", true)},
		},
		{
			name: "active, client behind NAT names its outer address", kernel: clientBehind, address: AddressPeer,
			play: func(w *wire) Decision { return w.c("PORT 203,0,113,9,154,208\r\n") },
			want: []Expectation{active(clientBehind, "203.0.113.9:39632", true)},
		},
		{
			name: "active, client behind NAT names itself", kernel: clientBehind, address: AddressPeer,
			play: func(w *wire) Decision { return w.c("PORT 192,0,2,10,154,208\r\n") },
			why:  "reject PORT 198.51.100.20 > 192.0.2.10:39632 active-behind-nat",
		},
		{
			name: "active, client behind NAT names a third host", kernel: clientBehind, address: AddressPeer,
			play: func(w *wire) Decision { return w.c("PORT 192,0,2,99,154,208\r\n") },
			why:  "reject PORT 198.51.100.20 > 192.0.2.99:39632 foreign-address",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l log
			cfg := testConfig()
			cfg.Policy.PassiveAddress = tt.address
			cfg.Observe = l.observe
			asked := 0
			cfg.Lookup = func(_ *packet.Packet, got Tuple) (Connection, bool) {
				asked++
				if got != ends {
					t.Errorf("asked for the connection between %v, want %v", got, ends)
				}
				found := tt.kernel
				found.State = StateSynRecv
				return found, true
			}
			tr := New(cfg)
			w := newWire(tr)
			w.zone = tt.kernel.Zone
			w.login()
			l.take()
			d := tt.play(w)
			if diff := cmp.Diff(tt.want, append([]Expectation(nil), d.Expect...), compareAddrs); diff != "" {
				t.Errorf("expectations (-want +got):\n%s", diff)
			}
			if events := l.take(); tt.why != "" && (len(events) != 1 || events[0] != tt.why) {
				t.Errorf("events %q, want %q", events, tt.why)
			}
			if asked != 1 {
				t.Errorf("conntrack was asked %d times, want only for the handshake", asked)
			}
			// The kernel must get the same expectation again for the withdrawal.
			d = w.send(w.client, w.server, w.cseq, 0, packet.RST, "")
			if diff := cmp.Diff(tt.want, append([]Expectation(nil), d.Withdraw...), compareAddrs); diff != "" {
				t.Errorf("withdrawn (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLookupOnce demands that conntrack is asked again only if its answer may differ.
func TestLookupOnce(t *testing.T) {
	ends := Tuple{Src: testClient, Dst: testServer}
	behind := Connection{Original: ends, Reply: Tuple{Src: testServer, Dst: netip.MustParseAddrPort("203.0.113.9:1024")}}
	kernel, known, asked := behind, true, 0
	var l log
	cfg := testConfig()
	cfg.Observe = l.observe
	cfg.Lookup = func(*packet.Packet, Tuple) (Connection, bool) {
		asked++
		found := kernel
		found.State = StateSynRecv
		return found, known
	}
	tr := New(cfg)
	w := newWire(tr)
	w.login()
	announce := func(name string, want int, nat bool) Expectation {
		t.Helper()
		w.c("PASV\r\n")
		d := w.s("227 (198,51,100,20,122,8)\r\n")
		if len(d.Expect) != 1 || d.Expect[0].NAT != nat {
			t.Fatalf("%s: %+v, want an expectation with NAT %v", name, d.Expect, nat)
		}
		if asked != want {
			t.Errorf("%s: conntrack was asked %d times, want %d", name, asked, want)
		}
		return d.Expect[0]
	}
	announce("first line", 1, true)
	x := announce("second line", 1, true)
	kernel = withoutNAT(0, ends)
	tr.Reject(tr.now, &x, NoMaster)
	announce("after a rejection", 2, false)
	kernel = behind
	x = announce("nothing new to ask", 2, false)
	tr.Reject(tr.now, &x, NoMaster)
	x = announce("after another rejection", 3, true)
	tr.Reject(tr.now, &x, NoMaster)
	known = false
	l.take()
	w.c("PASV\r\n")
	w.s("227 (198,51,100,20,122,8)\r\n")
	if diff := cmp.Diff([]string{"reject 227 192.0.2.10 > 198.51.100.20:31240 no-master"}, l.take()); diff != "" {
		t.Errorf("after a third, which conntrack does not confirm (-want +got):\n%s", diff)
	}
	known = true
	announce("confirmed again", 5, true)
	w.send(w.client, w.server, w.cseq, 0, packet.RST, "")
	w.cseq, w.sseq = w.cseq+1000, w.sseq+1000
	w.login()
	announce("new connection", 6, true)
}

// TestZones opens connections between the same addresses and ports in two zones, which
// expect the same endpoint.
func TestZones(t *testing.T) {
	tr := New(testConfig())
	one, two := newWire(tr), newWire(tr)
	one.zone, two.zone = 1, 2
	two.cseq, two.sseq = 5000, 7000
	one.login()
	two.login()
	one.c("PASV\r\n")
	two.c("PASV\r\n")
	for _, w := range []*wire{one, two} {
		d := w.s("227 (198,51,100,20,122,8)\r\n")
		if len(d.Expect) != 1 || d.Expect[0].Zone != w.zone || d.Conflict {
			t.Errorf("zone %d: %+v, want an expectation of that zone, without a conflict", w.zone, d)
		}
	}
	d := one.send(one.client, one.server, one.cseq, 0, packet.RST, "")
	if len(d.Withdraw) != 1 || d.Withdraw[0].Zone != 1 {
		t.Errorf("withdrawn %+v, want the one of zone 1", d.Withdraw)
	}
	if s := tr.Stats(); s.Sessions != 2 || s.Outstanding != 1 {
		t.Errorf("%+v, want two sessions and one expectation", s)
	}
	// Entries are made in the default zone.
	if x, ok := tr.Consume(netip.AddrPortFrom(testClient.Addr(), 50000), netip.MustParseAddrPort("198.51.100.20:31240")); ok {
		t.Errorf("%+v serves the default zone", x)
	}
}
