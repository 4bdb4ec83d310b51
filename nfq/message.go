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
	nfqaVerdictHeader = 2
	nfqaConfigCommand = 1
	commandUnbind     = 2
	verdictAccept     = 1 // NF_ACCEPT
)

// Sequence numbers of the messages of this package. The kernel answers them only
// with errors, which carry the number.
const (
	// SeqVerdict marks verdicts. A message of a handler must not use it.
	SeqVerdict uint32 = 0
	// SeqRelease marks the messages that release the whole queue. A message of a
	// handler must not use it.
	SeqRelease uint32 = 1<<32 - 1
)

// appendVerdict appends an NFQNL_MSG_VERDICT message that accepts the packet id
// of queue num.
func appendVerdict(b []byte, num uint16, id uint32) []byte {
	b = appendHeader(b, msgVerdict, SeqVerdict, num, 12)
	return appendVerdictHeader(b, id)
}

// appendVerdictBatch appends an NFQNL_MSG_VERDICT_BATCH message that accepts
// every packet of queue num up to the packet id, in the cyclic order of IDs.
func appendVerdictBatch(b []byte, num uint16, id uint32) []byte {
	b = appendHeader(b, msgVerdictBatch, SeqRelease, num, 12)
	return appendVerdictHeader(b, id)
}

// appendUnbind appends an NFQNL_MSG_CONFIG message that gives queue num up.
func appendUnbind(b []byte, num uint16) []byte {
	b = appendHeader(b, msgConfig, SeqRelease, num, 8)
	b = appendAttr(b, nfqaConfigCommand, 4)
	return append(b, commandUnbind, 0, 0, unix.AF_UNSPEC)
}

// appendHeader appends struct nlmsghdr and struct nfgenmsg of a message with n
// bytes of attributes.
func appendHeader(b []byte, typ uint16, seq uint32, num uint16, n uint32) []byte {
	b = binary.NativeEndian.AppendUint32(b, 20+n)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
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
