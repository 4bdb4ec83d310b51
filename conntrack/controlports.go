package conntrack

import (
	"time"

	"ftpctd/ftpparse"
)

// refusedPorts are the control ports that were announced as endpoints of data
// connections. Such an endpoint is refused, but the firewall may admit what goes there
// as a control connection, and who sends the file chooses what is read: it is data.
type refusedPorts struct {
	until map[dataKey]time.Duration // by Tracker.clock
}

// maxRefused bounds the endpoints that are told apart. Beyond it whatever the same host
// opens to the same port counts as data; of IPv6 the network, in which a host may take
// any address.
const maxRefused = 1 << 12

// refuse notes that the other side of c may be about to open a data connection to a
// control port of the side that announced it.
func (t *Tracker) refuse(c *conn, via ftpparse.Via, port uint16) {
	key := dataKey{src: c.key.client, dst: c.key.server, port: port, family: c.key.family, zone: c.key.zone}
	if via.Active() {
		key.src, key.dst = key.dst, key.src
	}
	if t.refused.until == nil {
		t.refused.until = make(map[dataKey]time.Duration)
	}
	if _, ok := t.refused.until[key]; !ok && len(t.refused.until) >= maxRefused {
		key = key.anywhere()
	}
	t.refused.until[key] = t.clock + t.cfg.Timeout
}

// anywhere is the key of whatever goes to the port.
func (k dataKey) anywhere() dataKey {
	k.dst = [16]byte{}
	if k.family == 6 {
		clear(k.src[8:])
	}
	return k
}

// has reports whether a connection may be such a data connection.
func (r *refusedPorts) has(k *connKey, now time.Duration) bool {
	if len(r.until) == 0 {
		return false
	}
	key := dataKey{src: k.client, dst: k.server, port: k.serverPort, family: k.family, zone: k.zone}
	return r.until[key] > now || r.until[key.anywhere()] > now
}

// expire forgets what was announced too long ago.
func (r *refusedPorts) expire(now time.Duration) {
	for key, until := range r.until {
		if until <= now {
			delete(r.until, key)
		}
	}
}
