package conntrack

// holder is a connection whose session holds buffers, in the order in which they began
// to.
type holder struct {
	conn       *conn
	bytes      int
	next, prev *holder
}

// countBuffers takes note of what the session of c holds.
func (t *Tracker) countBuffers(c *conn) {
	n := c.session.Buffered()
	h := c.holder
	switch {
	case n == 0 && h == nil:
		return
	case n == 0:
		t.buffered -= h.bytes
		h.prev.next, h.next.prev = h.next, h.prev
		c.holder = nil
		h.conn, h.next = nil, t.freeHolder
		t.freeHolder = h
		return
	case h == nil:
		if h = t.freeHolder; h != nil {
			t.freeHolder = h.next
		} else {
			h = new(holder)
		}
		*h = holder{conn: c, next: t.holders.next, prev: &t.holders}
		h.next.prev, t.holders.next = h, h
		c.holder = h
	}
	t.buffered += n - h.bytes
	h.bytes = n
}

// dropBuffers gives back what the session of c holds.
func (t *Tracker) dropBuffers(c *conn) {
	c.session.Release()
	t.countBuffers(c)
}
