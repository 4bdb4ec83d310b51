package ctnetlink

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/conntrack"
	"ftpctd/nfq/nfnetlink"
)

// Message types: the subsystem in the high byte, the operation in the low one
// (enum cntl_msg_types and enum ctnl_exp_msg_types of
// include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	msgConntrackNew uint16 = unix.NFNL_SUBSYS_CTNETLINK<<8 + iota
	msgConntrackGet
	msgConntrackDelete
)

const (
	msgExpectNew uint16 = unix.NFNL_SUBSYS_CTNETLINK_EXP<<8 + iota
	msgExpectGet
	msgExpectDelete
)

// Of include/uapi/linux/netfilter/nfnetlink_cthelper.h.
const (
	msgHelperNew uint16 = unix.NFNL_SUBSYS_CTHELPER<<8 + iota
	msgHelperGet
	msgHelperDelete
)

// Attributes, named as in include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig   = 1
	ctaTupleReply  = 2
	ctaStatus      = 3
	ctaProtoInfo   = 4
	ctaHelp        = 5
	ctaTimeout     = 7
	ctaMark        = 8
	ctaID          = 12
	ctaTupleMaster = 14
	ctaZone        = 18
	ctaMarkMask    = 21
	ctaLabels      = 22
	ctaLabelsMask  = 23
	ctaFilter      = 25

	ctaHelpName = 1

	ctaProtoInfoTCP     = 1
	ctaTCPState         = 1
	ctaTCPFlagsOriginal = 4
	ctaTCPFlagsReply    = 5

	// tcpBeLiberal is IP_CT_TCP_FLAG_BE_LIBERAL of
	// include/uapi/linux/netfilter/nf_conntrack_tcp.h.
	tcpBeLiberal = 1 << 3

	// Bits of CTA_STATUS (enum ip_conntrack_status of
	// include/uapi/linux/netfilter/nf_conntrack_common.h).
	ipsExpected = 1 << 0
	ipsAssured  = 1 << 2

	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2

	ctaExpectMaster   = 1
	ctaExpectTuple    = 2
	ctaExpectMask     = 3
	ctaExpectTimeout  = 4
	ctaExpectID       = 5
	ctaExpectHelpName = 6
	ctaExpectZone     = 7
	ctaExpectFlags    = 8
	ctaExpectClass    = 9
	ctaExpectNAT      = 10
	ctaExpectFunction = 11

	ctaExpectNATDirection = 1
	ctaExpectNATTuple     = 2

	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3
)

// Attributes, named as in include/uapi/linux/netfilter/nfnetlink_cthelper.h.
const (
	nfcthName        = 1
	nfcthTuple       = 2
	nfcthPolicy      = 4
	nfcthPrivDataLen = 5
	nfcthStatus      = 6

	nfcthTupleL3Proto = 1
	nfcthTupleL4Proto = 2

	nfcthPolicySetNum = 1
	nfcthPolicySet1   = 2

	nfcthPolicyName    = 1
	nfcthPolicyMax     = 2
	nfcthPolicyTimeout = 3

	statusDisabled = 0
)

// AppendExpect appends one complete IPCTNL_MSG_EXP_NEW message to b and returns
// the extended slice: the netlink header with its length, struct nfgenmsg, and
// the attributes CTA_EXPECT_MASTER, _TUPLE and _MASK, and _ZONE, _NAT and _FN where
// x has a zone or NAT. It does not allocate when b has room (368 bytes suffice).
//
// The flags are REQUEST, CREATE and EXCL, not ACK: the kernel replies only with an
// error, which carries seq and is for [WrapError]. The class is 0 because
// CTA_EXPECT_CLASS is absent, and the timeout is that of the helper's policy: the kernel
// ignores CTA_EXPECT_TIMEOUT when it creates an expectation (ctnetlink_create_expect in
// net/netfilter/nf_conntrack_netlink.c).
//
// The source port of x.Tuple is ignored: any port matches. Addresses must be valid and
// of one family; an IPv4-mapped IPv6 address is IPv4.
func AppendExpect(b []byte, seq uint32, x *conntrack.Expectation) []byte {
	start := len(b)
	b = appendHeader(b, msgExpectNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, seq, family(x.Tuple))
	b = appendTuple(b, ctaExpectMaster, x.Master)
	b = appendTuple(b, ctaExpectTuple, anySource(x.Tuple))
	b = appendTuple(b, ctaExpectMask, maskOf(x.Tuple))
	b = appendZone(b, ctaExpectZone, x.Zone)
	if x.NAT {
		b = appendFollowMaster(b, x)
	}
	return nfnetlink.EndMessage(b, start)
}

