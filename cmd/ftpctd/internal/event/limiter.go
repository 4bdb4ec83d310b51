package event

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// How often lines of a kind pass: a burst, then one per interval.
const (
	clientBurst = 5 // about one client
	clientEvery = 5 * time.Second
	kindBurst   = 50 // about all clients together
	kindEvery   = time.Second
	// summaryEvery is the minimum time between two summaries of a kind.
	summaryEvery = 10 * time.Second
	// slots is the number of buckets that the clients of a kind share.
	slots = 256
)

// A Kind is a kind of line. Its strings are constants of the program: a host on the
// network cannot choose them.
type Kind struct{ Event, Reason string }

// A Summary is the number of suppressed lines of a kind.
type Summary struct {
	Kind  Kind
	Lines uint64
	// Client is the client (IPv6: the /64) of more than half of them, invalid if there
	// is none.
	Client netip.Addr
}

// A Limiter decides which lines are logged: a few per client and kind, and a bounded
// number per kind. The rest is counted. Its memory is fixed: clients that happen to
// share a bucket share its allowance. Methods are safe for concurrent use; the clock is
// an argument.
type Limiter struct {
	mu    sync.Mutex
	seed  uint64 // prevents a client from choosing whose bucket it shares
	kinds map[Kind]*kind
}

// A kind has its own buckets, so that a flood of one kind does not silence another.
type kind struct {
	clients    [slots]bucket
	all        bucket
	suppressed uint64 // since the last summary
	summarized int64  // when that was, in Unix nanoseconds
	// The majority vote of Boyer and Moore: candidate is the client of more than half of
	// the suppressed lines, if there is one, and certainly if votes exceed half of them.
	candidate netip.Addr
	votes     uint64
}

// NewLimiter returns a Limiter that has suppressed nothing yet.
func NewLimiter() *Limiter {
	return &Limiter{seed: rand.Uint64(), kinds: make(map[Kind]*kind)}
}

// Allow reports whether a line about a client may be logged now. If not, the line is
// counted for the next summary. It allocates only for the first line of a kind.
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

// Summaries returns the number of suppressed lines of each kind since its last summary,
// unless that is too recent, and resets it.
func (l *Limiter) Summaries(now time.Time) []Summary {
	return l.summaries(now.UnixNano(), summaryEvery)
}

// Rest returns the summaries of all kinds, however recent the last ones are.
func (l *Limiter) Rest(now time.Time) []Summary { return l.summaries(now.UnixNano(), 0) }

func (l *Limiter) summaries(t int64, every time.Duration) (found []Summary) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, of := range l.kinds {
		// After the clock was set back, a summary is due.
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

// source returns the address that identifies a client. For IPv6 it is the /64, in which a
// host may use any address (RFC 4291 section 2.5.4).
func source(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is6() {
		p, _ := a.Prefix(64) // no error: 64 is a length of IPv6
		return p.Addr()
	}
	return a
}

// slot returns the index of a client's bucket.
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

// A bucket is a token bucket, as the time in Unix nanoseconds at which it is full again.
type bucket int64

// take takes a token, if there is one, from a bucket that holds burst tokens and gains
// one per interval.
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
