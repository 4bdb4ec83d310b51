package daemon

import (
	"log/slog"
	"time"

	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/firewall"
)

// sayEvery is how often the log says of one counter of the rules that it has risen,
// at most.
const sayEvery = time.Minute

// keptAway says in the log what the rules kept away from the daemon. The zero value
// is ready for use.
type keptAway struct {
	spoofed, sane, fastOpen counter
}

// say logs what has risen since it was said last.
func (k *keptAway) say(log *slog.Logger, now firewall.Counters, at time.Time, cfg config.Firewall) {
	if n := k.spoofed.rise(now.Spoofed, at); n > 0 {
		log.Warn("packets of control connections were not read: their source address is not believed; "+spoofedMeans(cfg.AntiSpoof),
			"packets", n, "total", now.Spoofed)
	}
	if n := k.sane.rise(now.SANERequests, at); n > 0 {
		log.Warn("packets to control ports were dropped: requests that would have made the kernel's helper sane open a port, and no FTP",
			"packets", n, "total", now.SANERequests)
	}
	if n := k.fastOpen.rise(now.FastOpens, at); n > 0 {
		log.Info("SYNs with data to control ports were dropped (TCP Fast Open): their senders send them again without, a second later",
			"packets", n, "total", now.FastOpens)
	}
}

// spoofedMeans says what may lie behind packets whose source is not believed, and
// what to set if they are honest.
func spoofedMeans(a firewall.AntiSpoof) string {
	if a == firewall.AntiSpoofLoose {
		return `it is one that no other host can have: somebody forges addresses, or this is a bridge, which needs firewall.anti_spoof = "off"`
	}
	return `the way back to it is not the link that they came from: somebody forges addresses, or routing is asymmetric, which needs firewall.anti_spoof = "loose", or this is a bridge without addresses, which needs "off"`
}

// counter is one of the rules' counters, as the log knows it.
type counter struct {
	said uint64
	next time.Time // when it may be said again
}

// rise returns by how much the counter has risen since it was said last, and 0 if it
// was said too short a time ago.
func (c *counter) rise(now uint64, at time.Time) uint64 {
	if now <= c.said || at.Before(c.next) {
		return 0
	}
	n := now - c.said
	c.said, c.next = now, at.Add(sayEvery)
	return n
}
