package conntrack

import "net/netip"

// Decision is what has to be done before the packet may move on. Its slices are
// valid until the Tracker's next call; withdrawals come first.
type Decision struct {
	Withdraw []Expectation
	Expect   []Expectation
	// Contested tells that the kernel may refuse one of Expect, because another
	// control connection expects the same endpoint and may not have used it yet:
	// hold the packet until the kernel has taken it, and tell the Tracker.
	Contested bool
	// Opaque are hosts between which a control connection whose addresses NAT leaves
	// alone went into TLS, whether or not there was one before; Readable are those whose
	// last such connection ended, was forgotten, or returned to clear text.
	Opaque, Readable []Hosts
	// Anew tells that the packet begins a connection: what was decided on an
	// earlier one between the same ends is void. Skip tells that nothing but the
	// packets that begin and end the connection need be given to the Tracker any
	// more: it is no FTP, or in TLS with Config.SkipOpaque.
	Anew, Skip bool
	// Reopened tells of Anew that conntrack uses the entry of the earlier connection
	// again.
	Reopened bool
}

// Hosts are the two ends of control connections.
type Hosts struct {
	Client, Server netip.Addr
}

// Idle reports whether there is nothing to do.
func (d *Decision) Idle() bool {
	return len(d.Withdraw) == 0 && len(d.Expect) == 0 && len(d.Opaque) == 0 && len(d.Readable) == 0 &&
		!d.Anew && !d.Skip
}
