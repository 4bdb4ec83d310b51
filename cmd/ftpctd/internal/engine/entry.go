package engine

import (
	"errors"
	"time"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
)

// Table queues the first packet of data connections before conntrack sees it. It is
// firewall.Table.
type Table interface {
	// Apply carries out changes in their order.
	Apply(changes []firewall.Change) error
}

// Entry is the admission mode "entry", which needs no helper: the tracker keeps the
// expectations, the table queues the first packets of their data connections, and such a
// packet gets its conntrack entry, with the control connection as its master,
// before conntrack sees it. Conntrack then calls it RELATED.
type Entry struct {
	Table Table
	// Timeout is how long a data connection may take to come.
	Timeout time.Duration
}

// errNAT refuses what would lead elsewhere, or come from elsewhere: an entry that
// exists already passes NAT's rules by, and the address that it is for may be the
// router's own.
var errNAT = errors.New("the control connection goes through NAT, which an entry cannot follow: a helper is needed")

// change is the change that adds x to the table. It fails where an entry cannot be made.
func (n *Entry) change(x *conntrack.Expectation) (firewall.Change, error) {
	if x.Readdressed {
		return firewall.Change{}, errNAT
	}
	return changeOf(x, n.Timeout), nil
}

// batch collects what the packets at hand change in the table, so that it takes one
// transaction and not one for each line.
type batch struct {
	changes  []firewall.Change
	expected []conntrack.Expectation // what changes add
}

// changeOf is the change that adds x, or removes it if timeout is 0.
func changeOf(x *conntrack.Expectation, timeout time.Duration) firewall.Change {
	return firewall.Change{
		Src: x.Tuple.Src.Addr(), Dst: x.Tuple.Dst.Addr(), Port: x.Tuple.Dst.Port(), Timeout: timeout,
	}
}

// add adds a change. Of several for the same packets the last one counts: who
// announces and withdraws in one breath costs others nothing.
func (b *batch) add(c firewall.Change) {
	for i := range b.changes {
		if b.changes[i].Same(c) {
			b.changes[i] = c
			return
		}
	}
	b.changes = append(b.changes, c)
}

func (b *batch) reset() { b.changes, b.expected = b.changes[:0], b.expected[:0] }
