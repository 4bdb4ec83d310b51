package conntrack

import (
	"time"

	"ftpctd/ftpparse"
)

// announcedControlPorts are the control ports that were announced as endpoints of data
// connections. Such an announcement is rejected, but the firewall may accept its data
// connection as a control connection, whose content the sender of the file chooses: it
// must not be parsed.
type announcedControlPorts struct {
	until map[tupleKey]time.Duration // by Tracker.clock
}

// maxControlPorts bounds the endpoints that are kept one by one. Beyond it, any connection
// from the same host (IPv6: network) to the same port counts as a data connection.
const maxControlPorts = 1 << 12

// noteControlPort notes that the peer of c may be about to open a data connection to a
// control port of the side that announced it.
func (t *Tracker) noteControlPort(c *conn, via ftpparse.Via, port uint16) {
	key := tupleKey{src: c.key.client, dst: c.key.server, port: port, family: c.key.family, zone: c.key.zone}
	if via.Active() {
		key.src, key.dst = key.dst, key.src
	}
	until := t.controlPorts.until
	if until == nil {
		until = make(map[tupleKey]time.Duration)
		t.controlPorts.until = until
	}
	if _, ok := until[key]; !ok && len(until) >= maxControlPorts {
		key = key.anyDst()
	}
	until[key] = t.clock + t.cfg.Timeout
}

// anyDst returns the key for all destinations with the port.
func (k tupleKey) anyDst() tupleKey {
	k.dst = [16]byte{}
	if k.family == 6 {
		clear(k.src[8:])
	}
	return k
}

// has reports whether a connection may be such a data connection.
func (p *announcedControlPorts) has(k *connKey, now time.Duration) bool {
	if len(p.until) == 0 {
		return false
	}
	key := tupleKey{src: k.client, dst: k.server, port: k.serverPort, family: k.family, zone: k.zone}
	return p.until[key] > now || p.until[key.anyDst()] > now
}

// expire removes endpoints whose data connection was not opened in time.
func (p *announcedControlPorts) expire(now time.Duration) {
	for key, until := range p.until {
		if until <= now {
			delete(p.until, key)
		}
	}
}
