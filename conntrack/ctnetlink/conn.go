// Package ctnetlink speaks ctnetlink, the netlink interface of the kernel's
// connection tracking: it inserts, withdraws and lists expectations, makes the
// entries of connections that are yet to come, looks up connections, and registers
// helpers.
//
// There are two ways. [Conn] has a socket of its own and waits for the kernel's
// answer. [AppendExpect], [AppendDelete], [AppendEntry], [AppendDeleteConnection] and
// [AppendMark] only write messages, for a sender that packs them with others and
// takes errors as they come ([Explain]).
//
// The formats are those of net/netfilter/nf_conntrack_netlink.c,
// net/netfilter/nfnetlink_cthelper.c and their headers in
// include/uapi/linux/netfilter.
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

// Conn is a ctnetlink socket whose operations wait for the kernel's answer. It
// belongs to the network namespace of the thread that called [Dial]. It is safe
// for concurrent use; operations follow each other.
//
// Every error is an *[Error].
type Conn struct {
	mu  sync.Mutex // held from a request to the end of its answer
	nl  *netlink.Conn
	raw syscall.RawConn
	buf [maxAnswer]byte // get reads into it
}

// Dial opens a socket. That alone needs no privilege; the operations need
// CAP_NET_ADMIN.
func Dial() (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, Explain(OpDial, conntrack.Tuple{}, err)
	}
	// The kernel's own words make errors clearer, but Linux before 4.12 has none.
	err = nl.SetOption(netlink.ExtendedAcknowledge, true)
	if errors.Is(err, unix.ENOPROTOOPT) {
		err = nil
	}
	raw, rawErr := nl.SyscallConn()
	if err := errors.Join(err, rawErr); err != nil {
		_ = nl.Close()
		return nil, Explain(OpDial, conntrack.Tuple{}, err)
	}
	return &Conn{nl: nl, raw: raw}, nil
}

// Close closes the socket. It does not wait for operations under way, which
// fail.
func (c *Conn) Close() error { return c.nl.Close() }

// Expect inserts x. It fails with EOPNOTSUPP if the master has no helper,
// ENOENT if there is no such master, EEXIST or EBUSY if the same packets are
// expected already, EMFILE if the table is full.
//
// A helper's policy bounds the number of expectations of one master: one more
// than that is no error but takes the place of the oldest.
func (c *Conn) Expect(x *conntrack.Expectation) error {
	_, err := c.execute(AppendExpect(nil, 0, x), netlink.Acknowledge)
	return Explain(OpExpect, x.Tuple, err)
}

// Delete withdraws x, found by its tuple. It fails with ENOENT if there is no
// such expectation.
func (c *Conn) Delete(x *conntrack.Expectation) error {
	_, err := c.execute(AppendDelete(nil, 0, x), netlink.Acknowledge)
	return Explain(OpDelete, x.Tuple, err)
}

// DeleteOwn is Delete for an expectation of x.Master: it leaves one of another master
// with the same tuple alone, as if there were none.
func (c *Conn) DeleteOwn(x *conntrack.Expectation) error {
	data, err := c.get(appendGetExpect(nil, x), msgExpectNew)
	if err != nil {
		return Explain(OpDelete, x.Tuple, err)
	}
	found, err := parseExpect(data)
	if err != nil {
		return Explain(OpDelete, x.Tuple, err)
	}
	if found.Master != x.Master {
		return Explain(OpDelete, x.Tuple, unix.ENOENT)
	}
	_, err = c.execute(appendDeleteID(nil, x, found.ID), netlink.Acknowledge)
	return Explain(OpDelete, x.Tuple, err)
}

// DeleteExpectations withdraws the expectations of all connections with a helper, in
// every zone of the network namespace. It is no error if there are none.
func (c *Conn) DeleteExpectations(helper string) error {
	_, err := c.execute(appendDeleteAll(nil, helper), netlink.Acknowledge)
	return explainHelper(OpDelete, helper, err)
}

