package conntrack

import (
	"net/netip"
	"slices"

	"ftpctd/ftpparse"
)

// handleEvents handles the events of one packet. Honest packets announce an endpoint or
// two. Of many announcements it passes over those that later ones would replace, and it
// only counts the rejections after the first few.
func (t *Tracker) handleEvents(c *conn) {
	announced, rejected, most := 0, 0, max(maxLines, t.cfg.MaxExpected)
	for i := range t.events {
		if t.events[i].Kind == ftpparse.Announced {
			announced++
		}
	}
	for i := range t.events {
		e := &t.events[i]
		switch e.Kind {
		case ftpparse.Announced:
			if announced--; announced >= most {
				continue
			}
		case ftpparse.Rejected:
			if slices.Contains(t.cfg.Ports, e.Endpoint.Port()) {
				t.noteControlPort(c, e.Via, e.Endpoint.Port()) // the peer may be less strict
			}
			if rejected++; rejected > maxLines {
				t.stats.Rejected++
				continue
			}
		}
		t.handleEvent(c, e)
	}
}

func (t *Tracker) handleEvent(c *conn, e *ftpparse.Event) {
	switch e.Kind {
	case ftpparse.Announced:
		t.announced(c, e)
	case ftpparse.Rejected:
		master := c.key.master()
		t.reject(Event{Master: master, Via: e.Via, Tuple: rejectedTuple(master, e), Reason: e.Reason})
	case ftpparse.Withdrawn:
		t.withdrawn(c, e)
	case ftpparse.Opaque:
		t.switchedToTLS(c, e)
	case ftpparse.NotFTP:
		t.stats.NotFTP++
		t.withdrawAll(c, NotAnFTPSession)
		t.skipCurrent(c, e.Reason)
	case ftpparse.Cleared:
		t.clearOpaque(c)
	case ftpparse.Gap:
		t.stats.Gaps++
	}
}

// announced expects the data connection that a line announced, or rejects the line.
func (t *Tracker) announced(c *conn, e *ftpparse.Event) {
	connection, ok := t.connection(c)
	tuple, why := t.cfg.Policy.check(&connection, e)
	port := tuple.Dst.Port()
	isControl := port == connection.Original.Dst.Port() || slices.Contains(t.cfg.Ports, port)
	if isControl {
		t.noteControlPort(c, e.Via, port)
	}
	x := connection.expectation(tuple, e.Via)
	switch {
	case why != "":
	case isControl:
		why = ControlPort
	case !ok:
		why = NoMaster
	case !t.hasRoom(c):
		why = ClientLimit
	case t.expected.crowded(&x):
		why = Clash
	default:
		t.expect(c, x)
		return
	}
	t.reject(Event{Master: c.key.master(), Via: e.Via, Tuple: tuple, Reason: why})
}

// withdrawn withdraws the expectations that a line has made void.
func (t *Tracker) withdrawn(c *conn, e *ftpparse.Event) {
	for x := c.newest; x != nil; {
		older := x.older
		sameEndpoint := x.Via.Active() == e.Via.Active() && x.Tuple.Dst.Port() == e.Endpoint.Port()
		if e.Via == ftpparse.ViaNone || e.Via == ftpparse.DefaultPort && x.Via == e.Via || sameEndpoint {
			t.withdraw(x, e.Reason)
		}
		x = older
	}
}

func (t *Tracker) switchedToTLS(c *conn, e *ftpparse.Event) {
	t.stats.Opaque++
	why := e.Reason
	if connection, ok := t.connection(c); !ok || connection.hasAddrNAT() {
		why = Translated
	} else {
		t.setOpaque(c)
	}
	if t.cfg.SkipOpaque {
		c.state |= skipped
		t.decision.Skip = true
	}
	t.observe(Event{Kind: EventOpaque, Master: c.key.master(), Reason: why})
}

// rejectedTuple returns the tuple that a rejected line asked for, as far as it could be
// parsed.
func rejectedTuple(master Tuple, e *ftpparse.Event) Tuple {
	src, dst := master.Src.Addr(), e.Endpoint
	if e.Via.Active() {
		src = master.Dst.Addr()
	} else if dst.Port() != 0 && !dst.Addr().IsValid() {
		dst = netip.AddrPortFrom(master.Dst.Addr(), dst.Port())
	}
	return Tuple{Src: netip.AddrPortFrom(src, 0), Dst: dst}
}

func (t *Tracker) reject(e Event) {
	e.Kind = EventReject
	t.stats.Rejected++
	t.observe(e)
}
