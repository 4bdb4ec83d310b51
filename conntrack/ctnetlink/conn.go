package ctnetlink

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ftpctd/conntrack"
	"ftpctd/nfq/nfnetlink"
)

// Conn is a ctnetlink socket whose operations wait for the kernel's reply. It
// belongs to the network namespace of the thread that called [Dial]. It is safe
// for concurrent use; operations run one at a time.
//
// Every error is an *[Error].
type Conn struct {
	mu  sync.Mutex // held from a request to the end of its reply
	nl  *netlink.Conn
	raw syscall.RawConn
	buf [maxReply]byte // get reads into it
}

// Dial opens a socket, which needs no privilege; the operations need CAP_NET_ADMIN.
func Dial() (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, WrapError(OpDial, conntrack.Tuple{}, err)
	}
	// The kernel's messages make errors clearer, but Linux before 4.12 has none.
	err = nl.SetOption(netlink.ExtendedAcknowledge, true)
	if errors.Is(err, unix.ENOPROTOOPT) {
		err = nil
	}
	raw, rawErr := nl.SyscallConn()
	if err := errors.Join(err, rawErr); err != nil {
		_ = nl.Close()
		return nil, WrapError(OpDial, conntrack.Tuple{}, err)
	}
	return &Conn{nl: nl, raw: raw}, nil
}

// Close closes the socket. It does not wait for operations under way, which
// fail.
func (c *Conn) Close() error { return c.nl.Close() }

// Expect inserts x. It fails with EOPNOTSUPP if the master has no helper,
// ENOENT if there is no such master, EEXIST or EBUSY if the same packets are
// already expected, EMFILE if the table is full.
//
// A helper's policy limits the expectations of a master: one more is no error but
// replaces the oldest.
func (c *Conn) Expect(x *conntrack.Expectation) error {
	_, err := c.execute(AppendExpect(nil, 0, x), netlink.Acknowledge)
	return WrapError(OpExpect, x.Tuple, err)
}

// Delete deletes the expectation with x's tuple and zone. It fails with ENOENT if
// there is none.
func (c *Conn) Delete(x *conntrack.Expectation) error {
	_, err := c.execute(AppendDelete(nil, 0, x), netlink.Acknowledge)
	return WrapError(OpDelete, x.Tuple, err)
}

// DeleteOwn is Delete for an expectation of x.Master alone: it fails with ENOENT, too,
// if the one with the same tuple belongs to another master.
func (c *Conn) DeleteOwn(x *conntrack.Expectation) error {
	data, err := c.get(appendGetExpect(nil, x), msgExpectNew)
	if err != nil {
		return WrapError(OpDelete, x.Tuple, err)
	}
	found, err := parseExpect(data)
	if err != nil {
		return WrapError(OpDelete, x.Tuple, err)
	}
	if found.Master != x.Master {
		return WrapError(OpDelete, x.Tuple, unix.ENOENT)
	}
	_, err = c.execute(appendDeleteID(nil, x, found.ID), netlink.Acknowledge)
	return WrapError(OpDelete, x.Tuple, err)
}

// DeleteExpectations deletes the expectations of all connections with a helper, in
// every zone of the network namespace. It is no error if there are none.
func (c *Conn) DeleteExpectations(helper string) error {
	_, err := c.execute(appendDeleteAll(nil, helper), netlink.Acknowledge)
	return wrapHelperError(OpDelete, helper, err)
}