// Directions of a connection (enum ip_conntrack_dir of
// include/uapi/linux/netfilter/nf_conntrack_tuple_common.h).
const (
	dirOriginal = 0
	dirReply    = 1
)

// appendFollowMaster appends the attributes that make the kernel translate the data
// connection like its master, as nf_nat_ftp does. The kernel's function takes the
// addresses from the master: those of the side that x comes from, in the direction in
// which that side sends. From the message it takes the direction, and the source port of
// the tuple, which becomes the destination port (nf_nat_follow_master in
// net/netfilter/nf_nat_helper.c).
func appendFollowMaster(b []byte, x *conntrack.Expectation) []byte {
	direction := uint32(dirOriginal)
	if x.Via.Active() {
		direction = dirReply
	}
	nat := len(b)
	b = nfnetlink.AppendNest(b, ctaExpectNAT)
	b = nfnetlink.AppendUint32(b, ctaExpectNATDirection, direction)
	b = appendTuple(b, ctaExpectNATTuple, conntrack.Tuple{Src: x.Tuple.Dst, Dst: x.Tuple.Src})
	b = nfnetlink.EndAttr(b, nat)
	return nfnetlink.AppendString(b, ctaExpectFunction, "nat-follow-master")
}

// AppendDelete appends one complete IPCTNL_MSG_EXP_DELETE message to b and
// returns the extended slice. It does not allocate when b has room (104 bytes
// suffice).
//
// The expectation is found by its tuple and zone alone. The only flag is REQUEST: the
// kernel replies only with an error, which carries seq. ENOENT means that the
// expectation was used, expired, or was removed with its master.
func AppendDelete(b []byte, seq uint32, x *conntrack.Expectation) []byte {
	start := len(b)
	b = appendHeader(b, msgExpectDelete, 0, seq, family(x.Tuple))
	b = appendTuple(b, ctaExpectTuple, anySource(x.Tuple))
	b = appendZone(b, ctaExpectZone, x.Zone)
	return nfnetlink.EndMessage(b, start)
}

// appendGetExpect appends an IPCTNL_MSG_EXP_GET message for the expectation with x's
// tuple and zone.
func appendGetExpect(b []byte, x *conntrack.Expectation) []byte {
	start := len(b)
	b = appendHeader(b, msgExpectGet, 0, 0, family(x.Tuple))
	b = appendTuple(b, ctaExpectTuple, anySource(x.Tuple))
	b = appendZone(b, ctaExpectZone, x.Zone)
	return nfnetlink.EndMessage(b, start)
}

// appendDeleteID appends the message of AppendDelete for the expectation with an ID: the
// kernel does not delete another one with the same tuple, and replies ENOENT.
func appendDeleteID(b []byte, x *conntrack.Expectation, id uint32) []byte {
	start := len(b)
	b = AppendDelete(b, 0, x)
	return nfnetlink.EndMessage(nfnetlink.AppendUint32(b, ctaExpectID, id), start)
}

// entryTimeout is the timeout of an entry until the connection's first packet, in
// seconds: as long as the kernel waits for the answer to a SYN
// (nf_conntrack_tcp_timeout_syn_sent).
const entryTimeout = 120

// AppendEntry appends one complete IPCTNL_MSG_CT_NEW message to b and returns the
// extended slice. It does not allocate when b has room (256 bytes suffice).
//
// The message creates the entry of the data connection data ahead of its first packet,
// as RELATED to the connection master, which may be given in either direction and needs
// no helper. The packet and its retransmissions are RELATED until it is answered. The
// source port of data must match. The entry has no NAT, as if no NAT rule had matched,
// and does not inherit the master's mark.
//
// The flags are REQUEST, CREATE and EXCL, not ACK: the kernel replies only with an
// error, which carries seq. EEXIST means that the data connection has an entry.
// Addresses must be valid and of one family; an IPv4-mapped IPv6 address is IPv4.
func AppendEntry(b []byte, seq uint32, data, master conntrack.Tuple) []byte {
	start := len(b)
	b = appendHeader(b, msgConntrackNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, seq, family(data))
	b = appendTuple(b, ctaTupleOrig, data)
	b = appendTuple(b, ctaTupleReply, conntrack.Tuple{Src: data.Dst, Dst: data.Src})
	b = nfnetlink.AppendUint32(b, ctaTimeout, entryTimeout)
	b = appendTuple(b, ctaTupleMaster, master)
	return nfnetlink.EndMessage(b, start)
}

