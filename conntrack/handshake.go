package conntrack

import (
	"ftpctd/ftpparse"
	"ftpctd/nfq/packet"
)

// syn notes a SYN with payload (TCP Fast Open): its connection is skipped. The server may
// acknowledge any part of that payload, and would so choose where in the client's stream
// the inspection begins. This holds for a closed connection between the same endpoints,
// too. Other SYNs add nothing to the table: a flood of them would evict real sessions.
func (t *Tracker) syn(c *conn, key connKey, p *packet.Packet, dir ftpparse.Direction) {
	if len(p.Payload) == 0 || dir != ftpparse.DirOriginal {
		return
	}
	if c == nil {
		c = t.insert(key, rankSilent)
		c.state |= closed
	}
	c.state |= synData
}

// synAck opens the connection if conntrack saw its client's SYN and takes p for the reply.
// Any other SYN/ACK is one that the server sends unasked, to have a connection that is not
// FTP inspected again, from a sequence number of its choice.
func (t *Tracker) synAck(c *conn, key connKey, p *packet.Packet) {
	client, server := p.Ack, p.Seq+1
	if c != nil && c.state&(handshake|closed) == handshake && c.isn == [2]uint32{client, server} {
		return // repeated
	}
	nat, ok, again := t.lookupHandshake(&key)
	if again && !t.cfg.Reopen {
		if c != nil && c.state&(closed|skipped) == 0 {
			t.skipCurrent(c, NotSeenFromStart)
		}
		return
	}
	if !ok {
		return
	}
	t.cfg.Older.take(&key)
	switch {
	case t.controlPorts.has(&key, t.clock):
		if c == nil {
			c = t.insert(key, rankSkipped)
		}
		t.skipCurrent(c, ControlPort)
		return
	case c == nil:
		c = t.insert(key, rankSilent)
	case c.state&synData != 0:
		t.skipCurrent(c, NotSeenFromStart)
		return
	default:
		if c.state&closed == 0 {
			t.close(c, Closed)
		}
		t.release(c)
		t.touch(c, rankSilent)
	}
	reverse := key.reverse()
	if other := t.conns.find(&reverse); other != nil { // both ports are control ports
		t.forget(other, Closed)
	}
	c.state, c.nat = handshake|lookedUp, nat
	c.isn = [2]uint32{client, server}
	c.session.Start(client, server)
	t.decision.NewConn, t.decision.Reopened = true, again
	t.open(c, "")
}

func (t *Tracker) open(c *conn, why Reason) {
	t.stats.Sessions++
	t.observe(Event{Kind: EventOpen, Master: c.key.master(), Reason: why})
}

// lookupHandshake asks conntrack whether key is a control connection of which it has seen
// SYN and SYN/ACK, and nothing since. again reports that there was an earlier handshake:
// conntrack takes the SYN/ACK for the reply to a SYN in the middle of the connection.
// Anybody may have sent that, and the session that was parsed does not continue.
func (t *Tracker) lookupHandshake(key *connKey) (nat *Connection, ok, again bool) {
	if t.cfg.Lookup == nil {
		return nil, true, false
	}
	found, ok := t.lookupControl(key)
	if !ok || found.State != StateSynRecv {
		return nil, false, false
	}
	return found.natOf(key.zone), true, found.Assured
}

// lookupControl asks conntrack for the connection key. ok is false if that is no control
// connection with the client of key.
func (t *Tracker) lookupControl(key *connKey) (found Connection, ok bool) {
	ends := key.master()
	found, ok = t.cfg.Lookup(t.packet, ends)
	return found, ok && found.isControl(ends)
}

// pickUp adds a connection that was there before the Tracker, once. Unless Older has it,
// it is skipped: its sender could choose where the inspection begins. pickUp returns nil
// if noting that would evict a session.
func (t *Tracker) pickUp(key connKey) *conn {
	id, ok := t.cfg.Older.take(&key)
	var nat *Connection
	if ok && t.cfg.Lookup != nil {
		var found Connection
		found, ok = t.lookupControl(&key)
		ok = ok && found.Assured && found.ID == id
		nat = found.natOf(key.zone)
	}
	if !ok {
		if oldest := t.conns.oldest(); t.conns.n >= t.cfg.Connections && oldest != nil && oldest.rank > rankSkipped {
			t.stats.Unseen++
			return nil
		}
		c := t.insert(key, rankSkipped)
		t.skipCurrent(c, NotSeenFromStart)
		return c
	}
	c := t.insert(key, rankUnreplied)
	c.state, c.nat = lookedUp, nat
	t.open(c, ftpparse.PickedUp)
	return c
}

// connection returns c as conntrack has it. ok is false if conntrack has lost it, has
// another connection in its place, or has it in the other direction because it picked it
// up in the middle: such a master can have no expectations.
func (t *Tracker) connection(c *conn) (_ Connection, ok bool) {
	ends := c.key.master()
	if c.state&lookedUp == 0 && t.cfg.Lookup != nil {
		if t.unconfirmed {
			return withoutNAT(c.key.zone, ends), false
		}
		found, ok := t.lookupControl(&c.key)
		if !ok {
			t.unconfirmed = true
			return withoutNAT(c.key.zone, ends), false
		}
		c.state |= lookedUp
		c.nat = found.natOf(c.key.zone)
	}
	if c.nat != nil {
		return *c.nat, true
	}
	return withoutNAT(c.key.zone, ends), true
}
