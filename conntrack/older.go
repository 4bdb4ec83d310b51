package conntrack

import (
	"slices"
	"sync"
)

// Older are the control connections that conntrack had when the daemon started. They
// may be picked up in the middle, each of them once. A nil *Older has none. It is safe
// for concurrent use: the trackers of several queues share one.
type Older struct {
	mu  sync.Mutex
	ids map[connKey]uint32 // Connection.ID
	n   int
	out int
}

// NewOlder makes an Older of those of list that are control connections to ports,
// ASSURED and established, at most limit of them. Of what conntrack itself has picked up
// nobody has seen who opened it: who forges two packets could have it ASSURED, and wait
// for the daemon's next start.
func NewOlder(list []Connection, ports []uint16, limit int) *Older {
	o := &Older{ids: make(map[connKey]uint32)}
	for i := range list {
		c := &list[i]
		ends := c.Ends()
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

// Add lists another connection, which the caller knows to be one of them.
func (o *Older) Add(c Connection) {
	ends := c.Ends()
	key := keyOf(ends.Src, ends.Dst)
	key.zone = c.Zone
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids[key] = c.ID
}

// Len returns how many connections NewOlder found, and how many it left out for its
// limit.
func (o *Older) Len() (n, leftOut int) { return o.n, o.out }

// has reports whether take would find key.
func (o *Older) has(key *connKey) bool {
	if o == nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.ids[*key]
	return ok
}

// take returns the ID of a connection that was not taken before.
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
