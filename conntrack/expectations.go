package conntrack

import (
	"net/netip"
	"slices"
	"time"
)

// tupleKey is an expected tuple. Several control connections may expect the same one.
type tupleKey struct {
	src, dst           [16]byte
	port, family, zone uint16
}

func keyOfTuple(zone uint16, t Tuple) tupleKey {
	return tupleKey{
		src: t.Src.Addr().As16(), dst: t.Dst.Addr().As16(), port: t.Dst.Port(), family: familyOf(t.Dst.Addr()),
		zone: zone,
	}
}

// expectation is an Expectation in the tables, from its announcement to its withdrawal.
// Only the kernel knows whether it was used, except for those that Consume returned.
type expectation struct {
	Expectation
	owner        *conn
	deadline     time.Duration // by Tracker.clock
	pending      bool          // the kernel has not accepted it yet, and may reject it
	older, newer *expectation  // of the same control connection
	sameTuple    *expectation  // the next older one for the same tuple
	next, prev   *expectation  // in the order of deadlines
}

// expectationTable finds expectations by tuple and by age. As all have the same timeout,
// their age is the order of insertion.
type expectationTable struct {
	byTuple map[tupleKey]*expectation // the newest
	ring    expectation               // next is the oldest, prev the newest
	free    *expectation
	n       int
}

func (e *expectationTable) init() {
	e.byTuple = make(map[tupleKey]*expectation)
	e.ring.next, e.ring.prev = &e.ring, &e.ring
}

// newest returns the newest expectation for the tuple of x, nil if there is none.
func (e *expectationTable) newest(x *Expectation) *expectation {
	return e.byTuple[keyOfTuple(x.Zone, x.Tuple)]
}

func (e *expectationTable) oldest() *expectation {
	if e.n == 0 {
		return nil
	}
	return e.ring.next
}

func (e *expectationTable) insert(c *conn, x Expectation, deadline time.Duration) *expectation {
	n := e.free
	if n != nil {
		e.free = n.next
	} else {
		n = new(expectation)
	}
	key := keyOfTuple(x.Zone, x.Tuple)
	*n = expectation{
		Expectation: x, owner: c, deadline: deadline,
		older: c.newest, sameTuple: e.byTuple[key],
		next: &e.ring, prev: e.ring.prev,
	}
	e.byTuple[key] = n
	if n.older != nil {
		n.older.newer = n
	}
	c.newest = n
	c.count++
	c.source.expectations++
	e.ring.prev.next = n
	e.ring.prev = n
	e.n++
	return n
}

func (e *expectationTable) remove(x *expectation) {
	key := keyOfTuple(x.Zone, x.Tuple)
	if head := e.byTuple[key]; head != x {
		for head.sameTuple != x {
			head = head.sameTuple
		}
		head.sameTuple = x.sameTuple
	} else if x.sameTuple != nil {
		e.byTuple[key] = x.sameTuple
	} else {
		delete(e.byTuple, key)
	}
	if x.newer != nil {
		x.newer.older = x.older
	} else {
		x.owner.newest = x.older
	}
	if x.older != nil {
		x.older.newer = x.newer
	}
	x.owner.count--
	x.owner.source.expectations--
	x.prev.next, x.next.prev = x.next, x.prev
	e.n--
	*x = expectation{next: e.free}
	e.free = x
}

// find returns the expectation with the tuple and the master of x, nil if there is none.
func (e *expectationTable) find(x *Expectation) *expectation {
	for y := e.newest(x); y != nil; y = y.sameTuple {
		if y.Master == x.Master {
			return y
		}
	}
	return nil
}

// maxSameTuple bounds the control connections that may expect the same tuple at a time:
// every withdrawal searches them.
const maxSameTuple = 8

// crowded reports whether maxSameTuple other control connections expect the tuple of x.
func (e *expectationTable) crowded(x *Expectation) bool {
	n := 0
	for y := e.newest(x); y != nil; y = y.sameTuple {
		if y.Master != x.Master {
			n++
		}
	}
	return n >= maxSameTuple
}

