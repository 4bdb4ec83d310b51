// Package ctnetlink speaks ctnetlink, the netlink interface of the kernel's connection
// tracking: it inserts, deletes and lists expectations, creates the entries of
// connections that are yet to come, looks connections up, and registers user-space
// helpers.
//
// There are two ways to use it. [Conn] has its own socket and waits for the kernel's
// reply. [AppendExpect], [AppendDelete], [AppendEntry], [AppendDeleteConnection],
// [AppendMark] and [AppendUnread] only write messages, for a sender that puts several
// into one datagram and wraps the errors that the kernel replies with ([WrapError]).
//
// The formats are those of net/netfilter/nf_conntrack_netlink.c,
// net/netfilter/nfnetlink_cthelper.c and their headers in include/uapi/linux/netfilter.
package ctnetlink