// Expectations lists the expectations of the network namespace, those of other
// helpers included, in any order. The kernel does not report their zones
// (ctnetlink_exp_dump_expect in net/netfilter/nf_conntrack_netlink.c).
func (c *Conn) Expectations() ([]ExpectationEntry, error) {
	msgs, err := c.execute(appendDump(nil), 0)
	if err != nil {
		return nil, WrapError(OpList, conntrack.Tuple{}, err)
	}
	entries := make([]ExpectationEntry, 0, len(msgs))
	for _, m := range msgs {
		e, err := parseExpect(m.Data)
		if err != nil {
			return nil, &Error{Op: OpList, Err: err}
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Lookup returns the control connection between ends in the default zone: its client
// and server behind any NAT, as [conntrack.Connection.Endpoints] returns them. It fails
// with ENOENT if there is none, or if NAT changes both its source and its
// destination: then neither direction has both ends.
func (c *Conn) Lookup(ends conntrack.Tuple) (conntrack.Connection, error) {
	data, err := c.lookup(ends) // the original direction, if the destination is not translated
	if errors.Is(err, unix.ENOENT) {
		data, err = c.lookup(conntrack.Tuple{Src: ends.Dst, Dst: ends.Src}) // the reply, if the source is not
	}
	var found conntrack.Connection
	if err == nil {
		found, err = parseConnection(data)
	}
	if err != nil {
		return conntrack.Connection{}, WrapError(OpLookup, ends, err)
	}
	return found, nil
}

// FindConnections returns the connections whose original direction is master: there may
// be one in every zone. The kernel scans its whole connection table.
func (c *Conn) FindConnections(master conntrack.Tuple) ([]conntrack.Connection, error) {
	found, err := c.dump(appendDumpByPorts(nil, master))
	if err != nil {
		return nil, WrapError(OpLookup, master, err)
	}
	return slices.DeleteFunc(found, func(c conntrack.Connection) bool { return c.Original != master }), nil
}

// Servers returns the connections, in every zone, whose server has one of ports. The
// kernel scans its whole connection table for each port and family.
func (c *Conn) Servers(ports []uint16) ([]conntrack.Connection, error) {
	var all []conntrack.Connection
	for _, port := range ports {
		for _, family := range [...]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			found, err := c.dump(appendDumpByServerPort(nil, family, port))
			if err != nil {
				return nil, WrapError(OpLookup, conntrack.Tuple{}, err)
			}
			all = append(all, found...)
		}
	}
	return all, nil
}

// dump returns the connections in the reply to the request b.
func (c *Conn) dump(b []byte) ([]conntrack.Connection, error) {
	msgs, err := c.execute(b, 0)
	if err != nil {
		return nil, err
	}
	found := make([]conntrack.Connection, len(msgs))
	for i, m := range msgs {
		if found[i], err = parseConnection(m.Data); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// CreateEntry creates the entry of the data connection data, ahead of its first
// packet, as RELATED to the connection master: see [AppendEntry]. It fails with
// ENOENT if there is no such master, EEXIST if data has an entry, ENOMEM if the
// connection table is full.
func (c *Conn) CreateEntry(data, master conntrack.Tuple) error {
	_, err := c.execute(AppendEntry(nil, 0, data, master), netlink.Acknowledge)
	return WrapError(OpCreate, data, err)
}

// execute sends the message b with flags added, and returns the reply.
func (c *Conn) execute(b []byte, flags netlink.HeaderFlags) ([]netlink.Message, error) {
	m, err := request(b, flags)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nl.Execute(m)
}

// maxReply is more than the kernel sends in one message: a page at most
// (NLMSG_GOODSIZE).
const maxReply = 8192

// lookup returns the body of the message about the connection t.
func (c *Conn) lookup(t conntrack.Tuple) ([]byte, error) {
	return c.get(appendLookup(nil, t), msgConntrackNew)
}

// get sends the request b for one object and returns the body of the reply, a message of
// the type typ.
//
// The kernel marks that message NLM_F_MULTI, as if it were part of a dump, but sends no
// NLMSG_DONE after it (ctnetlink_fill_info, ctnetlink_exp_fill_info): netlink.Conn's
// Execute would wait for ever. The reply to a request without ACK is one datagram, which
// is read here.
func (c *Conn) get(b []byte, typ uint16) ([]byte, error) {
	m, err := request(b, 0)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.nl.Send(m); err != nil {
		return nil, err
	}
	var n int
	var recvErr error
	err = c.raw.Read(func(fd uintptr) bool {
		n, _, recvErr = unix.Recvfrom(int(fd), c.buf[:], 0)
		return recvErr != unix.EAGAIN && recvErr != unix.EINTR
	})
	if err := errors.Join(err, recvErr); err != nil {
		return nil, err
	}
	reply, _, _ := nfnetlink.NextMessage(c.buf[:n])
	if reply.Type == typ {
		return slices.Clone(reply.Body), nil
	}
	if errno, ok := reply.Errno(); ok {
		return nil, errno
	}
	return nil, errReply
}

// errReply is of a reply that is neither what was asked for nor an error.
var errReply = errors.New("unexpected reply from kernel")

// request converts a message of one of the append functions for netlink.Conn, which
// sets the sequence number.
func request(b []byte, flags netlink.HeaderFlags) (netlink.Message, error) {
	var m netlink.Message
	err := m.UnmarshalBinary(b)
	m.Header.Flags |= flags
	return m, err
}
