package ftpparse

import "net/netip"

// EventKind is what happened.
type EventKind uint8

// The kinds of events.
const (
	// Announced: an honest session opens a data connection to Endpoint next.
	Announced EventKind = iota + 1
	// Rejected: a line announced something that does not count, for Reason.
	Rejected
	// Withdrawn: what was announced is void. With a Via it is the one endpoint
	// with that Via and port, without it everything that is still unused.
	Withdrawn
	// Opaque: the session went into TLS and cannot be read.
	Opaque
	// Cleared: both directions are back in clear text.
	Cleared
	// NotFTP: this is no FTP session; nothing is read from it any more.
	NotFTP
	// Gap: bytes were lost, and with them the commands that were pending.
	Gap
)

// Event is what a Session has read.
type Event struct {
	Kind EventKind
	Via  Via
	// Endpoint is what the line named. Its address is invalid if the line named
	// none (229); after Rejected it may be the zero value.
	Endpoint netip.AddrPort
	Reason   Reason
	// BeforeLogin marks an Announced whose session has not logged in: the server
	// would refuse to transfer anything. It is never set where the login may
	// have gone unseen (picked up in the middle, TLS, a gap that may have held its
	// reply).
	BeforeLogin bool
}
