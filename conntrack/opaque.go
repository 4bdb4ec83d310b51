package conntrack

import (
	"iter"
	"maps"
	"net/netip"
)

func (c *conn) hosts() HostPair {
	m := c.key.master()
	return HostPair{Client: m.Src.Addr(), Server: m.Dst.Addr()}
}

// setOpaque notes that c, whose addresses NAT does not change, switched to TLS.
func (t *Tracker) setOpaque(c *conn) {
	if c.state&opaque != 0 {
		return
	}
	c.state |= opaque
	h, l := c.hosts(), c.listed()
	if l.older = t.opaque[h]; l.older != nil {
		l.older.links.newer = c
	}
	t.opaque[h] = c
	t.decision.TLSStarted = append(t.decision.TLSStarted, h)
}

// clearOpaque notes that c closed or returned to clear text.
func (t *Tracker) clearOpaque(c *conn) {
	if c.state&opaque == 0 {
		return
	}
	c.state &^= opaque
	l := c.links
	if l.older != nil {
		l.older.links.newer = l.newer
	}
	switch h := c.hosts(); {
	case l.newer != nil:
		l.newer.links.older = l.older
	case l.older != nil:
		t.opaque[h] = l.older
	default:
		delete(t.opaque, h)
		t.decision.TLSEnded = append(t.decision.TLSEnded, h)
	}
	l.older, l.newer = nil, nil
}

// OpaqueHosts returns the hosts that have an opaque control connection: one that switched
// to TLS, and whose addresses NAT does not change.
func (t *Tracker) OpaqueHosts() iter.Seq[HostPair] { return maps.Keys(t.opaque) }

// IsOpaque reports whether h is one of OpaqueHosts.
func (t *Tracker) IsOpaque(h HostPair) bool { return t.opaque[h] != nil }

// OpaqueMaster returns the newest opaque control connection between client and server: the
// master of data connections whose announcement could not be parsed. Their use keeps it in
// the table, as its own packets may no longer be queued (Config.SkipOpaque).
func (t *Tracker) OpaqueMaster(client, server netip.Addr) (Tuple, bool) {
	c := t.opaque[HostPair{Client: client, Server: server}]
	if c == nil {
		return Tuple{}, false
	}
	t.touch(c, c.rank)
	return c.key.master(), true
}
