package nfq

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"ftpctd/nfq/nfnetlink"
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

// messageOverhead is more than the kernel puts around the bytes of a packet: the
// headers, attributes with devices, marks and the like, and those of the
// connection.
const messageOverhead = 2048

// Sequence numbers of the messages of this package. The kernel replies to them only
// with errors, which carry the number.
const (
	// SeqVerdict marks verdicts. A message of a handler must not use it.
	SeqVerdict uint32 = 0
	// SeqSilent marks messages of a handler whose errors do not matter to it, such as
	// the deletion of what may not exist: Handler.Rejected is not called, and the loop
	// is not woken.
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
	return appendAccept(b, msgVerdict, SeqVerdict, num, id)
}

// appendPing appends the same with the sequence number SeqPing.
func appendPing(b []byte, num uint16, id uint32) []byte {
	return appendAccept(b, msgVerdict, SeqPing, num, id)
}

// appendVerdictBatch appends an NFQNL_MSG_VERDICT_BATCH message that accepts
// every packet of queue num up to the packet id, in the cyclic order of IDs.
func appendVerdictBatch(b []byte, num uint16, id uint32) []byte {
	return appendAccept(b, msgVerdictBatch, SeqRelease, num, id)
}

func appendAccept(b []byte, typ uint16, seq uint32, num uint16, id uint32) []byte {
	start := len(b)
	b = appendHeader(b, typ, 0, seq, num)
	b = nfnetlink.AppendAttr(b, nfqaVerdictHeader, 8)
	b = binary.BigEndian.AppendUint32(b, verdictAccept)
	b = binary.BigEndian.AppendUint32(b, id)
	return nfnetlink.EndMessage(b, start)
}

// appendUnbind appends an NFQNL_MSG_CONFIG message that unbinds queue num.
func appendUnbind(b []byte, num uint16) []byte {
	return appendConfigCommand(b, 0, num, commandUnbind)
}

// appendCommand appends an NFQNL_MSG_CONFIG message with a command for queue
// num, which the kernel acknowledges.
func appendCommand(b []byte, num uint16, command byte) []byte {
	return appendConfigCommand(b, unix.NLM_F_ACK, num, command)
}

func appendConfigCommand(b []byte, flags, num uint16, command byte) []byte {
	start := len(b)
	b = appendHeader(b, msgConfig, flags, SeqRelease, num)
	b = nfnetlink.AppendAttr(b, nfqaConfigCommand, 4)
	b = append(b, command, 0, 0, unix.AF_UNSPEC) // both families
	return nfnetlink.EndMessage(b, start)
}

// appendConfig appends an NFQNL_MSG_CONFIG message that configures queue num, which
// the kernel acknowledges: copyRange bytes of a packet are copied, and length
// packets may wait, or the kernel's default number if it is 0. The kernel changes
// nothing if it does not know one of the flags.
func appendConfig(b []byte, num uint16, copyRange, length, flags uint32) []byte {
	start := len(b)
	b = appendHeader(b, msgConfig, unix.NLM_F_ACK, SeqRelease, num)
	b = nfnetlink.AppendAttr(b, nfqaConfigParams, 5)
	b = binary.BigEndian.AppendUint32(b, copyRange)
	b = append(b, copyPacket, 0, 0, 0) // and padding
	if length > 0 {
		b = nfnetlink.AppendUint32(b, nfqaConfigMaxLen, length)
	}
	b = nfnetlink.AppendUint32(b, nfqaConfigMask, flags)
	b = nfnetlink.AppendUint32(b, nfqaConfigFlags, flags)
	return nfnetlink.EndMessage(b, start)
}

// appendHeader appends the header of a request about queue num.
func appendHeader(b []byte, typ, flags uint16, seq uint32, num uint16) []byte {
	return nfnetlink.AppendHeader(b, nfnetlink.Header{
		Type: typ, Flags: unix.NLM_F_REQUEST | flags, Seq: seq, Family: unix.AF_UNSPEC, ResID: num,
	})
}

// parsePacket finds the packet in an NFQNL_MSG_PACKET message. A message without
// a payload is one of a packet without bytes.
func parsePacket(m nfnetlink.Message) (id uint32, payload, conntrack []byte, ok bool) {
	b, _ := m.Attributes()
	for {
		a, rest, whole := nfnetlink.NextAttr(b)
		if !whole {
			return id, payload, conntrack, ok
		}
		b = rest
		switch a.Type {
		case nfqaPacketHeader:
			if len(a.Value) >= 4 {
				id, ok = binary.BigEndian.Uint32(a.Value), true
			}
		case nfqaPayload:
			payload = a.Value
		case nfqaConntrack:
			conntrack = a.Value
		}
	}
}
