package firewall

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/nfq/nfnetlink"
)

// Change adds an element to one of the sets of data connections, or removes it. With the
// element, the rules queue the first packet of connections from Src to Port of Dst before
// conntrack sees it, or to any of Config.TLSPorts where Port is 0. The addresses must be
// of one family; an IPv4-mapped IPv6 address is IPv4.
type Change struct {
	Src, Dst netip.Addr
	Port     uint16
	// Timeout is how long the element stays, counted again if it is there already. 0
	// removes the element. It is no error if there is none.
	Timeout time.Duration
}

// Same reports whether c and other change the same element.
func (c Change) Same(other Change) bool {
	return c.Port == other.Port && c.Src == other.Src && c.Dst == other.Dst
}

var errFamilies = errors.New("addresses are of different families")

// elements adds elements to the sets and deletes them.
//
// Packets wait for it, and package nftables takes many times as long: this uses one
// buffer and one write. The kernel carries out a batch within the write
// (nfnetlink_rcv_batch of net/netfilter/nfnetlink.c) and puts its errors into the
// socket's receive buffer before it returns: an empty buffer means success.
//
// It also adds the hooks of data connections with the first element, and deletes them
// when they are idle.
type elements struct {
	now func() time.Time

	mu    sync.Mutex
	fd    int // closed: -1
	out   []byte
	in    []byte
	hooks hooks
}

func openElements(cfg Config) (*elements, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	h, err := newHooks(cfg)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	s := &elements{now: cfg.Now, fd: fd, in: make([]byte, maxReply), hooks: h}
	if s.now == nil {
		s.now = time.Now
	}
	return s, nil
}

const (
	// maxReply is more than the size of the kernel's reply to a change: an error and
	// the message that it is about.
	maxReply = 512
	// maxChanges limits the changes of one transaction to about 32 KiB: well below the
	// send buffer of any system.
	maxChanges = 128
)

func (s *elements) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// apply carries out changes in their order, up to maxChanges in a transaction.
//
// A transaction that fails costs as much as a thousand that do not: the kernel waits for
// an RCU grace period when it aborts one (__nf_tables_abort of
// net/netfilter/nf_tables_api.c). So none may fail: an element is added, which is no
// error if it exists, before it is deleted, and deleted before it is added with its
// timeout, which Linux before 6.12 cannot change.
func (s *elements) apply(changes []Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	hook := s.hooks.needed(changes)
	for len(changes) > 0 {
		n := min(len(changes), maxChanges)
		removes := !hook
		b := appendBatch(s.out[:0], unix.NFNL_MSG_BATCH_BEGIN)
		if hook {
			b = append(b, s.hooks.add...)
		}
		for i := range changes[:n] {
			c := &changes[i]
			if !c.oneFamily() {
				return newError(OpAdd, errFamilies)
			}
			b = appendElement(b, unix.NFT_MSG_NEWSETELEM, c)
			b = appendElement(b, unix.NFT_MSG_DELSETELEM, c)
			if c.Timeout > 0 {
				b = appendElement(b, unix.NFT_MSG_NEWSETELEM, c)
				removes = false
			}
		}
		s.out = appendBatch(b, unix.NFNL_MSG_BATCH_END)
		err := s.send(s.out)
		switch {
		case err == nil:
		case !removes:
			return newError(OpAdd, err)
		case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBADF): // else it went with the table
			return newError(OpDelete, err)
		}
		if hook {
			s.hooks.added(now)
			hook = false
		}
		s.hooks.record(now, changes[:n])
		changes = changes[n:]
	}
	return nil
}

