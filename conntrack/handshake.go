package conntrack

import (
	"ftpctd/ftpparse"
	"ftpctd/nfq/packet"
)

// syn notes a SYN with payload (TCP Fast Open). What a client says before the server
// has answered is not read, and the server may acknowledge any part of it: it would
// choose where in the client's stream reading begins. That holds for what has ended
// between the same ends, too. Other SYNs open nothing: a table that SYNs alone can fill
// is one that a flood empties of real sessions.
func (t *Tracker) syn(c *conn, key connKey, p *packet.Packet, dir ftpparse.Direction) {
	if len(p.Payload) == 0 || dir != ftpparse.DirOriginal {
		return
	}
	if c == nil {
		c = t.insert(key, silent)
		c.state |= closed
	}
	c.state |= synData
}

// synAck opens the connection, if conntrack has it from its handshake on: it saw the
// client's SYN and takes p for the answer. A SYN/ACK that comes later is one that the
// server sends unasked, so that what was found not to be FTP is read again, from a place
// of its choice.
func (t *Tracker) synAck(c *conn, key connKey, p *packet.Packet) {
	client, server := p.Ack, p.Seq+1
	if c != nil && c.state&(handshake|closed) == handshake && c.isn == [2]uint32{client, server} {
		return // repeated
	}
	nat, ok, again := t.opening(key)
	if again && !t.cfg.Reopen {
		if c != nil && c.state&(closed|skipped) == 0 {
			t.giveUp(c, NotSeenFromStart)
		}
		return
	}
	if !ok {
		return
	}
	t.cfg.Older.take(&key)
	switch {
	case t.refused.has(&key, t.clock):
		if c == nil {
			c = t.insert(key, unread)
		}
		t.giveUp(c, ControlPort)
		return
	case c == nil:
		c = t.insert(key, silent)
	case c.state&synData != 0:
		t.giveUp(c, NotSeenFromStart)
		return
	default:
		if c.state&closed == 0 {
			t.close(c, Closed)
		}
		t.release(c)
		t.touch(c, silent)
	}
	turned := key.turned()
	if other := t.conns.find(&turned); other != nil { // where both ports are control ports
		t.forget(other, Closed)
	}
	c.state, c.nat = handshake|lookedUp, nat
	c.isn = [2]uint32{client, server}
	c.session.Start(client, server)
	t.decision.Anew, t.decision.Reopened = true, again
	t.open(c, "")
}

func (t *Tracker) open(c *conn, why Reason) {
	t.stats.Sessions++
	t.observe(Event{Kind: EventOpen, Master: c.key.master(), Reason: why})
}

// opening asks conntrack whether key is a control connection of which the client's SYN
// and the server's answer were seen, and nothing else yet. again reports that it had its
// handshake already: conntrack takes the SYN/ACK for the answer to a SYN that came in the
// middle. Who sent that is unknown, and what follows is not the session that was read.
func (t *Tracker) opening(key connKey) (nat *Connection, ok, again bool) {
	if t.cfg.Lookup == nil {
		return nil, true, false
	}
	found, ok := t.control(&key)
	if !ok || found.State != StateSynRecv {
		return nil, false, false
	}
	return found.translation(key.zone), true, found.Assured
}

// control asks conntrack for the connection key. ok is false if it is no control
// connection whose client key names.
func (t *Tracker) control(key *connKey) (found Connection, ok bool) {
	ends := key.master()
	found, ok = t.cfg.Lookup(t.packet, ends)
	return found, ok && found.isControl(ends)
}

// pickUp adds a connection that was there before the Tracker, once. What nobody
// vouches for is not read: who sends it chose where its reader begins. It returns nil
// where only a session could make room for the note of that.
func (t *Tracker) pickUp(key connKey) *conn {
	id, ok := t.cfg.Older.take(&key)
	var nat *Connection
	if ok && t.cfg.Lookup != nil {
		var found Connection
		found, ok = t.control(&key)
		ok = ok && found.Assured && found.ID == id
		nat = found.translation(key.zone)
	}
	if !ok {
		if oldest := t.conns.oldest(); t.conns.n >= t.cfg.Connections && oldest != nil && oldest.rank > unread {
			t.stats.Unseen++
			return nil
		}
		c := t.insert(key, unread)
		t.giveUp(c, NotSeenFromStart)
		return c
	}
	c := t.insert(key, unassured)
	c.state, c.nat = lookedUp, nat
	t.open(c, ftpparse.PickedUp)
	return c
}

// connection is c as conntrack has it. ok is false if conntrack has it no more, or has
// another one, or has it the other way round because it picked the connection up in
// the middle: nothing can be expected of that.
func (t *Tracker) connection(c *conn) (_ Connection, ok bool) {
	ends := c.key.master()
	if c.state&lookedUp == 0 && t.cfg.Lookup != nil {
		if t.unconfirmed {
			return untranslated(c.key.zone, ends), false
		}
		found, ok := t.control(&c.key)
		if !ok {
			t.unconfirmed = true
			return untranslated(c.key.zone, ends), false
		}
		c.state |= lookedUp
		c.nat = found.translation(c.key.zone)
	}
	if c.nat != nil {
		return *c.nat, true
	}
	return untranslated(c.key.zone, ends), true
}
