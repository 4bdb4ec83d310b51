package ctnetlink_test

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq/nfnetlink"
)

// A server has announced port 31240 for a passive data connection. The message makes
// the kernel expect it; it can be sent ahead of the verdict on the packet with the
// announcement.
func ExampleAppendExpect() {
	client, server := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.2")
	x := conntrack.Expectation{
		Master: conntrack.Tuple{Src: netip.AddrPortFrom(client, 40001), Dst: netip.AddrPortFrom(server, 21)},
		Tuple:  conntrack.Tuple{Src: netip.AddrPortFrom(client, 0), Dst: netip.AddrPortFrom(server, 31240)},
	}
	b := ctnetlink.AppendExpect(nil, 7, &x)

	m, rest, ok := nfnetlink.NextMessage(b)
	fmt.Println(len(b), "bytes,", len(rest), "after the message:", ok)
	fmt.Println("subsystem", m.Type>>8, "is CTNETLINK_EXP:", m.Type>>8 == unix.NFNL_SUBSYS_CTNETLINK_EXP)
	fmt.Println("message", m.Type&0xff, "(IPCTNL_MSG_EXP_NEW), sequence number", m.Seq)
	// Output:
	// 176 bytes, 0 after the message: true
	// subsystem 2 is CTNETLINK_EXP: true
	// message 0 (IPCTNL_MSG_EXP_NEW), sequence number 7
}