// send sends the batch b and returns the kernel's first error. It empties the receive
// buffer, so that the next batch does not read this one's errors, even if there were more
// than the buffer holds, which the kernel reports first.
func (s *elements) send(b []byte) error {
	if _, err := unix.Write(s.fd, b); err != nil {
		return err
	}
	var first, overflow error
	for {
		n, err := unix.Read(s.fd, s.in)
		switch {
		case err == unix.EAGAIN && first == nil:
			return overflow
		case err == unix.EAGAIN:
			return first
		case err == unix.EINTR:
		case err == unix.ENOBUFS:
			overflow = err
		case err != nil:
			return err
		case first == nil:
			m, _, _ := nfnetlink.NextMessage(s.in[:n])
			errno, ok := m.Errno()
			if !ok {
				errno = unix.EBADMSG
			}
			first = errno
		}
	}
}

// appendBatch appends the message that begins or ends a batch of nftables.
func appendBatch(b []byte, typ uint16) []byte {
	start := len(b)
	b = nfnetlink.AppendHeader(b, nfnetlink.Header{Type: typ, Flags: unix.NLM_F_REQUEST, ResID: unix.NFNL_SUBSYS_NFTABLES})
	return nfnetlink.EndMessage(b, start)
}

// appendHeader appends what a message to nftables about an inet table begins with.
func appendHeader(b []byte, msg, flags uint16) []byte {
	return nfnetlink.AppendHeader(b, nfnetlink.Header{
		Type: unix.NFNL_SUBSYS_NFTABLES<<8 | msg, Flags: unix.NLM_F_REQUEST | flags, Family: unix.NFPROTO_INET,
	})
}

// appendElement appends an NFT_MSG_NEWSETELEM or NFT_MSG_DELSETELEM message for
// one element.
func appendElement(b []byte, msg uint16, c *Change) []byte {
	var flags uint16
	if msg == unix.NFT_MSG_NEWSETELEM {
		flags = unix.NLM_F_CREATE
	}
	start := len(b)
	b = appendHeader(b, msg, flags)
	b = nfnetlink.AppendString(b, unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
	b = nfnetlink.AppendString(b, unix.NFTA_SET_ELEM_LIST_SET, c.set())
	list := len(b)
	b = nfnetlink.AppendNest(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	elem := len(b)
	b = nfnetlink.AppendNest(b, unix.NFTA_LIST_ELEM)
	key := len(b)
	b = nfnetlink.AppendNest(b, unix.NFTA_SET_ELEM_KEY)
	value := len(b)
	b = c.appendKey(nfnetlink.AppendAttr(b, unix.NFTA_DATA_VALUE, 0))
	b = nfnetlink.EndAttr(b, value)
	b = nfnetlink.EndAttr(b, key)
	if msg == unix.NFT_MSG_NEWSETELEM {
		// Milliseconds, of which 0 would mean no timeout.
		ms := max(c.Timeout.Milliseconds(), 1)
		b = nfnetlink.AppendUint64(b, unix.NFTA_SET_ELEM_TIMEOUT, uint64(ms))
	}
	b = nfnetlink.EndAttr(b, elem)
	b = nfnetlink.EndAttr(b, list)
	return nfnetlink.EndMessage(b, start)
}

func (c *Change) oneFamily() bool {
	return c.Src.IsValid() && c.Src.Unmap().BitLen() == c.Dst.Unmap().BitLen()
}

// set returns the name of the element's set.
func (c *Change) set() string {
	f := &ipv6
	if c.Src.Unmap().Is4() {
		f = &ipv4
	}
	if c.Port != 0 {
		return f.expected
	}
	return f.opaque
}

// appendKey appends what the set's lookup is given, every part padded to 4 bytes.
func (c *Change) appendKey(b []byte) []byte {
	if c.Src.Unmap().Is4() {
		src, dst := c.Src.Unmap().As4(), c.Dst.Unmap().As4()
		b = append(append(b, src[:]...), dst[:]...)
	} else {
		src, dst := c.Src.As16(), c.Dst.As16()
		b = append(append(b, src[:]...), dst[:]...)
	}
	if c.Port != 0 {
		b = append(binary.BigEndian.AppendUint16(b, c.Port), 0, 0)
	}
	return b
}