// Expectations lists the expectations of the network namespace, those of other
// helpers included, in no order. The kernel does not tell their zones
// (ctnetlink_exp_dump_expect in net/netfilter/nf_conntrack_netlink.c).
func (c *Conn) Expectations() ([]Listed, error) {
	msgs, err := c.execute(appendDump(nil), 0)
	if err != nil {
		return nil, Explain(OpList, conntrack.Tuple{}, err)
	}
	entries := make([]Listed, 0, len(msgs))
	for _, m := range msgs {
		e, err := parseExpect(m.Data)
		if err != nil {
			return nil, &Error{Op: OpList, Err: err}
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Connection looks up the control connection between ends, its client and server
// themselves, as [conntrack.Connection.Endpoints] has them, in the default zone. It
// fails with ENOENT if there is none, which is also so if NAT translates both its
// source and its destination: then neither direction has the two.
func (c *Conn) Connection(ends conntrack.Tuple) (conntrack.Connection, error) {
	data, err := c.lookup(ends) // the original direction, if the destination is not translated
	if errors.Is(err, unix.ENOENT) {
		data, err = c.lookup(conntrack.Tuple{Src: ends.Dst, Dst: ends.Src}) // the reply, if the source is not
	}
	var found conntrack.Connection
	if err == nil {
		err = parseConnection(data, &found)
	}
	if err != nil {
		return conntrack.Connection{}, Explain(OpLookup, ends, err)
	}
	return found, nil
}

// Masters returns the connections that may be the master of an expectation that was
// listed with this one: every zone may have one. It goes through the whole connection
// table, in the kernel.
func (c *Conn) Masters(master conntrack.Tuple) ([]conntrack.Connection, error) {
	found, err := c.dump(appendFind(nil, master))
	if err != nil {
		return nil, Explain(OpLookup, master, err)
	}
	return slices.DeleteFunc(found, func(c conntrack.Connection) bool { return c.Original != master }), nil
}

// Servers returns the connections whose server has one of ports, in every zone. It goes
// through the whole connection table, in the kernel, for each port and family.
func (c *Conn) Servers(ports []uint16) ([]conntrack.Connection, error) {
	var all []conntrack.Connection
	for _, port := range ports {
		for _, family := range [...]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			found, err := c.dump(appendFindServers(nil, family, port))
			if err != nil {
				return nil, Explain(OpLookup, conntrack.Tuple{}, err)
			}
			all = append(all, found...)
		}
	}
	return all, nil
}

// dump returns the connections in the answer to the request b.
func (c *Conn) dump(b []byte) ([]conntrack.Connection, error) {
	msgs, err := c.execute(b, 0)
	if err != nil {
		return nil, err
	}
	found := make([]conntrack.Connection, len(msgs))
	for i, m := range msgs {
		if err := parseConnection(m.Data, &found[i]); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// CreateEntry makes an entry for the data connection data, ahead of its first
// packet, as RELATED to the connection master: see [AppendEntry]. It fails with
// ENOENT if there is no such master, EEXIST if data has an entry, ENOMEM if the
// connection table is full.
func (c *Conn) CreateEntry(data, master conntrack.Tuple) error {
	_, err := c.execute(AppendEntry(nil, 0, data, master), netlink.Acknowledge)
	return Explain(OpCreate, data, err)
}

// execute sends the message in b with flags added, and waits for the answer.
func (c *Conn) execute(b []byte, flags netlink.HeaderFlags) ([]netlink.Message, error) {
	m, err := request(b, flags)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nl.Execute(m)
}

// maxAnswer is more than the kernel gives to one message: a page at most
// (NLMSG_GOODSIZE).
const maxAnswer = 8192

// lookup returns what follows the netlink header of the connection's message.
func (c *Conn) lookup(t conntrack.Tuple) ([]byte, error) {
	return c.get(appendLookup(nil, t), msgConntrackNew)
}

// get sends the request b for one object and returns what follows the netlink header of
// the answer, a message of the type typ.
//
// The kernel marks that message NLM_F_MULTI, as if it were of a dump, but ends
// it with no NLMSG_DONE (ctnetlink_fill_info, ctnetlink_exp_fill_info), and so Execute
// would wait for ever. The answer to a request without ACK is one datagram: it is read
// here.
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
	answer, _, _ := nfnetlink.NextMessage(c.buf[:n])
	if answer.Type == typ {
		return slices.Clone(answer.Body), nil
	}
	if errno, ok := answer.Errno(); ok {
		return nil, errno
	}
	return nil, errReply
}

// errReply is of a reply that is neither what was asked for nor an error.
var errReply = errors.New("unexpected reply from kernel")

// request parses a message that one of the append functions wrote, for a socket
// that numbers its requests itself.
func request(b []byte, flags netlink.HeaderFlags) (netlink.Message, error) {
	var m netlink.Message
	err := m.UnmarshalBinary(b)
	m.Header.Flags |= flags
	return m, err
}
