// Package nfnetlink writes and reads the netlink messages of netfilter's
// subsystems: packet queues, conntrack, nftables. It opens no socket and, but for
// [Attr.Text], allocates nothing.
//
// A message is struct nlmsghdr, struct nfgenmsg and attributes, each of which
// begins with struct nlattr and may hold attributes itself. Headers are in host
// byte order; values are in network byte order, unless a subsystem says
// otherwise. See include/uapi/linux/netlink.h and
// include/uapi/linux/netfilter/nfnetlink.h.
//
// To write a message, append its header, its attributes, and its length last:
//
//	start := len(b)
//	b = nfnetlink.AppendHeader(b, nfnetlink.Header{Type: typ, Flags: unix.NLM_F_REQUEST})
//	nest := len(b)
//	b = nfnetlink.AppendNest(b, outer)
//	b = nfnetlink.AppendUint32(b, inner, 1)
//	b = nfnetlink.EndAttr(b, nest)
//	b = nfnetlink.EndMessage(b, start)
//
// [EachAttr] reads attributes; where errors do not matter, a loop with [NextAttr] is
// faster.
package nfnetlink