// AppendMark appends one complete IPCTNL_MSG_CT_NEW message to b and returns the
// extended slice. It does not allocate when b has room (128 bytes suffice).
//
// The message sets the bits in mask of the conntrack mark of the connection t, which may
// be given in either direction, to those of mark, and leaves the others unchanged
// (ctnetlink_change_mark in net/netfilter/nf_conntrack_netlink.c). mark must have no bit
// outside mask. A kernel without CONFIG_NF_CONNTRACK_MARK ignores it.
//
// The only flag is REQUEST: the kernel replies only with an error, which carries seq.
// ENOENT means that there is no such connection in the zone.
func AppendMark(b []byte, seq uint32, zone uint16, t conntrack.Tuple, mark, mask uint32) []byte {
	start := len(b)
	b = appendHeader(b, msgConntrackNew, 0, seq, family(t))
	b = appendTuple(b, ctaTupleOrig, t)
	b = nfnetlink.AppendUint32(b, ctaMark, mark)
	b = nfnetlink.AppendUint32(b, ctaMarkMask, mask)
	b = appendZone(b, ctaZone, zone)
	return nfnetlink.EndMessage(b, start)
}

// AppendUnread appends one complete IPCTNL_MSG_CT_NEW message to b and returns the
// extended slice. It does not allocate when b has room (160 bytes suffice).
//
// The message sets or clears [conntrack.UnreadLabel] of the connection t, which may be
// given in either direction, and leaves other labels unchanged
// (ctnetlink_attach_labels in net/netfilter/nf_conntrack_netlink.c). The only flag is
// REQUEST: the kernel replies only with an error, which carries seq. ENOSPC means that the
// connection cannot have labels: it is older than the rules that use them.
func AppendUnread(b []byte, seq uint32, zone uint16, t conntrack.Tuple, unread bool) []byte {
	start := len(b)
	mask := Labels(conntrack.UnreadLabel)
	var labels [16]byte
	if unread {
		labels = mask
	}
	b = appendHeader(b, msgConntrackNew, 0, seq, family(t))
	b = appendTuple(b, ctaTupleOrig, t)
	b = nfnetlink.AppendBytes(b, ctaLabels, labels[:])
	b = nfnetlink.AppendBytes(b, ctaLabelsMask, mask[:])
	b = appendZone(b, ctaZone, zone)
	return nfnetlink.EndMessage(b, start)
}

// Labels returns the bitmap of labels, each from 0 to 127, in words of the host (struct
// nf_conn_labels of include/net/netfilter/nf_conntrack_labels.h).
func Labels(labels ...uint) (bitmap [16]byte) {
	for _, l := range labels {
		word := bitmap[l/64*8:]
		binary.NativeEndian.PutUint64(word, binary.NativeEndian.Uint64(word)|1<<(l%64))
	}
	return bitmap
}

// AppendDeleteConnection appends one complete IPCTNL_MSG_CT_DELETE message to b and
// returns the extended slice. It does not allocate when b has room (96 bytes
// suffice).
//
// The message removes the entry of the connection t, given in either direction, whoever
// created it. The only flag is REQUEST: the kernel replies only with an error, which
// carries seq. ENOENT means that there is none.
func AppendDeleteConnection(b []byte, seq uint32, t conntrack.Tuple) []byte {
	start := len(b)
	b = appendHeader(b, msgConntrackDelete, 0, seq, family(t))
	b = appendTuple(b, ctaTupleOrig, t)
	return nfnetlink.EndMessage(b, start)
}

// appendLookup appends an IPCTNL_MSG_CT_GET message for the connection t.
func appendLookup(b []byte, t conntrack.Tuple) []byte {
	start := len(b)
	b = appendHeader(b, msgConntrackGet, 0, 0, family(t))
	b = appendTuple(b, ctaTupleOrig, t)
	return nfnetlink.EndMessage(b, start)
}

// appendDeleteAll appends an IPCTNL_MSG_EXP_DELETE message for the expectations of
// all connections with a helper, in every zone (ctnetlink_del_expect).
func appendDeleteAll(b []byte, helper string) []byte {
	start := len(b)
	b = appendHeader(b, msgExpectDelete, 0, 0, unix.AF_UNSPEC)
	b = nfnetlink.AppendString(b, ctaExpectHelpName, helper)
	return nfnetlink.EndMessage(b, start)
}

