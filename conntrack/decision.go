package conntrack

import "net/netip"

// Decision lists the changes that are due before the packet may move on. Its slices are
// valid until the next call of the Tracker. Withdrawals come first.
type Decision struct {
	Withdraw []Expectation
	Expect   []Expectation
	// Conflict reports that an expectation in Expect may collide with an unused one of
	// another control connection. The caller must hold the packet until the kernel
	// accepts it, and then call Tracker.Confirm.
	Conflict bool
	// TLSStarted are the hosts with a control connection that switched to TLS, whether or
	// not they had one before; TLSEnded are those whose last one closed, was evicted or
	// returned to clear text. Connections with an address that NAT changes are in neither.
	TLSStarted, TLSEnded []HostPair
	// NewConn reports that the packet opens a connection: earlier decisions for the same
	// endpoints no longer apply.
	NewConn bool
	// Reopened is set with NewConn if conntrack reuses the entry of the earlier connection.
	Reopened bool
	// Skip reports that the Tracker needs no more packets of the connection than its SYN,
	// FIN and RST ones: it is not FTP, or in TLS with Config.SkipOpaque.
	Skip bool
}

// HostPair is the client and the server of control connections.
type HostPair struct {
	Client, Server netip.Addr
}

// Idle reports whether no change is due.
func (d *Decision) Idle() bool {
	return len(d.Withdraw) == 0 && len(d.Expect) == 0 && len(d.TLSStarted) == 0 && len(d.TLSEnded) == 0 &&
		!d.NewConn && !d.Skip
}

// reset empties d, and keeps its slices.
func (d *Decision) reset() {
	*d = Decision{
		Withdraw: d.Withdraw[:0], Expect: d.Expect[:0], TLSStarted: d.TLSStarted[:0], TLSEnded: d.TLSEnded[:0],
	}
}
