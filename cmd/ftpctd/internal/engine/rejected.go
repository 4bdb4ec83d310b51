package engine

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
)

// inFlight is what a message is about that the kernel may reject: an expectation, or the
// entry of a data connection.
type inFlight struct {
	seq          uint32
	x            conntrack.Expectation
	data, master conntrack.Tuple // zero for an expectation
	expected     bool            // the data connection was announced
}

// recordSent records what the message with the sequence number e.seq is about, and goes on
// to the next number.
func (e *Engine) recordSent(m inFlight) {
	m.seq = e.seq
	e.inFlight[e.seq%uint32(len(e.inFlight))] = m
	if e.seq++; e.seq == nfq.SeqPing {
		e.seq = firstSeq
	}
}

// Rejected implements nfq.Handler: the kernel rejected a message that left with a verdict.
func (e *Engine) Rejected(seq uint32, err error) {
	now := e.now()
	m := &e.inFlight[seq%uint32(len(e.inFlight))]
	switch {
	case seq == markSeq:
		if e.mayWarn(now, warnUnmarked, "", netip.Addr{}) {
			e.log.Warn("cannot set conntrack mark; packets are still queued", "err", err)
		}
	case m.seq != seq:
		if e.mayWarn(now, warnMessage, "", netip.Addr{}) {
			e.log.Warn("kernel rejected netlink message", "seq", seq, "err", err)
		}
	case m.data == (conntrack.Tuple{}):
		e.handleRejection(now, &m.x, ctnetlink.WrapError(ctnetlink.OpExpect, m.x.Tuple, err))
	case m.expected || !errors.Is(err, unix.EEXIST):
		// In TLS, EEXIST may be the first packet, sent again. For one that was announced an
		// earlier entry was deleted: that of another connection is in the way.
		e.logUnrelated(now, m.data, m.master, err)
	}
}

// handleRejection handles the kernel's rejection of x, whose packet is gone.
func (e *Engine) handleRejection(now time.Time, x *conntrack.Expectation, err error) {
	e.mu.Lock()
	clash := admit.Reason(err) == conntrack.Clash
	switch {
	case clash && e.wait(now, x, nil):
		// The other expectation is one that the tracker does not know. The data connection
		// may still take a while to come.
	case e.fallsBack(x, err):
		if _, err := e.entry.AppendExpect(nil, 0, x); err != nil {
			e.reject(now, x, err)
		}
	default:
		e.reject(now, x, err)
		if clash { // perhaps with an earlier announcement of the same control connection
			e.withdrawLater(x)
		}
	}
	e.mu.Unlock()
	e.Flush()
}

// fallsBack reports whether x, which the kernel rejected with err, is to be admitted
// through an entry. The first packets of data connections come in the default zone.
func (e *Engine) fallsBack(x *conntrack.Expectation, err error) bool {
	reason := admit.Reason(err)
	return e.entry != nil && x.Zone == 0 && (reason == conntrack.NoHelper || reason == conntrack.TableFull)
}

// reject records, under mu, that x is not expected.
func (e *Engine) reject(now time.Time, x *conntrack.Expectation, err error) {
	reason := admit.Reason(err)
	e.logKernelRejected(now, x, reason, err)
	e.tracker.Reject(now, x, reason)
}