// expect adds an expectation of c. It replaces the one that c has for the same tuple.
func (t *Tracker) expect(c *conn, x Expectation) {
	if same := t.expected.find(&x); same != nil {
		t.withdraw(same, Superseded)
	}
	for c.newest != nil && int(c.count) >= max(t.cfg.MaxExpected, 1) {
		oldest := c.newest
		for oldest.older != nil {
			oldest = oldest.older
		}
		t.withdraw(oldest, Superseded)
	}
	if t.expected.n >= maxExpectations {
		t.withdraw(t.expected.oldest(), Evicted)
	}
	x.Overflow = t.cfg.KernelShare > 0 && int(c.source.expectations) >= t.cfg.KernelShare
	n := t.expected.insert(c, x, t.clock+t.cfg.Timeout)
	n.pending = n.sameTuple != nil && !t.cfg.Shared && !x.Overflow
	t.stats.Expected++
	t.decision.Expect = append(t.decision.Expect, x)
	t.decision.Conflict = t.decision.Conflict || n.pending
	t.observe(Event{Kind: EventExpect, Master: c.key.master(), Via: x.Via, Tuple: x.Tuple})
}

func (t *Tracker) withdraw(x *expectation, why Reason) {
	if i := slices.Index(t.decision.Expect, x.Expectation); i >= 0 {
		t.decision.Expect = slices.Delete(t.decision.Expect, i, i+1)
		t.decision.Conflict = t.decision.Conflict && len(t.decision.Expect) > 0
	} else if !x.pending && (t.closing || !t.ownedByOther(x)) {
		t.decision.Withdraw = append(t.decision.Withdraw, x.Expectation)
	}
	t.stats.Withdrawn++
	t.observe(Event{Kind: EventWithdraw, Master: x.owner.key.master(), Via: x.Via, Tuple: x.Tuple, Reason: why})
	t.expected.remove(x)
}

func (t *Tracker) withdrawAll(c *conn, why Reason) {
	for c.newest != nil {
		t.withdraw(c.newest, why)
	}
}

// ownedByOther reports whether the kernel's expectation for the tuple of x belongs to
// another control connection now, or to several: deleting it by tuple would remove
// theirs. That the kernel accepted a newer one means that x was used.
func (t *Tracker) ownedByOther(x *expectation) bool {
	newest := t.expected.newest(&x.Expectation)
	if t.cfg.Shared {
		return newest != x || x.sameTuple != nil
	}
	for y := newest; y != x; y = y.sameTuple {
		if !y.pending {
			return true
		}
	}
	return false
}

// Conflicts reports whether the expectation of another control connection for the tuple of
// x waits for the kernel.
func (t *Tracker) Conflicts(x *Expectation) bool {
	for y := t.expected.newest(x); y != nil; y = y.sameTuple {
		if y.pending {
			return true
		}
	}
	return false
}

// Consume removes and returns the expectation that the first packet of a data connection
// matches, if there is one. Of several for the same tuple it is the oldest, as in the
// kernel. The packet is in the default zone: no rule has put it into another one yet.
func (t *Tracker) Consume(src, dst netip.AddrPort) (Expectation, bool) {
	x := t.expected.newest(&Expectation{Tuple: Tuple{Src: src, Dst: dst}})
	if x == nil {
		return Expectation{}, false
	}
	for x.sameTuple != nil {
		x = x.sameTuple
	}
	used := x.Expectation
	t.expected.remove(x)
	return used, true
}

// Confirm notes that the kernel has accepted an expectation of a Decision with Conflict. It
// reports false if it was withdrawn since: the caller must delete it from the kernel.
func (t *Tracker) Confirm(x *Expectation) bool {
	n := t.expected.find(x)
	if n == nil {
		return false
	}
	n.pending = false
	return true
}

// Installed reports whether x was not withdrawn and, as far as is known, is in the kernel.
func (t *Tracker) Installed(x *Expectation) bool {
	n := t.expected.find(x)
	return n != nil && !n.pending
}

// Reject notes that the kernel has rejected an expectation. Conntrack may have lost its
// master and picked it up again, with other NAT: it is looked up before the next one.
func (t *Tracker) Reject(now time.Time, x *Expectation, why Reason) {
	t.now = now
	if n := t.expected.find(x); n != nil {
		master := n.owner.key.master()
		n.owner.state &^= lookedUp
		n.owner.nat = nil
		t.expected.remove(n)
		t.stats.Expected--
		t.reject(Event{Master: master, Via: x.Via, Tuple: x.Tuple, Reason: why})
	}
}
