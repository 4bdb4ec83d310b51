package ftpparse

// held keeps segments that arrived ahead of a gap, sorted and disjoint. Where
// two of them overlap the first copy wins, as with bytes that are read already.
type held struct {
	n         int
	used      int
	fragments [maxFragments]fragment
	data      [maxHeld]byte
}

type fragment struct {
	seq    uint32
	off, n uint16
}

// seqLess reports whether sequence number a comes before b.
func seqLess(a, b uint32) bool { return int32(a-b) < 0 }

// add keeps what b has that h has not yet. It reports false when there is no
// room for all of it.
func (h *held) add(seq uint32, b []byte) bool {
	i := 0
	for len(b) > 0 {
		for i < h.n && !seqLess(seq, h.fragments[i].seq+uint32(h.fragments[i].n)) {
			i++
		}
		take := len(b)
		if i < h.n {
			f := h.fragments[i]
			if !seqLess(seq, f.seq) { // the begin of b is there already
				skip := min(int(f.seq+uint32(f.n)-seq), len(b))
				seq += uint32(skip)
				b = b[skip:]
				continue
			}
			take = min(take, int(f.seq-seq))
		}
		if h.n == maxFragments || h.used+take > maxHeld && !h.compact(take) {
			return false
		}
		copy(h.fragments[i+1:h.n+1], h.fragments[i:h.n])
		h.fragments[i] = fragment{seq: seq, off: uint16(h.used), n: uint16(take)}
		h.n++
		copy(h.data[h.used:], b[:take])
		h.used += take
		seq += uint32(take)
		b = b[take:]
	}
	return true
}

// hold keeps data that came ahead of its place and reports whether there is room.
func (s *stream) hold(seq uint32, data []byte) bool {
	if s.held == nil {
		s.held = heldBytes.Get().(*held)
	}
	return s.held.add(seq, data)
}

// first is the sequence number of the first byte that h holds, or seq if that
// comes earlier.
func (h *held) first(seq uint32) uint32 {
	if h.n > 0 && seqLess(h.fragments[0].seq, seq) {
		return h.fragments[0].seq
	}
	return seq
}

// compact reclaims the room of fragments that were read meanwhile and reports
// whether room bytes fit then.
func (h *held) compact(room int) bool {
	var data [maxHeld]byte
	used := 0
	for i := range h.fragments[:h.n] {
		f := &h.fragments[i]
		copy(data[used:], h.data[f.off:f.off+f.n])
		f.off = uint16(used)
		used += int(f.n)
	}
	copy(h.data[:used], data[:used])
	h.used = used
	return used+room <= maxHeld
}
