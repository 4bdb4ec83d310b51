package ctnetlink

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"

	"ftpctd/conntrack"
	"ftpctd/ftpparse"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func active4() *conntrack.Expectation {
	return &conntrack.Expectation{
		Master: conntrack.Tuple{Src: addrPort("192.168.0.211:40001"), Dst: addrPort("203.0.113.1:21")},
		Tuple:  conntrack.Tuple{Src: addrPort("203.0.113.1:0"), Dst: addrPort("192.168.0.211:39632")},
		Via:    ftpparse.PORT,
	}
}

func passive6() *conntrack.Expectation {
	return &conntrack.Expectation{
		Master: conntrack.Tuple{Src: addrPort("[fd00::2]:40001"), Dst: addrPort("[fd00::1]:21")},
		Tuple:  conntrack.Tuple{Src: addrPort("[fd00::2]:0"), Dst: addrPort("[fd00::1]:31240")},
		Via:    ftpparse.R229,
	}
}

// mapped is active4 with every address spelled as IPv6, and a source port that
// must not be taken literally.
func mapped() *conntrack.Expectation {
	x := active4()
	for _, t := range []*conntrack.Tuple{&x.Master, &x.Tuple} {
		t.Src = netip.AddrPortFrom(netip.AddrFrom16(t.Src.Addr().As16()), t.Src.Port())
		t.Dst = netip.AddrPortFrom(netip.AddrFrom16(t.Dst.Addr().As16()), t.Dst.Port())
	}
	x.Tuple.Src = netip.AddrPortFrom(x.Tuple.Src.Addr(), 20)
	return x
}

// Golden messages: hexadecimal, with a comment after each "#". The headers of
// netlink and of attributes are in the byte order of the host; these dumps are
// of a little-endian one.
const (
	newActive4 = `
b0000000 0002 0106 07000000 00000000 # nlmsghdr: 176 bytes, EXP_NEW, REQUEST|EXCL|CREATE, seq 7, port 0
02 00 0000                           # nfgenmsg: AF_INET, version 0, res_id 0
3400 0180                            # CTA_EXPECT_MASTER
  1400 0180                          #   CTA_TUPLE_IP
    0800 0100 c0a800d3               #     CTA_IP_V4_SRC 192.168.0.211
    0800 0200 cb007101               #     CTA_IP_V4_DST 203.0.113.1
  1c00 0280                          #   CTA_TUPLE_PROTO
    0500 0100 06 000000              #     CTA_PROTO_NUM TCP
    0600 0200 9c41 0000              #     CTA_PROTO_SRC_PORT 40001
    0600 0300 0015 0000              #     CTA_PROTO_DST_PORT 21
3400 0280                            # CTA_EXPECT_TUPLE
  1400 0180
    0800 0100 cb007101               #     203.0.113.1
    0800 0200 c0a800d3               #     192.168.0.211
  1c00 0280
    0500 0100 06 000000
    0600 0200 0000 0000              #     any source port
    0600 0300 9ad0 0000              #     39632
3400 0380                            # CTA_EXPECT_MASK
  1400 0180
    0800 0100 ffffffff
    0800 0200 ffffffff
  1c00 0280
    0500 0100 06 000000
    0600 0200 0000 0000
    0600 0300 ffff 0000`

	newPassive6 = `
f8000000 0002 0106 08000000 00000000 # nlmsghdr: 248 bytes, EXP_NEW, REQUEST|EXCL|CREATE, seq 8, port 0
0a 00 0000                           # nfgenmsg: AF_INET6
4c00 0180                            # CTA_EXPECT_MASTER
  2c00 0180                          #   CTA_TUPLE_IP
    1400 0300 fd000000000000000000000000000002 # CTA_IP_V6_SRC
    1400 0400 fd000000000000000000000000000001 # CTA_IP_V6_DST
  1c00 0280                          #   CTA_TUPLE_PROTO
    0500 0100 06 000000
    0600 0200 9c41 0000
    0600 0300 0015 0000
4c00 0280                            # CTA_EXPECT_TUPLE
  2c00 0180
    1400 0300 fd000000000000000000000000000002
    1400 0400 fd000000000000000000000000000001
  1c00 0280
    0500 0100 06 000000
    0600 0200 0000 0000
    0600 0300 7a08 0000              #     31240
4c00 0380                            # CTA_EXPECT_MASK
  2c00 0180
    1400 0300 ffffffffffffffffffffffffffffffff
    1400 0400 ffffffffffffffffffffffffffffffff
  1c00 0280
    0500 0100 06 000000
    0600 0200 0000 0000
    0600 0300 ffff 0000`

	deleteActive4 = `
48000000 0202 0100 09000000 00000000 # nlmsghdr: 72 bytes, EXP_DELETE, REQUEST, seq 9, port 0
02 00 0000
3400 0280                            # CTA_EXPECT_TUPLE
  1400 0180
    0800 0100 cb007101
    0800 0200 c0a800d3
  1c00 0280
    0500 0100 06 000000
    0600 0200 0000 0000
    0600 0300 9ad0 0000`

	deletePassive6 = `
60000000 0202 0100 0a000000 00000000 # nlmsghdr: 96 bytes, EXP_DELETE, REQUEST, seq 10, port 0
0a 00 0000
4c00 0280                            # CTA_EXPECT_TUPLE
  2c00 0180
    1400 0300 fd000000000000000000000000000002
    1400 0400 fd000000000000000000000000000001
  1c00 0280
    0500 0100 06 000000
    0600 0200 0000 0000
    0600 0300 7a08 0000`
)

