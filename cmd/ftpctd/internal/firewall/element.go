package firewall

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// element is an element of one of the sets: of an expected set if it has a port,
// else of an opaque one.
type element struct {
	src, dst netip.Addr
	port     uint16
	hasPort  bool
}

var errFamilies = errors.New("addresses are not of one family")

// elements adds elements to the sets and deletes them.
//
// A packet is held meanwhile, and so this does by hand what package nftables
// does in many times the time: one buffer, one sendmsg, no waiting. The kernel
// carries a batch out within the sendmsg (nfnetlink_rcv_batch of
// net/netfilter/nfnetlink.c) and puts its errors, if any, into the socket's
// receive buffer before it returns: an empty one means success.
type elements struct {
	mu  sync.Mutex
	fd  int // closed: -1
	out []byte
	in  []byte
}

func openElements() (*elements, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	return &elements{fd: fd, out: make([]byte, 0, maxBatch), in: make([]byte, maxBatch)}, nil
}

// maxBatch is more than the largest batch is long, and more than what the kernel
// answers to it: the header of an error and the message that it is about.
const maxBatch = 512

func (s *elements) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// add adds x for as long as timeout, or begins its time anew.
func (s *elements) add(x element, timeout time.Duration) error {
	return newElementError(opAdd, s.change(x, timeout, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM, unix.NFT_MSG_NEWSETELEM))
}

// remove deletes x, if it is there.
func (s *elements) remove(x element) error {
	err := s.change(x, 0, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EBADF) {
		return nil // it went with the table
	}
	return newElementError(opDelete, err)
}

// change sends a batch of messages about x.
//
// A batch that fails costs as much as a thousand that do not: the kernel waits
// for a grace period of RCU when it undoes one (__nf_tables_abort of
// net/netfilter/nf_tables_api.c). So none may fail: x is added before it is
// deleted, which is no error if it is there, and deleted before it is added,
// because Linux before 6.12 cannot change the time of an element.
func (s *elements) change(x element, timeout time.Duration, msgs ...uint16) error {
	if !x.oneFamily() {
		return errFamilies
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := appendBatch(s.out[:0], unix.NFNL_MSG_BATCH_BEGIN)
	for _, msg := range msgs {
		b = appendElement(b, msg, x, timeout)
	}
	return s.send(appendBatch(b, unix.NFNL_MSG_BATCH_END))
}

// send sends the batch b and returns the kernel's first error.
func (s *elements) send(b []byte) error {
	if _, err := unix.Write(s.fd, b); err != nil {
		return err
	}
	var first error
	for {
		n, err := unix.Read(s.fd, s.in)
		switch {
		case err == unix.EAGAIN:
			return first
		case err == unix.EINTR:
		case err != nil:
			return err
		case first == nil:
			first = errorOf(s.in[:n])
		}
	}
}

// errorOf returns the error in an NLMSG_ERROR message: struct nlmsghdr, then
// struct nlmsgerr with the negative errno first.
func errorOf(b []byte) error {
	if len(b) < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return unix.EBADMSG
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])))
}

func newElementError(op string, err error) error {
	if err == nil {
		return nil
	}
	advice := ""
	if errors.Is(err, unix.ENOENT) {
		advice = "somebody has removed the table: the daemon makes it again by itself"
	}
	return newError(op, advice, err)
}

// appendBatch appends the message that begins or ends a batch of nftables.
func appendBatch(b []byte, typ uint16) []byte {
	start := len(b)
	b = appendHeader(b, typ, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	return endMessage(b, start)
}

// appendElement appends an NFT_MSG_NEWSETELEM or NFT_MSG_DELSETELEM message for
// one element.
func appendElement(b []byte, msg uint16, x element, timeout time.Duration) []byte {
	flags := uint16(unix.NLM_F_REQUEST)
	if msg == unix.NFT_MSG_NEWSETELEM {
		flags |= unix.NLM_F_CREATE
	}
	start := len(b)
	b = appendHeader(b, unix.NFNL_SUBSYS_NFTABLES<<8|msg, flags, unix.NFPROTO_INET, 0)
	b = appendString(b, unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
	b = appendString(b, unix.NFTA_SET_ELEM_LIST_SET, x.set())
	list := len(b)
	b = appendAttr(b, unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_LIST_ELEMENTS, 0)
	elem := len(b)
	b = appendAttr(b, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, 0)
	key := len(b)
	b = appendAttr(b, unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_KEY, 0)
	value := len(b)
	b = x.appendKey(appendAttr(b, unix.NFTA_DATA_VALUE, 0))
	endAttr(b, value)
	endAttr(b, key)
	if msg == unix.NFT_MSG_NEWSETELEM {
		// Milliseconds. 0 would be for ever.
		ms := max(timeout.Milliseconds(), 1)
		b = binary.BigEndian.AppendUint64(appendAttr(b, unix.NFTA_SET_ELEM_TIMEOUT, 8), uint64(ms))
	}
	endAttr(b, elem)
	endAttr(b, list)
	return endMessage(b, start)
}

func (x element) oneFamily() bool {
	return x.src.IsValid() && x.src.Unmap().BitLen() == x.dst.Unmap().BitLen()
}

// set returns the name of the element's set.
func (x element) set() string {
	f := &ipv6
	if x.src.Unmap().Is4() {
		f = &ipv4
	}
	if x.hasPort {
		return f.expected
	}
	return f.opaque
}

// appendKey appends what the set's lookup is given, every part padded to 4 bytes.
func (x element) appendKey(b []byte) []byte {
	if x.src.Unmap().Is4() {
		src, dst := x.src.Unmap().As4(), x.dst.Unmap().As4()
		b = append(append(b, src[:]...), dst[:]...)
	} else {
		src, dst := x.src.As16(), x.dst.As16()
		b = append(append(b, src[:]...), dst[:]...)
	}
	if x.hasPort {
		b = append(binary.BigEndian.AppendUint16(b, x.port), 0, 0)
	}
	return b
}

// appendHeader appends struct nlmsghdr, its length still open, and struct
// nfgenmsg.
func appendHeader(b []byte, typ, flags uint16, family uint8, resID uint16) []byte {
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint64(b, 0) // sequence number and port ID
	b = append(b, family, unix.NFNETLINK_V0)
	return binary.BigEndian.AppendUint16(b, resID)
}

// endMessage writes the length of the message that began at start. Every
// attribute is padded, so the message is aligned to 4 bytes by itself.
func endMessage(b []byte, start int) []byte {
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// appendAttr appends struct nlattr for n bytes of value.
func appendAttr(b []byte, typ, n uint16) []byte {
	b = binary.NativeEndian.AppendUint16(b, unix.SizeofNlAttr+n)
	return binary.NativeEndian.AppendUint16(b, typ)
}

// endAttr writes the length of the attribute that began at start.
func endAttr(b []byte, start int) {
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
}

// appendString appends s with a NUL behind it, and padding.
func appendString(b []byte, typ uint16, s string) []byte {
	b = append(appendAttr(b, typ, uint16(len(s)+1)), s...)
	for range 4 - len(s)%4 {
		b = append(b, 0)
	}
	return b
}
