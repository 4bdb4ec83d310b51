package admit

import (
	"time"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
)

// Table queues the first packets of data connections before conntrack sees them. It is
// firewall.Table, and safe for concurrent use.
type Table interface {
	// Apply carries out changes in their order.
	Apply(changes []firewall.Change) error
}

// Entry admits data connections without a helper: the tracker keeps the expectations,
// the table queues the first packets of their data connections, and the engine sends such
// a packet on behind the message that creates its conntrack entry, with the control
// connection as its master. Conntrack then calls it RELATED.
//
// Its methods belong to the goroutine of one queue, but for Expect, Delete and ApplyTLS,
// which are safe for concurrent use. A nil *Entry rejects every expectation.
type Entry struct {
	table   Table
	timeout time.Duration

	// What the packets at hand change in the table, so that it takes one transaction and
	// not one for each line.
	changes  []firewall.Change
	expected []conntrack.Expectation // added by changes
}

// NewEntry makes an Entry for a queue. A data connection may take as long as timeout to
// begin.
func NewEntry(table Table, timeout time.Duration) *Entry {
	return &Entry{table: table, timeout: timeout}
}

// AppendExpect keeps x for Flush, and returns b as it is. It fails where no entry can be
// made.
func (n *Entry) AppendExpect(b []byte, _ uint32, x *conntrack.Expectation) ([]byte, error) {
	c, err := n.change(x)
	if err != nil {
		return b, err
	}
	n.add(c)
	n.expected = append(n.expected, *x)
	return b, nil
}

// AppendDelete keeps the removal of x for Flush, and returns b as it is. A first packet
// that is queued nevertheless meets no expectation.
func (n *Entry) AppendDelete(b []byte, _ uint32, x *conntrack.Expectation) []byte {
	n.add(changeOf(x, 0))
	return b
}

// Expect adds x to the table at once.
func (n *Entry) Expect(x *conntrack.Expectation) error {
	c, err := n.change(x)
	if err != nil {
		return err
	}
	return n.table.Apply([]firewall.Change{c})
}

// Delete does nothing: the element of x expires.
func (n *Entry) Delete(*conntrack.Expectation) error { return nil }

// SetTLS keeps for Flush that the first packets of data connections between h are queued
// for as long as timeout, and if it is 0 no longer.
func (n *Entry) SetTLS(h conntrack.HostPair, timeout time.Duration) { n.add(changeOfHosts(h, timeout)) }

// ApplyTLS is SetTLS at once.
func (n *Entry) ApplyTLS(h conntrack.HostPair, timeout time.Duration) error {
	return n.table.Apply([]firewall.Change{changeOfHosts(h, timeout)})
}

// Flush carries out what was kept since the last call, in one transaction. If that fails
// it returns the expectations that were lost, which are valid until the next call of
// AppendExpect, and whether other changes were.
func (n *Entry) Flush() (expected []conntrack.Expectation, others bool, err error) {
	if len(n.changes) == 0 {
		return nil, false, nil
	}
	expected, others = n.expected, len(n.expected) < len(n.changes)
	err = n.table.Apply(n.changes)
	n.changes, n.expected = n.changes[:0], n.expected[:0]
	return expected, others, err
}

// add adds a change. Of several for the same packets the last one counts: a client that
// announces and withdraws in one packet costs others nothing.
func (n *Entry) add(c firewall.Change) {
	for i := range n.changes {
		if n.changes[i].Same(c) {
			n.changes[i] = c
			return
		}
	}
	n.changes = append(n.changes, c)
}

// change is the change that adds x to the table. It fails where no entry can be made.
func (n *Entry) change(x *conntrack.Expectation) (firewall.Change, error) {
	switch {
	case n == nil:
		return firewall.Change{}, errShare
	case x.AddrNAT:
		return firewall.Change{}, errNAT
	}
	return changeOf(x, n.timeout), nil
}

// changeOf is the change that adds x, or removes it if timeout is 0.
func changeOf(x *conntrack.Expectation, timeout time.Duration) firewall.Change {
	return firewall.Change{
		Src: x.Tuple.Src.Addr(), Dst: x.Tuple.Dst.Addr(), Port: x.Tuple.Dst.Port(), Timeout: timeout,
	}
}

func changeOfHosts(h conntrack.HostPair, timeout time.Duration) firewall.Change {
	return firewall.Change{Src: h.Client, Dst: h.Server, Timeout: timeout}
}
