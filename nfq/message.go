package nfq

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Message types: the subsystem in the high byte, the operation in the low one
// (enum nfqnl_msg_types of include/uapi/linux/netfilter/nfnetlink_queue.h).
const (
	msgPacket = unix.NFNL_SUBSYS_QUEUE<<8 + iota
	msgVerdict
	msgConfig
	msgVerdictBatch
)

// From the same file.
const (
	nfqaPacketHeader  = 1
	nfqaVerdictHeader = 2
	nfqaPayload       = 10
	nfqaConntrack     = 11 // NFQA_CT

	nfqaConfigCommand = 1
	nfqaConfigParams  = 2
	nfqaConfigMaxLen  = 3
	nfqaConfigMask    = 4
	nfqaConfigFlags   = 5
	commandBind       = 1
	commandUnbind     = 2
	copyPacket        = 2 // NFQNL_COPY_PACKET
	flagFailOpen      = 1 // NFQA_CFG_F_FAIL_OPEN
	flagConntrack     = 2 // NFQA_CFG_F_CONNTRACK
	verdictAccept     = 1 // NF_ACCEPT
)

// Sizes and masks of netlink.
const (
	nlmsgHeaderLen = 16
	nfgenmsgLen    = 4
	attrHeaderLen  = 4
	attrTypeMask   = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	// messageOverhead is more than the kernel puts around the bytes of a packet:
	// the headers, attributes with devices, marks and the like, and those of the
	// connection.
	messageOverhead = 2048
)

// Sequence numbers of the messages of this package. The kernel answers them only
// with errors, which carry the number.
const (
	// SeqVerdict marks verdicts. A message of a handler must not use it.
	SeqVerdict uint32 = 0
	// SeqSilent marks messages of a handler whose refusal does not matter to it, such
	// as the removal of what may be gone: Handler.Refused does not hear of it, and
	// it wakes nobody.
	SeqSilent uint32 = 1
	// SeqPing marks the messages of [Queue.Ping]. A message of a handler must not
	// use it.
	SeqPing uint32 = 1<<32 - 2
	// SeqRelease marks the messages that release the whole queue. A message of a
	// handler must not use it.
	SeqRelease uint32 = 1<<32 - 1
)

// appendVerdict appends an NFQNL_MSG_VERDICT message that accepts the packet id
// of queue num.
func appendVerdict(b []byte, num uint16, id uint32) []byte {
	b = appendHeader(b, msgVerdict, 0, SeqVerdict, num, 12)
	return appendVerdictHeader(b, id)
}

// appendPing appends the same with a number of its own.
func appendPing(b []byte, num uint16, id uint32) []byte {
	b = appendHeader(b, msgVerdict, 0, SeqPing, num, 12)
	return appendVerdictHeader(b, id)
}

// appendVerdictBatch appends an NFQNL_MSG_VERDICT_BATCH message that accepts
// every packet of queue num up to the packet id, in the cyclic order of IDs.
func appendVerdictBatch(b []byte, num uint16, id uint32) []byte {
	b = appendHeader(b, msgVerdictBatch, 0, SeqRelease, num, 12)
	return appendVerdictHeader(b, id)
}

// appendUnbind appends an NFQNL_MSG_CONFIG message that gives queue num up.
func appendUnbind(b []byte, num uint16) []byte {
	b = appendHeader(b, msgConfig, 0, SeqRelease, num, 8)
	return appendConfigCommand(b, commandUnbind)
}

// appendCommand appends an NFQNL_MSG_CONFIG message with a command for queue
// num, which the kernel answers.
func appendCommand(b []byte, num uint16, command byte) []byte {
	b = appendHeader(b, msgConfig, unix.NLM_F_ACK, SeqRelease, num, 8)
	return appendConfigCommand(b, command)
}

func appendConfigCommand(b []byte, command byte) []byte {
	b = appendAttr(b, nfqaConfigCommand, 4)
	return append(b, command, 0, 0, unix.AF_UNSPEC) // both families come
}

// appendConfig appends an NFQNL_MSG_CONFIG message that sets queue num up, which
// the kernel answers: copyRange bytes of a packet are copied, length packets may
// wait, 0 for the kernel's default, and more pass. The kernel sets none of it if it
// does not know one of the flags.
func appendConfig(b []byte, num uint16, copyRange, length, flags uint32) []byte {
	n := uint32(12 + 8 + 8)
	if length > 0 {
		n += 8
	}
	b = appendHeader(b, msgConfig, unix.NLM_F_ACK, SeqRelease, num, n)
	b = appendAttr(b, nfqaConfigParams, 5)
	b = binary.BigEndian.AppendUint32(b, copyRange)
	b = append(b, copyPacket, 0, 0, 0) // and padding
	if length > 0 {
		b = appendUint32(b, nfqaConfigMaxLen, length)
	}
	b = appendUint32(b, nfqaConfigMask, flags)
	return appendUint32(b, nfqaConfigFlags, flags)
}

func appendUint32(b []byte, typ uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(appendAttr(b, typ, 4), v)
}

// appendHeader appends struct nlmsghdr and struct nfgenmsg of a message with n
// bytes of attributes.
func appendHeader(b []byte, typ, flags uint16, seq uint32, num uint16, n uint32) []byte {
	b = binary.NativeEndian.AppendUint32(b, 20+n)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, unix.AF_UNSPEC, unix.NFNETLINK_V0)
	return binary.BigEndian.AppendUint16(b, num)
}

func appendVerdictHeader(b []byte, id uint32) []byte {
	b = appendAttr(b, nfqaVerdictHeader, 8)
	b = binary.BigEndian.AppendUint32(b, verdictAccept)
	return binary.BigEndian.AppendUint32(b, id)
}

func appendAttr(b []byte, typ, n uint16) []byte {
	b = binary.NativeEndian.AppendUint16(b, 4+n)
	return binary.NativeEndian.AppendUint16(b, typ)
}
