package conntrack

// countBuffers accounts for the bytes that the session of c buffers.
func (t *Tracker) countBuffers(c *conn) {
	n := c.session.Buffered()
	if n == 0 && c.links == nil {
		return
	}
	l := c.listed()
	switch {
	case n > 0 && l.buffered == 0:
		l.next, l.prev = t.holders.next, &t.holders
		l.next.prev, t.holders.next = l, l
	case n == 0 && l.buffered > 0:
		l.prev.next, l.next.prev = l.next, l.prev
		l.next, l.prev = nil, nil
	}
	t.buffered += n - l.buffered
	l.buffered = n
}

// dropBuffers releases the buffers of the session of c.
func (t *Tracker) dropBuffers(c *conn) {
	c.session.Release()
	t.countBuffers(c)
}
