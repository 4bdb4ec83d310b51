// Package event bounds what is logged about events that a host on the network can
// cause at will.
package event

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// How often lines of a kind pass: a number at once, then one in a time.
const (
	clientBurst = 5 // about one client
	clientEvery = 5 * time.Second
	kindBurst   = 50 // about all clients together
	kindEvery   = time.Second
	// summaryEvery is the least time between two summaries of a kind.
	summaryEvery = 10 * time.Second
	// slots is the number of buckets that the clients of a kind share.
	slots = 256
)

// A Kind is a kind of line. Its strings are words of the program: it holds
// nothing that a host on the network can choose.
type Kind struct{ Event, Reason string }

// A Summary says how many lines of a kind were suppressed.
type Summary struct {
	Kind  Kind
	Lines uint64
	// Client is the host (IPv6: the /64) that more than half of them are about,
	// or invalid if there is none.
	Client netip.Addr
}

// A Limiter decides which lines are logged: a few about each client and kind, and
// a bounded number of each kind. The rest is counted. Its memory is fixed: clients
// that share a bucket by chance share its allowance. Methods are safe for
// concurrent use; the clock is an argument.
type Limiter struct {
	mu    sync.Mutex
	seed  uint64 // keeps a client from choosing whose bucket it shares
	kinds map[Kind]*kind
}

// A kind has buckets of its own, so that a flood of one kind silences no other.
type kind struct {
	clients    [slots]bucket
	all        bucket
	suppressed uint64 // since the last summary
	summarized int64  // when that was, in Unix nanoseconds
	// The majority vote of Boyer and Moore: the candidate is the one that more than
	// half of all calls name, if any, and certainly so with votes from more than half.
	candidate netip.Addr
	votes     uint64
}

// NewLimiter returns a Limiter that has suppressed nothing yet.
func NewLimiter() *Limiter {
	return &Limiter{seed: rand.Uint64(), kinds: make(map[Kind]*kind)}
}

// Allow reports whether a line about a client may be logged at a time. If not, it
// is counted for the next summary. It allocates nothing, except at the first line
// of a kind.
func (l *Limiter) Allow(now time.Time, k Kind, client netip.Addr) bool {
	client = source(client)
	t := now.UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.kinds[k]
	if of == nil {
		of = &kind{}
		l.kinds[k] = of
	}
	if of.clients[l.slot(client)].take(t, clientEvery, clientBurst) && of.all.take(t, kindEvery, kindBurst) {
		return true
	}
	of.suppressed++
	switch {
	case of.candidate == client:
		of.votes++
	case of.votes == 0:
		of.candidate, of.votes = client, 1
	default:
		of.votes--
	}
	return false
}

// Summaries returns what was suppressed of each kind since its last summary,
// unless that is too recent, and begins to count from zero.
func (l *Limiter) Summaries(now time.Time) []Summary {
	return l.summaries(now.UnixNano(), summaryEvery)
}

// Rest returns what was suppressed of each kind since its last summary.
func (l *Limiter) Rest(now time.Time) []Summary { return l.summaries(now.UnixNano(), 0) }

func (l *Limiter) summaries(t int64, every time.Duration) (found []Summary) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, of := range l.kinds {
		// A clock that was set back is no reason to be silent.
		if since := t - of.summarized; of.suppressed == 0 || since >= 0 && since < int64(every) {
			continue
		}
		s := Summary{Kind: k, Lines: of.suppressed}
		if of.votes > of.suppressed/2 {
			s.Client = of.candidate
		}
		found = append(found, s)
		of.suppressed, of.votes, of.summarized = 0, 0, t
	}
	return found
}

// source is what counts as one client: of IPv6 the network, in which a host may
// take any address (RFC 4291 section 2.5.4).
func source(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is6() {
		p, _ := a.Prefix(64) // no error: 64 is a length of IPv6
		return p.Addr()
	}
	return a
}

// slot returns the place of a client's bucket.
func (l *Limiter) slot(client netip.Addr) uint64 {
	b := client.As16()
	const odd = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	h := l.seed
	for _, word := range [...]uint64{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])} {
		high, low := bits.Mul64(h^word, odd)
		h = high ^ low
	}
	return h % slots
}

// A bucket of tokens is the time, in Unix nanoseconds, at which it is full again.
type bucket int64

// take takes a token, of which the bucket holds burst and gets one in a time.
func (b *bucket) take(now int64, every time.Duration, burst int64) bool {
	full := max(int64(*b), now)
	if full > now+burst*int64(every) { // the clock was set back
		full = now
	}
	ok := full <= now+(burst-1)*int64(every)
	if ok {
		full += int64(every)
	}
	*b = bucket(full)
	return ok
}
