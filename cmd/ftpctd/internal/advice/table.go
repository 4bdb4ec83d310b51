package advice

import (
	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack/ctnetlink"
)

// origin is the package that an error is of, or more than one.
type origin uint8

const (
	inConntrack origin = 1 << iota // ctnetlink, but for:
	inHelpers                      // its operations on user-space helpers
	inQueue                        // nfq
	inFirewall                     // firewall
)

// row says what to do where an operation fails with an errno.
type row struct {
	from   origin
	op     string // empty for every operation
	errno  unix.Errno
	advice string
}

// nameOf stands for the name of the conntrack helper that an error is about. No
// name of a kernel option contains it.
const nameOf = "{helper}"

const (
	helperTaken     = "a helper of that name is built into the kernel, or used by another program's rules: choose another name"
	netAdmin        = "CAP_NET_ADMIN is needed in the user namespace that owns this network namespace"
	alreadyThere    = "the same endpoint is already expected, by another control connection or an earlier line of this one"
	masterUnknown   = "the control connection is not in the connection table of this network namespace"
	tableRemoved    = "the table was removed: the daemon restores it"
	noInetTables    = "the kernel has no nftables for inet: load the module nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)"
	noMemory        = "the kernel is out of memory"
	queueTaken      = "stop it or set queue.num to another number"
	expectationGone = "the expectation was used, expired, or was removed with its control connection"
)

// rows are in the order in which they are tried. The kernel's answers mean what
// ctnetlink_create_expect and __nf_ct_expect_check (ctnetlink),
// nfnl_cthelper_create (helpers), nfqnl_recv_config (queues) and nf_tables_newrule
// (nftables) give them for. nfnetlink itself answers EINVAL for a subsystem that
// nobody registered.
var rows = []row{
	{inConntrack, string(ctnetlink.OpExpect), unix.EOPNOTSUPP, "the control connection has no helper: it began before the rules were in place, or no rule assigns one"},
	{inConntrack, string(ctnetlink.OpExpect), unix.EBUSY, alreadyThere},
	{inConntrack, string(ctnetlink.OpExpect), unix.EEXIST, alreadyThere},
	{inConntrack, string(ctnetlink.OpExpect), unix.EMFILE, "the expectation table is full: raise net.netfilter.nf_conntrack_expect_max"},
	{inConntrack, string(ctnetlink.OpExpect), unix.ENOENT, masterUnknown},
	{inConntrack, string(ctnetlink.OpDelete), unix.ENOENT, expectationGone},
	{inConntrack, string(ctnetlink.OpCreate), unix.ENOMEM, "the connection table is full: raise net.netfilter.nf_conntrack_max"},
	{inConntrack, string(ctnetlink.OpCreate), unix.EEXIST, "the data connection is in the connection table already"},
	{inConntrack, string(ctnetlink.OpCreate), unix.ENOENT, masterUnknown},
	{inConntrack, string(ctnetlink.OpProbe), unix.EOPNOTSUPP, "the kernel has no such helper for TCP over IPv4 and IPv6: load its module (nf_conntrack_" + nameOf + ")"},

	{inHelpers, "", unix.EBUSY, helperTaken},
	{inHelpers, "", unix.EEXIST, helperTaken},
	{inHelpers, "", unix.EINVAL, "the kernel has no user-space helpers: load the module nfnetlink_cthelper (CONFIG_NF_CT_NETLINK_HELPER)"},
	{inHelpers, "", unix.EPERM, "CAP_NET_ADMIN is needed in the initial user namespace"},

	{inConntrack, "", unix.EINVAL, "the kernel has no ctnetlink: load the module nf_conntrack_netlink (CONFIG_NF_CT_NETLINK)"},
	{inConntrack | inHelpers, "", unix.EACCES, netAdmin},
	{inConntrack | inHelpers, "", unix.ENOBUFS, noMemory},
	{inConntrack | inHelpers, "", unix.ENOMEM, noMemory},

	{inQueue, "", unix.EINVAL, "the kernel has no packet queues: load the module nfnetlink_queue (CONFIG_NETFILTER_NETLINK_QUEUE)"},
	{inQueue, "", unix.EOPNOTSUPP, "the kernel's queues cannot fail open: Linux 3.6 or later is needed"},

	{inFirewall, firewall.OpAdd, unix.ENOENT, tableRemoved},
	{inFirewall, firewall.OpDelete, unix.ENOENT, tableRemoved},
	{inFirewall, "", unix.EINVAL, noInetTables},
	{inFirewall, "", unix.EPROTONOSUPPORT, noInetTables},

	{inConntrack | inHelpers | inQueue, "", unix.EPROTONOSUPPORT, "the kernel has no nfnetlink: load the module nfnetlink (CONFIG_NETFILTER_NETLINK)"},
	{inConntrack | inQueue | inFirewall, "", unix.EPERM, netAdmin},
}

// missing says how to get what the rules need and the kernel lacks.
var missing = map[firewall.Feature]string{
	firewall.FeatureTables:  noInetTables,
	firewall.FeatureCT:      "the kernel's nftables has no ct expressions: load the module nft_ct (CONFIG_NFT_CT)",
	firewall.FeaturePayload: "the kernel's nftables cannot match on the presence of payload: Linux 5.16 or later is needed",
	firewall.FeatureQueue:   "the kernel's nftables cannot queue packets: load the module nft_queue (CONFIG_NFT_QUEUE), or nft_compat and xt_NFQUEUE (CONFIG_NFT_COMPAT, CONFIG_NETFILTER_XT_TARGET_NFQUEUE)",
	firewall.FeatureObjects: "the kernel's nftables cannot refer to counters and helpers: load the module nft_objref (CONFIG_NFT_OBJREF)",
	firewall.FeatureFIB:     `the kernel's nftables cannot look up the route back to a source address: load the module nft_fib_inet (CONFIG_NFT_FIB_INET, CONFIG_NFT_FIB_IPV4, CONFIG_NFT_FIB_IPV6; "strict" needs Linux 5.19 or later), or set firewall.anti_spoof = "off" if nobody can forge addresses here`,
	firewall.FeatureMark:    "the kernel's connections have no mark (CONFIG_NF_CONNTRACK_MARK): set queue.skip_mark = 0",
	firewall.FeatureHelper:  `the kernel has no conntrack helper "` + nameOf + `" for TCP: load its module (nf_conntrack_` + nameOf + `, CONFIG_NF_CONNTRACK_…)`,
}
