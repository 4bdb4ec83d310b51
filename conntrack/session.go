package conntrack

import (
	"net/netip"
	"slices"

	"ftpctd/ftpparse"
)

// act acts on what a session has read in a packet. Honest ones announce an endpoint or
// two; of a packet full of them those are passed over that would not last to its end,
// and refusals are counted.
func (t *Tracker) act(c *conn) {
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
				t.refuse(c, e.Via, e.Endpoint.Port()) // the other side may not be as strict
			}
			if rejected++; rejected > maxLines {
				t.stats.Rejected++
				continue
			}
		}
		t.event(c, e)
	}
}

// event acts on what a session has read.
func (t *Tracker) event(c *conn, e *ftpparse.Event) {
	switch e.Kind {
	case ftpparse.Announced:
		connection, ok := t.connection(c)
		tuple, why := t.cfg.Policy.Judge(&connection, e)
		port := tuple.Dst.Port()
		isControl := port == connection.Original.Dst.Port() || slices.Contains(t.cfg.Ports, port)
		if isControl {
			t.refuse(c, e.Via, port)
		}
		switch {
		case why != "":
		case isControl:
			why = ControlPort
		case !ok:
			why = NoMaster
		case !t.hasRoom(c):
			why = ClientLimit
		}
		if why != "" {
			t.reject(Event{Master: c.key.master(), Via: e.Via, Tuple: tuple, Reason: why})
			return
		}
		if x := connection.expectation(tuple, e.Via); t.expected.crowded(&x) {
			t.reject(Event{Master: c.key.master(), Via: e.Via, Tuple: tuple, Reason: Clash})
		} else {
			t.expect(c, x)
		}
	case ftpparse.Rejected:
		master := c.key.master()
		t.reject(Event{Master: master, Via: e.Via, Tuple: asked(master, e), Reason: e.Reason})
	case ftpparse.Withdrawn:
		for x := c.newest; x != nil; {
			older := x.older
			if e.Via == ftpparse.ViaNone || e.Via == ftpparse.DefaultPort && x.Via == e.Via || x.Via.Active() == e.Via.Active() && x.Tuple.Dst.Port() == e.Endpoint.Port() {
				t.withdraw(x, e.Reason)
			}
			x = older
		}
	case ftpparse.Opaque:
		t.stats.Opaque++
		why := e.Reason
		if connection, ok := t.connection(c); !ok || connection.readdressed() {
			why = Translated
		} else {
			t.setOpaque(c)
		}
		if t.cfg.SkipOpaque {
			c.state |= skipped
			t.decision.Skip = true
		}
		t.observe(Event{Kind: EventOpaque, Master: c.key.master(), Reason: why})
	case ftpparse.NotFTP:
		t.stats.NotFTP++
		t.withdrawAll(c, NotAnFTPSession)
		t.giveUp(c, e.Reason)
	case ftpparse.Cleared:
		t.clearOpaque(c)
	case ftpparse.Gap:
		t.stats.Gaps++
	}
}

// asked is the tuple that a rejected line asked for, as far as it could be read.
func asked(master Tuple, e *ftpparse.Event) Tuple {
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
