package ftpparse

import "net/netip"

// EventKind is the kind of an [Event].
type EventKind uint8

// The kinds of events.
const (
	// Announced: the session is about to open a data connection to Endpoint.
	Announced EventKind = iota + 1
	// Rejected: a line named an endpoint that does not count, for Reason.
	Rejected
	// Withdrawn: an announcement is void. With a Via it is the one with that Via and
	// port, without a Via every one that is still unused.
	Withdrawn
	// Opaque: the session switched to TLS and is unreadable.
	Opaque
	// Cleared: both directions are back in clear text.
	Cleared
	// NotFTP: the connection does not carry FTP; the Session ignores the rest of it.
	NotFTP
	// Gap: bytes were lost, and the pairing of pending commands with them.
	Gap
)

// Event is what a [Session] has read. Which fields are set depends on Kind.
type Event struct {
	Kind EventKind
	// Via is the line that named Endpoint.
	Via Via
	// Endpoint is the endpoint as the line names it. Its address is invalid if the line
	// gives a port alone (229); after Rejected it may be the zero value.
	Endpoint netip.AddrPort
	Reason   Reason
	// BeforeLogin marks an Announced of a session that has not logged in: its server
	// would refuse any transfer. It is never set if the login may have gone unseen,
	// because the session was picked up in the middle, is in TLS, or had a gap where
	// the reply may have been.
	BeforeLogin bool
}
