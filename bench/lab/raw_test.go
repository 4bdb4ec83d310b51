package lab_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
)

// TestWire sends segments across the lab in both directions, between unused addresses
// and to the host's own, whose kernel's reply to a SYN shows that the checksums are
// correct.
func TestWire(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t)
	l := labtest.New(t, lab.Config{})
	open := func(h *lab.Host, prefixes ...string) (*lab.Wire, *lab.Sniffer) {
		var parsed []netip.Prefix
		for _, p := range prefixes {
			parsed = append(parsed, netip.MustParsePrefix(p))
		}
		w, err := l.OpenWire(h, parsed...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.Close() })
		s, err := w.Sniff()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return w, s
	}
	left, fromRight := open(l.Client, "10.8.0.0/16", "fd08::/64")
	right, fromLeft := open(l.Server, "10.9.0.0/16", "fd09::/64")
	for _, tt := range []struct {
		name     string
		wire     *lab.Wire
		sniffer  *lab.Sniffer
		src, dst string
	}{
		{name: "IPv4", wire: left, sniffer: fromLeft, src: "10.8.0.1:1000", dst: "10.9.0.1:21"},
		{name: "IPv6", wire: left, sniffer: fromLeft, src: "[fd08::1]:1000", dst: "[fd09::1]:21"},
		{name: "IPv4, back", wire: right, sniffer: fromRight, src: "10.9.0.1:21", dst: "10.8.0.1:1000"},
		{name: "IPv6, back", wire: right, sniffer: fromRight, src: "[fd09::1]:21", dst: "[fd08::1]:1000"},
		{name: "forged, and back over the same wire", wire: right, sniffer: fromLeft, src: "10.8.0.1:1000", dst: "10.9.0.1:21"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := lab.Segment{
				Src: netip.MustParseAddrPort(tt.src), Dst: netip.MustParseAddrPort(tt.dst),
				Seq: 1 << 31, Ack: 7, Flags: lab.ACK | lab.PSH, Data: []byte("NOOP\r\n"), Closed: true,
			}
			if err := tt.wire.Send(want); err != nil {
				t.Fatal(err)
			}
			got, err := tt.sniffer.Wait(ctx, func(s lab.Segment) bool { return s.Src == want.Src })
			if err != nil {
				t.Fatal(err)
			}
			want.TTL = lab.DefaultTTL - 1
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
				t.Errorf("across the router (-want +got):\n%s", diff)
			}
		})
	}
	for _, addr := range l.Server.Addrs() {
		t.Run("a kernel answers "+addr.String(), func(t *testing.T) {
			labtest.Listen(ctx, t, l.Server, netip.AddrPortFrom(addr, lab.ControlPort))
			src := netip.MustParseAddrPort("10.8.0.1:2000")
			if addr.Is6() {
				src = netip.MustParseAddrPort("[fd08::1]:2000")
			}
			syn := lab.Segment{Src: src, Dst: netip.AddrPortFrom(addr, lab.ControlPort), Seq: 41, Flags: lab.SYN}
			if err := left.Send(syn); err != nil {
				t.Fatal(err)
			}
			got, err := fromRight.Wait(ctx, func(s lab.Segment) bool { return s.Dst == src })
			if err != nil {
				t.Fatal(err)
			}
			if got.Flags != lab.SYN|lab.ACK || got.Ack != syn.Next() || got.Next() != got.Seq+1 {
				t.Errorf("got %s", got)
			}
		})
	}
}