// Flags of a dump of connections: which parts of a tuple it compares
// (CTA_FILTER_F_CTA_PROTO_NUM and so on of net/netfilter/nf_internals.h). Not the zone,
// and not the addresses: Linux 6.18 skips connections whose IPv6 addresses are equal
// (ctnetlink_filter_match_tuple).
const (
	filterProtocol   = 1 << 3
	filterSourcePort = 1 << 4
	filterPorts      = filterProtocol | filterSourcePort | 1<<5
)

// appendDumpByPorts appends an IPCTNL_MSG_CT_GET message that asks for the connections of
// all zones whose original direction has the ports of t, in t's family.
func appendDumpByPorts(b []byte, t conntrack.Tuple) []byte {
	start := len(b)
	b = appendHeader(b, msgConntrackGet, unix.NLM_F_DUMP, 0, family(t))
	b = appendTuple(b, ctaTupleOrig, t)
	b = appendFilter(b, ctaFilterOrigFlags, filterPorts)
	return nfnetlink.EndMessage(b, start)
}

// appendDumpByServerPort appends an IPCTNL_MSG_CT_GET message that asks for the connections
// of all zones whose replies come from a port, in the family of unspecified. The reply
// direction names the server's own port, whatever NAT makes of it.
func appendDumpByServerPort(b []byte, unspecified netip.Addr, port uint16) []byte {
	start := len(b)
	t := conntrack.Tuple{Src: netip.AddrPortFrom(unspecified, port), Dst: netip.AddrPortFrom(unspecified, 0)}
	b = appendHeader(b, msgConntrackGet, unix.NLM_F_DUMP, 0, family(t))
	b = appendTuple(b, ctaTupleReply, t)
	b = appendFilter(b, ctaFilterReplyFlags, filterProtocol|filterSourcePort)
	return nfnetlink.EndMessage(b, start)
}

// appendFilter appends the flags of a dump for one direction.
func appendFilter(b []byte, direction uint16, flags uint32) []byte {
	filter := len(b)
	b = nfnetlink.AppendNest(b, ctaFilter)
	// Unlike other values, in host byte order.
	b = binary.NativeEndian.AppendUint32(nfnetlink.AppendAttr(b, direction, 4), flags)
	return nfnetlink.EndAttr(b, filter)
}

// appendDump appends an IPCTNL_MSG_EXP_GET message that asks for all
// expectations of the network namespace, of both families.
func appendDump(b []byte) []byte {
	start := len(b)
	b = appendHeader(b, msgExpectGet, unix.NLM_F_DUMP, 0, unix.AF_UNSPEC)
	return nfnetlink.EndMessage(b, start)
}

// appendHelper appends an NFNL_MSG_CTHELPER_NEW message for one family, which
// registers the helper or changes its policy. There is one policy, of the
// helper's name, and no private data.
func appendHelper(b []byte, h HelperConfig, family uint16) []byte {
	start := len(b)
	b = appendHelperName(b, msgHelperNew, unix.NLM_F_CREATE, h.Name, family)
	set := len(b)
	b = nfnetlink.AppendNest(b, nfcthPolicy)
	b = nfnetlink.AppendUint32(b, nfcthPolicySetNum, 1)
	policy := len(b)
	b = nfnetlink.AppendNest(b, nfcthPolicySet1)
	b = nfnetlink.AppendString(b, nfcthPolicyName, h.Name)
	b = nfnetlink.AppendUint32(b, nfcthPolicyMax, h.MaxExpected)
	b = nfnetlink.AppendUint32(b, nfcthPolicyTimeout, uint32(h.Timeout/time.Second))
	b = nfnetlink.EndAttr(b, policy)
	b = nfnetlink.EndAttr(b, set)
	b = nfnetlink.AppendUint32(b, nfcthPrivDataLen, 0)
	b = nfnetlink.AppendUint32(b, nfcthStatus, statusDisabled)
	return nfnetlink.EndMessage(b, start)
}

// appendDeleteHelper appends an NFNL_MSG_CTHELPER_DEL message for one family.
func appendDeleteHelper(b []byte, name string, family uint16) []byte {
	start := len(b)
	return nfnetlink.EndMessage(appendHelperName(b, msgHelperDelete, 0, name, family), start)
}

// appendHelperDump appends an NFNL_MSG_CTHELPER_GET message for all user-space
// helpers.
func appendHelperDump(b []byte) []byte {
	start := len(b)
	b = appendHeader(b, msgHelperGet, unix.NLM_F_DUMP, 0, unix.AF_UNSPEC)
	return nfnetlink.EndMessage(b, start)
}

