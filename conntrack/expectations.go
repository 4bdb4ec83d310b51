package conntrack

import (
	"net/netip"
	"time"
)

// dataKey is an expected tuple. Two control connections may expect the same one.
type dataKey struct {
	src, dst           [16]byte
	port, family, zone uint16
}

func dataKeyOf(zone uint16, t Tuple) dataKey {
	return dataKey{
		src: t.Src.Addr().As16(), dst: t.Dst.Addr().As16(), port: t.Dst.Port(), family: familyOf(t.Dst.Addr()),
		zone: zone,
	}
}

// expectation is an Expectation in the tables. Whether it was used is known to
// the kernel alone; it leaves the tables when it is withdrawn.
type expectation struct {
	Expectation
	owner        *conn
	deadline     time.Duration // by Tracker.clock
	contested    bool          // not known to be in the kernel yet
	older, newer *expectation  // of the same control connection
	twin         *expectation  // expects the same tuple, of another control connection
	next, prev   *expectation  // in the order of their deadlines
}

// expectationTable finds expectations by tuple and by age. Since all have the
// same timeout, age is the order in which they came.
type expectationTable struct {
	byTuple map[dataKey]*expectation
	ring    expectation // next is the oldest, prev the newest
	free    *expectation
	n       int
}

func (e *expectationTable) init() {
	e.byTuple = make(map[dataKey]*expectation)
	e.ring.next, e.ring.prev = &e.ring, &e.ring
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
	key := dataKeyOf(x.Zone, x.Tuple)
	*n = expectation{
		Expectation: x, owner: c, deadline: deadline,
		older: c.newest, twin: e.byTuple[key],
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
	key := dataKeyOf(x.Zone, x.Tuple)
	if head := e.byTuple[key]; head != x {
		for head.twin != x {
			head = head.twin
		}
		head.twin = x.twin
	} else if x.twin != nil {
		e.byTuple[key] = x.twin
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

// find returns the expectation of x's control connection for x's tuple.
func (e *expectationTable) find(x *Expectation) *expectation {
	for same := e.byTuple[dataKeyOf(x.Zone, x.Tuple)]; same != nil; same = same.twin {
		if same.Master == x.Master {
			return same
		}
	}
	return nil
}

// maxSame bounds the control connections that may expect the same tuple at a time.
// Every one that is withdrawn is looked for among them.
const maxSame = 8

// crowded reports whether as many other control connections as may be expect the tuple
// of x.
func (e *expectationTable) crowded(x *Expectation) bool {
	n := 0
	for same := e.byTuple[dataKeyOf(x.Zone, x.Tuple)]; same != nil; same = same.twin {
		if same.Master != x.Master {
			n++
		}
	}
	return n >= maxSame
}

// expect adds an expectation of c. One that c has already for the same tuple is
// renewed.
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
	n.contested = n.twin != nil && !t.cfg.Shared && !x.Overflow
	t.stats.Expected++
	t.decision.Expect = append(t.decision.Expect, x)
	t.decision.Contested = t.decision.Contested || n.contested
	t.observe(Event{Kind: EventExpect, Master: c.key.master(), Via: x.Via, Tuple: x.Tuple})
}

// withdraw takes an expectation back.
func (t *Tracker) withdraw(x *expectation, why Reason) {
	if i := t.undecided(x); i >= 0 {
		t.decision.Expect = append(t.decision.Expect[:i], t.decision.Expect[i+1:]...)
		t.decision.Contested = t.decision.Contested && len(t.decision.Expect) > 0
	} else if !x.contested && (t.closing || !t.kept(x)) {
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

// undecided is the place of x in the decision that is being made, or -1.
func (t *Tracker) undecided(x *expectation) int {
	for i := range t.decision.Expect {
		if t.decision.Expect[i] == x.Expectation {
			return i
		}
	}
	return -1
}

// kept reports whether what stands for the tuple of x is not x's to delete. The
// kernel has taken the same tuple from another control connection since x: then x
// was used. Or they share it.
func (t *Tracker) kept(x *expectation) bool {
	newest := t.expected.byTuple[dataKeyOf(x.Zone, x.Tuple)]
	if t.cfg.Shared {
		return newest != x || x.twin != nil
	}
	for y := newest; y != x; y = y.twin {
		if !y.contested {
			return true
		}
	}
	return false
}

// Contended reports whether another control connection waits to have the tuple of
// x expected.
func (t *Tracker) Contended(x *Expectation) bool {
	for y := t.expected.byTuple[dataKeyOf(x.Zone, x.Tuple)]; y != nil; y = y.twin {
		if y.contested {
			return true
		}
	}
	return false
}

// Use takes the expectation that a data connection's first packet meets, if
// there is one. An expectation serves one connection; of two for the same tuple
// the one that came first is used up first, as in the kernel. The packet is in the
// default zone: before conntrack, nothing has put it into another.
func (t *Tracker) Use(src, dst netip.AddrPort) (Expectation, bool) {
	x := t.expected.byTuple[dataKeyOf(0, Tuple{Src: src, Dst: dst})]
	if x == nil {
		return Expectation{}, false
	}
	for x.twin != nil {
		x = x.twin
	}
	used := x.Expectation
	t.expected.remove(x)
	return used, true
}

// Admitted tells the Tracker that the kernel has taken a contested expectation.
// It reports false if the expectation was withdrawn meanwhile: then it must not
// stay in the kernel.
func (t *Tracker) Admitted(x *Expectation) bool {
	n := t.expected.find(x)
	if n == nil {
		return false
	}
	n.contested = false
	return true
}

// Stands reports whether the control connection of x expects its tuple, and the kernel has
// taken that, as far as is known.
func (t *Tracker) Stands(x *Expectation) bool {
	n := t.expected.find(x)
	return n != nil && !n.contested
}

// Refused tells the Tracker that the kernel has refused an expectation. Perhaps
// conntrack has lost the connection and found it again, behind other NAT.
func (t *Tracker) Refused(now time.Time, x *Expectation, why Reason) {
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
