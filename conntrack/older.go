package conntrack

import (
	"slices"
	"sync"
)

// Older are the control connections that are older than the daemon. Each may be picked up
// in the middle, once. A nil *Older is empty. It is safe for concurrent use: the trackers
// of several queues share one.
type Older struct {
	mu  sync.Mutex
	ids map[connKey]uint32 // Connection.ID
	n   int
	out int
}

// NewOlder returns the control connections to ports in list that are ASSURED and
// established, at most limit of them. It leaves out those that conntrack picked up in the
// middle: two forged packets could make one ASSURED, ready for the daemon's next start.
func NewOlder(list []Connection, ports []uint16, limit int) *Older {
	o := &Older{ids: make(map[connKey]uint32)}
	for i := range list {
		c := &list[i]
		ends := c.Endpoints()
		switch {
		case !c.Assured, c.Unread, c.PickedUp, c.Expected, c.State != StateEstablished, !slices.Contains(ports, ends.Dst.Port()):
		case len(o.ids) >= limit:
			o.out++
		default:
			o.Add(*c)
		}
	}
	o.n = len(o.ids)
	return o
}

// Add adds a connection without a check.
func (o *Older) Add(c Connection) {
	ends := c.Endpoints()
	key := keyOf(ends.Src, ends.Dst)
	key.zone = c.Zone
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids[key] = c.ID
}

// Len returns the number of connections that NewOlder found, and of those beyond its limit.
func (o *Older) Len() (n, leftOut int) { return o.n, o.out }

// has reports whether take would return key.
func (o *Older) has(key *connKey) bool {
	if o == nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.ids[*key]
	return ok
}

// take removes a connection and returns its Connection.ID.
func (o *Older) take(key *connKey) (id uint32, ok bool) {
	if o == nil {
		return 0, false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if id, ok = o.ids[*key]; ok {
		delete(o.ids, *key)
	}
	return id, ok
}
