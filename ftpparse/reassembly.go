package ftpparse

import "sync"

// Bounds of a reassembly. Neither end of a control connection can make its reader keep
// much; on a connection that speaks a line at a time TCP reorders no more than a window
// of a few segments.
const (
	maxHeld      = 8192 // bytes
	maxFragments = 16   // pieces of them
)

// reassembly keeps the segments that arrived ahead of a gap, sorted and disjoint. Where
// two overlap the first copy wins, as with bytes that were read already. It is taken
// from a pool, and returned when it is empty.
type reassembly struct {
	n         int // fragments
	used      int // bytes of data, some of which may belong to fragments that were read
	fragments [maxFragments]fragment
	data      [maxHeld]byte
}

// fragment is a run of bytes in the sequence space, kept in data[off:off+n].
type fragment struct {
	seq    uint32
	off, n uint16
}

var reassemblies = sync.Pool{New: func() any { return new(reassembly) }}

// seqLess reports whether sequence number a comes before b.
func seqLess(a, b uint32) bool { return int32(a-b) < 0 }

// add keeps what b has and r has not. It returns false if there is no room for all of
// it.
func (r *reassembly) add(seq uint32, b []byte) bool {
	i := 0
	for len(b) > 0 {
		for i < r.n && !seqLess(seq, r.fragments[i].seq+uint32(r.fragments[i].n)) {
			i++
		}
		take := len(b)
		if i < r.n {
			f := r.fragments[i]
			if !seqLess(seq, f.seq) { // the begin of b is there already
				skip := min(int(f.seq+uint32(f.n)-seq), len(b))
				seq += uint32(skip)
				b = b[skip:]
				continue
			}
			take = min(take, int(f.seq-seq))
		}
		if r.n == maxFragments || r.used+take > maxHeld && !r.compact(take) {
			return false
		}
		copy(r.fragments[i+1:r.n+1], r.fragments[i:r.n])
		r.fragments[i] = fragment{seq: seq, off: uint16(r.used), n: uint16(take)}
		r.n++
		copy(r.data[r.used:], b[:take])
		r.used += take
		seq += uint32(take)
		b = b[take:]
	}
	return true
}

// compact reclaims the room of fragments that were read and reports whether room bytes
// fit then.
func (r *reassembly) compact(room int) bool {
	var data [maxHeld]byte
	used := 0
	for i := range r.fragments[:r.n] {
		f := &r.fragments[i]
		copy(data[used:], r.data[f.off:f.off+f.n])
		f.off = uint16(used)
		used += int(f.n)
	}
	copy(r.data[:used], data[:used])
	r.used = used
	return used+room <= maxHeld
}

// from returns the bytes of the first fragment that come at next or behind it.
func (r *reassembly) from(next uint32) []byte {
	f := r.fragments[0]
	behind := uint16(min(next-f.seq, uint32(f.n)))
	return r.data[f.off+behind : f.off+f.n]
}

// hold keeps bytes that came ahead of their place. It returns false if there is no room
// for all of them.
func (s *stream) hold(seq uint32, data []byte) bool {
	if s.held == nil {
		s.held = reassemblies.Get().(*reassembly)
	}
	all := s.held.add(seq, data)
	if s.held.n == 0 {
		s.dropHeld()
	}
	return all
}

// firstHeld returns the sequence number of the first byte that is held, or seq if that
// comes earlier.
func (s *stream) firstHeld(seq uint32) uint32 {
	if s.held != nil && seqLess(s.held.fragments[0].seq, seq) {
		return s.held.fragments[0].seq
	}
	return seq
}

// uncovered returns the part of data, the next bytes of the stream, that comes before
// the first byte that is held: of two copies the first counts.
func (s *stream) uncovered(data []byte) []byte {
	if s.held != nil {
		data = data[:min(uint32(len(data)), s.held.fragments[0].seq-s.next)]
	}
	return data
}

// dropFragment removes the first fragment, which was read.
func (s *stream) dropFragment() {
	r := s.held
	if r == nil { // reading it has shown that the connection is not FTP
		return
	}
	copy(r.fragments[:], r.fragments[1:r.n])
	if r.n--; r.n == 0 {
		s.dropHeld()
	}
}

// dropHeld forgets everything that is held.
func (s *stream) dropHeld() {
	if s.held != nil {
		s.held.n, s.held.used = 0, 0
		reassemblies.Put(s.held)
		s.held = nil
	}
}
