package nfq

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// A socketFilter drops datagrams of the kernel before they reach the socket. To the
// kernel they count as delivered.
type socketFilter []unix.SockFilter

// Offsets in struct nlmsghdr.
const (
	typeOffset = 4
	seqOffset  = 8
)

var (
	// noPackets drops packets.
	noPackets = socketFilter{
		load(unix.BPF_H, typeOffset),
		unlessEqual(loaded16(msgPacket), 1),
		drop,
		pass,
	}
	// noSilent drops errors of messages marked SeqSilent, each of which would wake the
	// loop for nothing.
	noSilent = socketFilter{
		load(unix.BPF_H, typeOffset),
		unlessEqual(loaded16(unix.NLMSG_ERROR), 3),
		load(unix.BPF_W, seqOffset),
		unlessEqual(loaded32(SeqSilent), 1),
		drop,
		pass,
	}
)

// The instructions.
var (
	drop = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	pass = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1}
)

func load(size uint16, offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: offset}
}

// unlessEqual skips instructions if the loaded value is not v.
func unlessEqual(v uint32, skip uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: v, Jf: skip}
}

// BPF loads in network byte order what netlink writes in the host's.
func loaded16(v uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)))
}

func loaded32(v uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, v))
}

// attach replaces the filter of a socket.
func (f socketFilter) attach(fd int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}))
}
