package conntrack

import (
	"encoding/binary"
	"time"
)

// source is what the table holds of one client. Connections count from when both
// sides have spoken: addresses can be forged until then.
type source struct {
	key          sourceKey
	connections  int32
	expectations int32
	// What it may announce beside an unused expectation, until when that was
	// reckoned.
	churn   int32
	churned time.Duration
}

// sourceKey is the 64 bits of an IPv6 address that one host cannot choose. An IPv4 address
// is one in 0:ffff::/32, which is assigned to nobody (0000::/8 of IANA's registry).
type sourceKey uint64

func (k *connKey) source() sourceKey {
	b := k.client[:8]
	if k.family == 4 {
		b = k.client[8:]
	}
	return sourceKey(binary.BigEndian.Uint64(b))
}

// charge counts c against its client's share of the table. It reports false if that is
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

// release takes c, which has no expectations any more, out of its client's account.
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

// Where a data connection is known to have used its expectation, a client that announces
// one endpoint after the other beside an unused one wants none of them. It may do so
// churnRate times a second, and churnBurst times at once: each costs those who wait for
// the same queue a change of the firewall's table.
const (
	churnRate  = 64
	churnBurst = 64
)

// hasRoom reports whether the client of c may have one more expectation. It may always
// have one in place of another, if it does not do so all the time.
func (t *Tracker) hasRoom(c *conn) bool {
	if !t.charge(c) {
		return false
	}
	if int(c.count) < max(t.cfg.MaxExpected, 1) && c.source.expectations >= maxExpectations/sourceShare {
		return false
	}
	return c.count == 0 || !t.cfg.Shared || c.source.spend(t.clock)
}

// spend takes one of what s may announce beside an unused expectation. It reports false
// if nothing is left.
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