func parseHex(tb testing.TB, dump string) []byte {
	tb.Helper()
	var digits strings.Builder
	for line := range strings.Lines(dump) {
		line, _, _ = strings.Cut(line, "#")
		for field := range strings.FieldsSeq(line) {
			digits.WriteString(field)
		}
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func skipBigEndian(t *testing.T) {
	t.Helper()
	if appendHeader(nil, 1, 0, 0, 0)[5] == 1 {
		t.Skip("the golden messages are of a little-endian host")
	}
}

func TestMessages(t *testing.T) {
	skipBigEndian(t)
	tests := []struct {
		name string
		make func([]byte, uint32, *conntrack.Expectation) []byte
		seq  uint32
		x    *conntrack.Expectation
		want string
	}{
		{"new, active, IPv4", AppendExpect, 7, active4(), newActive4},
		{"new, passive, IPv6", AppendExpect, 8, passive6(), newPassive6},
		{"new, IPv4 spelled as IPv6", AppendExpect, 7, mapped(), newActive4},
		{"delete, active, IPv4", AppendDelete, 9, active4(), deleteActive4},
		{"delete, passive, IPv6", AppendDelete, 10, passive6(), deletePassive6},
		{"delete, IPv4 spelled as IPv6", AppendDelete, 9, mapped(), deleteActive4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := parseHex(t, tt.want)
			got := tt.make([]byte("before"), tt.seq, tt.x)
			if diff := cmp.Diff("before"+hex.Dump(want), "before"+hex.Dump(got[len("before"):])); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if got := string(got[:len("before")]); got != "before" {
				t.Errorf("what was there before became %q", got)
			}
			buf := make([]byte, 0, len(want))
			if n := testing.AllocsPerRun(100, func() { _ = tt.make(buf, tt.seq, tt.x) }); n != 0 {
				t.Errorf("%v allocations, want none", n)
			}
		})
	}
}

// TestInvalidTuples holds that a message can be made of anything: the kernel is
// the judge of it.
func TestInvalidTuples(t *testing.T) {
	tests := []struct {
		name string
		x    conntrack.Expectation
	}{
		{"zero", conntrack.Expectation{}},
		{"two families", conntrack.Expectation{Tuple: conntrack.Tuple{Src: addrPort("192.0.2.1:1"), Dst: addrPort("[fd00::1]:2")}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var m netlink.Message
			for _, b := range [][]byte{AppendExpect(nil, 1, &tt.x), AppendDelete(nil, 1, &tt.x)} {
				if err := m.UnmarshalBinary(b); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
