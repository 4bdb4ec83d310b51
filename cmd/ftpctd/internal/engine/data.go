package engine

import (
	"slices"
	"time"

	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
	"ftpctd/nfq/packet"
)

const (
	// tlsTimeout is how long the data connections of a session in TLS are queued unless
	// that is refreshed, which happens every refreshTLSEvery. It ends what a daemon that
	// was killed could not end.
	tlsTimeout      = 24 * time.Hour
	refreshTLSEvery = time.Hour
)

// handleDataSYN handles the first packet of a possible data connection, which the table
// queued before conntrack saw it. It appends the messages that make its entry, which are to
// leave ahead of the packet.
func (e *Engine) handleDataSYN(b []byte, p *packet.Packet) []byte {
	if e.entry == nil || p.Flags&(packet.SYN|packet.ACK|packet.RST|packet.FIN) != packet.SYN {
		return b
	}
	data := conntrack.Tuple{Src: p.Src, Dst: p.Dst}
	x, expected := e.tracker.Consume(p.Src, p.Dst)
	master := x.Master
	if expected {
		// An entry that is there already is a leftover: client and server have agreed on a
		// new connection.
		b = ctnetlink.AppendDeleteConnection(b, nfq.SeqSilent, data)
	} else {
		if !e.tlsPorts.Contains(p.Dst.Port()) {
			return b
		}
		var ok bool
		if master, ok = e.tracker.OpaqueMaster(p.Src.Addr(), p.Dst.Addr()); !ok {
			return b
		}
	}
	b = ctnetlink.AppendEntry(b, e.seq, data, master)
	e.recordSent(inFlight{data: data, master: master, expected: expected})
	return b
}

// servesTLS reports whether data connections of sessions in TLS are admitted.
func (e *Engine) servesTLS() bool {
	return e.entry != nil && e.tlsPorts != (conntrack.PortRange{})
}

// updateTLS has the table queue the data connections of sessions in TLS. A packet can both
// start and end such a session between two hosts: the final state counts.
func (e *Engine) updateTLS(d *conntrack.Decision) {
	if !e.servesTLS() {
		return
	}
	for _, h := range d.TLSEnded {
		e.entry.SetTLS(h, e.tlsTimeout(h))
	}
	for _, h := range d.TLSStarted {
		e.entry.SetTLS(h, e.tlsTimeout(h))
	}
}

// tlsTimeout is how long data connections between h are queued: 0 if there is no session in
// TLS.
func (e *Engine) tlsTimeout(h conntrack.HostPair) time.Duration {
	if e.tracker.IsOpaque(h) {
		return tlsTimeout
	}
	return 0
}

// ReinstallTLS puts the sessions in TLS into the table, and refreshes their timeout.
// Expected data connections are not in a table that was restored: clients ask again.
// Between two pairs of hosts it lets packets pass.
func (e *Engine) ReinstallTLS() {
	if !e.servesTLS() {
		return
	}
	for _, h := range e.opaqueHosts() {
		e.refreshTLS(h)
	}
}

func (e *Engine) opaqueHosts() []conntrack.HostPair {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(e.tracker.OpaqueHosts())
}

// refreshTLS refreshes the timeout of h, unless the last of their sessions in TLS has
// ended.
func (e *Engine) refreshTLS(h conntrack.HostPair) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tracker.IsOpaque(h) {
		e.applyTLS(h)
	}
}

// applyTLS is updateTLS for h, at once.
func (e *Engine) applyTLS(h conntrack.HostPair) {
	timeout := e.tlsTimeout(h)
	err := e.entry.ApplyTLS(h, timeout)
	if err == nil || !e.mayWarn(e.now(), warnTLS, "", h.Client) {
		return
	}
	message := "cannot open TLS data ports"
	if timeout == 0 {
		message = "cannot close TLS data ports"
	}
	e.log.Warn(message, "client", h.Client, "server", h.Server, "err", err)
}
