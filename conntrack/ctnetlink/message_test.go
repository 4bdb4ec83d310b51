package ctnetlink

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
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

// behindNAT is of a server behind NAT, in a zone.
func behindNAT() *conntrack.Expectation {
	return &conntrack.Expectation{
		Zone:   7,
		Master: conntrack.Tuple{Src: addrPort("192.168.0.211:40001"), Dst: addrPort("203.0.113.1:2121")},
		Tuple:  conntrack.Tuple{Src: addrPort("192.168.0.211:0"), Dst: addrPort("203.0.113.1:31240")},
		Via:    ftpparse.R229,
		NAT:    true,
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

	newBehindNAT = `
10010000 0002 0106 0d000000 00000000 # nlmsghdr: 272 bytes, EXP_NEW, REQUEST|EXCL|CREATE, seq 13, port 0
02 00 0000
3400 0180                            # CTA_EXPECT_MASTER
  1400 0180
    0800 0100 c0a800d3               #     192.168.0.211
    0800 0200 cb007101               #     203.0.113.1
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000              #     40001
    0600 0300 0849 0000              #     2121
3400 0280                            # CTA_EXPECT_TUPLE
  1400 0180
    0800 0100 c0a800d3
    0800 0200 cb007101
  1c00 0280
    0500 0100 06 000000
    0600 0200 0000 0000
    0600 0300 7a08 0000              #     31240
3400 0380                            # CTA_EXPECT_MASK
  1400 0180
    0800 0100 ffffffff
    0800 0200 ffffffff
  1c00 0280
    0500 0100 06 000000
    0600 0200 0000 0000
    0600 0300 ffff 0000
0600 0700 0007 0000                  # CTA_EXPECT_ZONE 7
4000 0a80                            # CTA_EXPECT_NAT
  0800 0100 00000000                 #   CTA_EXPECT_NAT_DIR original
  3400 0280                          #   CTA_EXPECT_NAT_TUPLE
    1400 0180
      0800 0100 cb007101
      0800 0200 c0a800d3
    1c00 0280
      0500 0100 06 000000
      0600 0200 7a08 0000            #       31240
      0600 0300 0000 0000
1600 0b00 6e61742d666f6c6c6f772d6d6173746572 00 0000 # CTA_EXPECT_FN "nat-follow-master"`

	deleteBehindNAT = `
50000000 0202 0100 0e000000 00000000 # nlmsghdr: 80 bytes, EXP_DELETE, REQUEST, seq 14, port 0
02 00 0000
3400 0280                            # CTA_EXPECT_TUPLE
  1400 0180
    0800 0100 c0a800d3
    0800 0200 cb007101
  1c00 0280
    0500 0100 06 000000
    0600 0200 0000 0000
    0600 0300 7a08 0000
0600 0700 0007 0000                  # CTA_EXPECT_ZONE 7`

	// The entry of active4's data connection from port 20.
	entryActive4 = `
b8000000 0001 0106 0b000000 00000000 # nlmsghdr: 184 bytes, CT_NEW, REQUEST|EXCL|CREATE, seq 11, port 0
02 00 0000                           # nfgenmsg: AF_INET
3400 0180                            # CTA_TUPLE_ORIG
  1400 0180
    0800 0100 cb007101               #     203.0.113.1
    0800 0200 c0a800d3               #     192.168.0.211
  1c00 0280
    0500 0100 06 000000
    0600 0200 0014 0000              #     20
    0600 0300 9ad0 0000              #     39632
3400 0280                            # CTA_TUPLE_REPLY
  1400 0180
    0800 0100 c0a800d3
    0800 0200 cb007101
  1c00 0280
    0500 0100 06 000000
    0600 0200 9ad0 0000
    0600 0300 0014 0000
0800 0700 00000078                   # CTA_TIMEOUT 120
3400 0e80                            # CTA_TUPLE_MASTER
  1400 0180
    0800 0100 c0a800d3
    0800 0200 cb007101
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000              #     40001
    0600 0300 0015 0000              #     21`

	// The entry of passive6's data connection from port 50000.
	entryPassive6 = `
00010000 0001 0106 0c000000 00000000 # nlmsghdr: 256 bytes, CT_NEW, REQUEST|EXCL|CREATE, seq 12, port 0
0a 00 0000                           # nfgenmsg: AF_INET6
4c00 0180                            # CTA_TUPLE_ORIG
  2c00 0180
    1400 0300 fd000000000000000000000000000002
    1400 0400 fd000000000000000000000000000001
  1c00 0280
    0500 0100 06 000000
    0600 0200 c350 0000              #     50000
    0600 0300 7a08 0000              #     31240
4c00 0280                            # CTA_TUPLE_REPLY
  2c00 0180
    1400 0300 fd000000000000000000000000000001
    1400 0400 fd000000000000000000000000000002
  1c00 0280
    0500 0100 06 000000
    0600 0200 7a08 0000
    0600 0300 c350 0000
0800 0700 00000078                   # CTA_TIMEOUT 120
4c00 0e80                            # CTA_TUPLE_MASTER
  2c00 0180
    1400 0300 fd000000000000000000000000000002
    1400 0400 fd000000000000000000000000000001
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000
    0600 0300 0015 0000`

	// Bit 0x100 of active4's control connection, set in zone 7.
	markActive4 = `
60000000 0001 0100 0f000000 00000000 # nlmsghdr: 96 bytes, CT_NEW, REQUEST, seq 15, port 0
02 00 0000                           # nfgenmsg: AF_INET
3400 0180                            # CTA_TUPLE_ORIG
  1400 0180
    0800 0100 c0a800d3               #     192.168.0.211
    0800 0200 cb007101               #     203.0.113.1
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000              #     40001
    0600 0300 0015 0000              #     21
0800 0800 00000100                   # CTA_MARK 0x100
0800 1500 00000100                   # CTA_MARK_MASK 0x100
0600 1200 0007 0000                  # CTA_ZONE 7`

	// The highest bit of passive6's control connection, cleared in no zone.
	unmarkPassive6 = `
70000000 0001 0100 10000000 00000000 # nlmsghdr: 112 bytes, CT_NEW, REQUEST, seq 16, port 0
0a 00 0000                           # nfgenmsg: AF_INET6
4c00 0180                            # CTA_TUPLE_ORIG
  2c00 0180
    1400 0300 fd000000000000000000000000000002
    1400 0400 fd000000000000000000000000000001
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000
    0600 0300 0015 0000
0800 0800 00000000                   # CTA_MARK 0
0800 1500 80000000                   # CTA_MARK_MASK 0x80000000`

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

	deleteAll = `
20000000 0202 0100 00000000 00000000 # nlmsghdr: 32 bytes, EXP_DELETE, REQUEST
00 00 0000                           # nfgenmsg: AF_UNSPEC
0b00 0600 66747063746400 00          # CTA_EXPECT_HELP_NAME "ftpctd"`

	// Those with the ports of active4's control connection, in any zone.
	findActive4 = `
54000000 0101 0103 00000000 00000000 # nlmsghdr: 84 bytes, CT_GET, REQUEST|DUMP
02 00 0000                           # nfgenmsg: AF_INET
3400 0180                            # CTA_TUPLE_ORIG
  1400 0180
    0800 0100 c0a800d3               #     192.168.0.211
    0800 0200 cb007101               #     203.0.113.1
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000              #     40001
    0600 0300 0015 0000              #     21
0c00 1980                            # CTA_FILTER
  0800 0100 38000000                 #   CTA_FILTER_ORIG_FLAGS, in the host's order`

	// Those to the server's port 21, in any zone.
	findServers4 = `
54000000 0101 0103 00000000 00000000 # nlmsghdr: 84 bytes, CT_GET, REQUEST|DUMP
02 00 0000                           # nfgenmsg: AF_INET
3400 0280                            # CTA_TUPLE_REPLY
  1400 0180
    0800 0100 00000000
    0800 0200 00000000
  1c00 0280
    0500 0100 06 000000
    0600 0200 0015 0000              #     21
    0600 0300 0000 0000
0c00 1980                            # CTA_FILTER
  0800 0200 18000000                 #   CTA_FILTER_REPLY_FLAGS: protocol and source port, in the host's order`
	findServers6 = `
6c000000 0101 0103 00000000 00000000 # nlmsghdr: 108 bytes, CT_GET, REQUEST|DUMP
0a 00 0000                           # nfgenmsg: AF_INET6
4c00 0280                            # CTA_TUPLE_REPLY
  2c00 0180
    1400 0300 00000000000000000000000000000000
    1400 0400 00000000000000000000000000000000
  1c00 0280
    0500 0100 06 000000
    0600 0200 0849 0000              #     2121
    0600 0300 0000 0000
0c00 1980
  0800 0200 18000000`

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

const (
	newHelper6 = `
70000000 0009 0104 00000000 00000000 # nlmsghdr: 112 bytes, CTHELPER_NEW, REQUEST|CREATE
00 00 0000                           # nfgenmsg: AF_UNSPEC
0b00 0100 66747063746400 00          # NFCTH_NAME "ftpctd"
1400 0280                            # NFCTH_TUPLE
  0600 0100 000a 0000                #   NFCTH_TUPLE_L3PROTONUM AF_INET6
  0500 0200 06 000000                #   NFCTH_TUPLE_L4PROTONUM TCP
2c00 0480                            # NFCTH_POLICY
  0800 0100 00000001                 #   NFCTH_POLICY_SET_NUM 1
  2000 0280                          #   NFCTH_POLICY_SET1
    0b00 0100 66747063746400 00      #     NFCTH_POLICY_NAME "ftpctd"
    0800 0200 00000008               #     NFCTH_POLICY_EXPECT_MAX 8
    0800 0300 0000001e               #     NFCTH_POLICY_EXPECT_TIMEOUT 30
0800 0500 00000000                   # NFCTH_PRIV_DATA_LEN 0
0800 0600 00000000                   # NFCTH_STATUS disabled`

	deleteHelper4 = `
34000000 0209 0100 00000000 00000000 # nlmsghdr: 52 bytes, CTHELPER_DEL, REQUEST
00 00 0000
0b00 0100 66747063746400 00
1400 0280
  0600 0100 0002 0000                #   AF_INET
  0500 0200 06 000000`

	dumpHelpers = `
14000000 0109 0103 00000000 00000000 # nlmsghdr: 20 bytes, CTHELPER_GET, REQUEST|DUMP
00 00 0000`

	deleteConnection4 = `
48000000 0201 0100 00000000 00000000 # nlmsghdr: 72 bytes, CT_DELETE, REQUEST
02 00 0000
3400 0180                            # CTA_TUPLE_ORIG
  1400 0180
    0800 0100 c0a800d3
    0800 0200 cb007101
  1c00 0280
    0500 0100 06 000000
    0600 0200 9c41 0000
    0600 0300 0015 0000`
)

// What probes append to the message of AppendEntry.
const probeSane = `
1000 0580                            # CTA_HELP
  0900 0100 73616e65 00 000000       #   CTA_HELP_NAME "sane"`

func TestPrivateMessages(t *testing.T) {
	skipBigEndian(t)
	probe := labtest.ParseHex(t, entryPassive6+probeSane)
	probe[0] = 0x10 // longer by 16 bytes
	probe[8] = 0    // sequence number
	ftpctd := HelperConfig{Name: "ftpctd", MaxExpected: 8, Timeout: 30 * time.Second}
	data := passive6().Tuple
	data.Src = netip.AddrPortFrom(data.Src.Addr(), 50000)
	tests := []struct {
		name      string
		got, want []byte
	}{
		{"register helper", appendHelper(nil, ftpctd, unix.AF_INET6), labtest.ParseHex(t, newHelper6)},
		{"delete helper", appendDeleteHelper(nil, "ftpctd", unix.AF_INET), labtest.ParseHex(t, deleteHelper4)},
		{"list helpers", appendHelperDump(nil), labtest.ParseHex(t, dumpHelpers)},
		{"delete a helper's expectations", appendDeleteAll(nil, "ftpctd"), labtest.ParseHex(t, deleteAll)},
		{"find connections", appendDumpByPorts(nil, active4().Master), labtest.ParseHex(t, findActive4)},
		{"find connections to a port, IPv4", appendDumpByServerPort(nil, netip.IPv4Unspecified(), 21), labtest.ParseHex(t, findServers4)},
		{"find connections to a port, IPv6", appendDumpByServerPort(nil, netip.IPv6Unspecified(), 2121), labtest.ParseHex(t, findServers6)},
		{"delete connection", AppendDeleteConnection(nil, 0, active4().Master), labtest.ParseHex(t, deleteConnection4)},
		{"probe", appendProbe(nil, "sane", data, passive6().Master), probe},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(hex.Dump(tt.want), hex.Dump(tt.got)); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}

func skipBigEndian(t *testing.T) {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		t.Skip("the golden messages are of a little-endian host")
	}
}

// appendEntryFrom makes AppendEntry of an expectation whose data connection comes
// from port.
func appendEntryFrom(port uint16) func([]byte, uint32, *conntrack.Expectation) []byte {
	return func(b []byte, seq uint32, x *conntrack.Expectation) []byte {
		data := x.Tuple
		data.Src = netip.AddrPortFrom(data.Src.Addr(), port)
		return AppendEntry(b, seq, data, x.Master)
	}
}

// appendMarkOf makes AppendMark of an expectation's control connection.
func appendMarkOf(zone uint16, mark, mask uint32) func([]byte, uint32, *conntrack.Expectation) []byte {
	return func(b []byte, seq uint32, x *conntrack.Expectation) []byte {
		return AppendMark(b, seq, zone, x.Master, mark, mask)
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
		{"new, NAT and zone", AppendExpect, 13, behindNAT(), newBehindNAT},
		{"delete, zone", AppendDelete, 14, behindNAT(), deleteBehindNAT},
		{"delete, active, IPv4", AppendDelete, 9, active4(), deleteActive4},
		{"delete, passive, IPv6", AppendDelete, 10, passive6(), deletePassive6},
		{"delete, IPv4 spelled as IPv6", AppendDelete, 9, mapped(), deleteActive4},
		{"entry, active, IPv4", appendEntryFrom(20), 11, active4(), entryActive4},
		{"entry, passive, IPv6", appendEntryFrom(50000), 12, passive6(), entryPassive6},
		{"entry, IPv4 spelled as IPv6", appendEntryFrom(20), 11, mapped(), entryActive4},
		{"mark, zone, IPv4", appendMarkOf(7, 0x100, 0x100), 15, active4(), markActive4},
		{"mark, zone, IPv4 spelled as IPv6", appendMarkOf(7, 0x100, 0x100), 15, mapped(), markActive4},
		{"mark cleared, IPv6", appendMarkOf(0, 0, 1<<31), 16, passive6(), unmarkPassive6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := labtest.ParseHex(t, tt.want)
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
			for _, b := range [][]byte{
				AppendExpect(nil, 1, &tt.x), AppendDelete(nil, 1, &tt.x), AppendEntry(nil, 1, tt.x.Tuple, tt.x.Master),
				AppendMark(nil, 1, 0, tt.x.Master, 1, 1), AppendDeleteConnection(nil, 1, tt.x.Tuple),
			} {
				if err := m.UnmarshalBinary(b); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
