package conntrack

import "net/netip"

// Decision lists the changes that are due before the packet may move on. Its slices are
// valid until the next call of the Tracker. Withdrawals come first.
type Decision struct {
	Withdraw []Expectation
	Expect   []Expectation
	// Contested reports that an expectation in Expect may collide with an unused one of
	// another control connection. The caller must hold the packet until the kernel
	// accepts it, and then call Tracker.Admitted.
	Contested bool
	// Opaque are the hosts with a control connection that switched to TLS, whether or not
	// they had one before; Readable are those whose last one closed, was evicted or
	// returned to clear text. Connections with an address that NAT changes are in neither.
	Opaque, Readable []Hosts
	// Anew reports that the packet opens a connection: earlier decisions for the same
	// endpoints no longer apply.
	Anew bool
	// Reopened is set with Anew if conntrack reuses the entry of the earlier connection.
	Reopened bool
	// Skip reports that the Tracker needs no more packets of the connection than its SYN,
	// FIN and RST ones: it is not FTP, or in TLS with Config.SkipOpaque.
	Skip bool
}

// Hosts are the client and the server of control connections.
type Hosts struct {
	Client, Server netip.Addr
}

// Idle reports whether no change is due.
func (d *Decision) Idle() bool {
	return len(d.Withdraw) == 0 && len(d.Expect) == 0 && len(d.Opaque) == 0 && len(d.Readable) == 0 &&
		!d.Anew && !d.Skip
}

// reset empties d, and keeps its slices.
func (d *Decision) reset() {
	*d = Decision{
		Withdraw: d.Withdraw[:0], Expect: d.Expect[:0], Opaque: d.Opaque[:0], Readable: d.Readable[:0],
	}
}
