package conntrack

import (
	"encoding/binary"
	"time"
)

// sourceShare bounds one client to 1/sourceShare of the connections, and of all
// expectations.
const sourceShare = 4

// source is the account of one client. A connection counts once both sides have sent
// payload: its addresses may be forged until then.
type source struct {
	key          sourceKey
	connections  int32
	expectations int32
	// Recent announcements beside an unused expectation: a leaky bucket, and the time of
	// its last update.
	churn   int32
	churned time.Duration
}

// sourceKey is the upper half of an IPv6 address, as a host may use any lower half. An IPv4
// address is a network of 0:ffff::/32, which is never assigned (IANA reserves 0000::/8).
type sourceKey uint64

func (k *connKey) source() sourceKey {
	b := k.client[:8]
	if k.family == 4 {
		b = k.client[8:]
	}
	return sourceKey(binary.BigEndian.Uint64(b))
}

// charge counts c against its client's share of the table. It reports false if the share is
// used up.
func (t *Tracker) charge(c *conn) bool {
	if c.source != nil {
		return true
	}
	key := c.key.source()
	s := t.sources[key]
	if s == nil {
		s = &source{key: key}
		t.sources[key] = s
	} else if int(s.connections) >= max(t.cfg.Connections/sourceShare, 1) {
		return false
	}
	s.connections++
	c.source = s
	return true
}

// release removes c, which has no expectations left, from its client's account.
func (t *Tracker) release(c *conn) {
	s := c.source
	if s == nil {
		return
	}
	c.source = nil
	if s.connections--; s.connections == 0 {
		delete(t.sources, s.key)
	}
}

// If the Tracker knows which expectations were used (Config.Shared), a client that announces
// endpoints without using them may do so churnBurst times at once and churnRate times a
// second: each costs everybody in the same queue an update of the firewall's table.
const (
	churnRate  = 64
	churnBurst = 64
)

// hasRoom reports whether the client of c may have one more expectation. It may always
// replace one, but not all the time.
func (t *Tracker) hasRoom(c *conn) bool {
	if !t.charge(c) {
		return false
	}
	if int(c.count) < max(t.cfg.MaxExpected, 1) && c.source.expectations >= maxExpectations/sourceShare {
		return false
	}
	return c.count == 0 || !t.cfg.Shared || c.source.spend(t.clock)
}

// spend counts an announcement beside an unused expectation. It reports false if the limit
// is reached.
func (s *source) spend(now time.Duration) bool {
	const interval = time.Second / churnRate
	if n := (now - s.churned) / interval; n > 0 {
		s.churn = int32(max(time.Duration(s.churn)-n, 0))
		s.churned = now
	}
	if s.churn >= churnBurst {
		return false
	}
	s.churn++
	return true
}