// appendHelperName appends the header of a message about a helper, and the
// attributes that name it.
func appendHelperName(b []byte, typ, flags uint16, name string, family uint16) []byte {
	b = appendHeader(b, typ, flags, 0, unix.AF_UNSPEC)
	b = nfnetlink.AppendString(b, nfcthName, name)
	tuple := len(b)
	b = nfnetlink.AppendNest(b, nfcthTuple)
	b = nfnetlink.AppendUint16(b, nfcthTupleL3Proto, family)
	b = nfnetlink.AppendUint8(b, nfcthTupleL4Proto, unix.IPPROTO_TCP)
	return nfnetlink.EndAttr(b, tuple)
}

// appendProbe appends the message of AppendEntry with a helper, if it has a name.
func appendProbe(b []byte, helper string, data, master conntrack.Tuple) []byte {
	start := len(b)
	b = AppendEntry(b, 0, data, master)
	if helper != "" {
		help := len(b)
		b = nfnetlink.AppendNest(b, ctaHelp)
		b = nfnetlink.AppendString(b, ctaHelpName, helper)
		b = nfnetlink.EndAttr(b, help)
	}
	return nfnetlink.EndMessage(b, start)
}

func isIPv4(t conntrack.Tuple) bool {
	return t.Src.Addr().Unmap().Is4() && t.Dst.Addr().Unmap().Is4()
}

func family(t conntrack.Tuple) uint8 {
	if isIPv4(t) {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func anySource(t conntrack.Tuple) conntrack.Tuple {
	return conntrack.Tuple{Src: netip.AddrPortFrom(t.Src.Addr(), 0), Dst: t.Dst}
}

// maskOf returns the mask of an expectation of t's family: all but the source port must
// match. The kernel uses only the source half of it, but rejects a mask without the
// other (ctnetlink_parse_tuple).
func maskOf(t conntrack.Tuple) conntrack.Tuple {
	ones := netip.AddrFrom16([16]byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	})
	if isIPv4(t) {
		ones = netip.AddrFrom4([4]byte{0xff, 0xff, 0xff, 0xff})
	}
	return conntrack.Tuple{
		Src: netip.AddrPortFrom(ones, 0),
		Dst: netip.AddrPortFrom(ones, 0xffff),
	}
}

// appendHeader appends the header of a request.
func appendHeader(b []byte, typ, flags uint16, seq uint32, family uint8) []byte {
	return nfnetlink.AppendHeader(b, nfnetlink.Header{Type: typ, Flags: unix.NLM_F_REQUEST | flags, Seq: seq, Family: family})
}

// appendTuple appends a tuple (CTA_TUPLE_*) of TCP as the nested attribute typ.
func appendTuple(b []byte, typ uint16, t conntrack.Tuple) []byte {
	tuple := len(b)
	b = nfnetlink.AppendNest(b, typ)

	ip := len(b)
	b = nfnetlink.AppendNest(b, ctaTupleIP)
	if isIPv4(t) {
		src, dst := t.Src.Addr().Unmap().As4(), t.Dst.Addr().Unmap().As4()
		b = nfnetlink.AppendBytes(b, ctaIPv4Src, src[:])
		b = nfnetlink.AppendBytes(b, ctaIPv4Dst, dst[:])
	} else {
		src, dst := t.Src.Addr().As16(), t.Dst.Addr().As16()
		b = nfnetlink.AppendBytes(b, ctaIPv6Src, src[:])
		b = nfnetlink.AppendBytes(b, ctaIPv6Dst, dst[:])
	}
	b = nfnetlink.EndAttr(b, ip)

	proto := len(b)
	b = nfnetlink.AppendNest(b, ctaTupleProto)
	b = nfnetlink.AppendUint8(b, ctaProtoNum, unix.IPPROTO_TCP)
	b = nfnetlink.AppendUint16(b, ctaProtoSrcPort, t.Src.Port())
	b = nfnetlink.AppendUint16(b, ctaProtoDstPort, t.Dst.Port())
	b = nfnetlink.EndAttr(b, proto)

	return nfnetlink.EndAttr(b, tuple)
}

// appendZone appends a zone as the attribute typ, unless it is the default: a kernel
// without CONFIG_NF_CONNTRACK_ZONES rejects the attribute.
func appendZone(b []byte, typ, zone uint16) []byte {
	if zone == 0 {
		return b
	}
	return nfnetlink.AppendUint16(b, typ, zone)
}
