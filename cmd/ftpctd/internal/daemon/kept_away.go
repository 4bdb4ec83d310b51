package daemon

import (
	"log/slog"
	"time"

	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/firewall"
)

// keptAwayInterval is how often the log reports at most that one of the rules'
// counters has risen.
const keptAwayInterval = time.Minute

// keptAway logs the packets that the rules kept from the daemon. The zero value is
// ready for use.
type keptAway struct {
	spoofed, sane, fastOpen counter
}

// log logs the counters that have risen since they were logged last.
func (k *keptAway) log(log *slog.Logger, now firewall.Counters, at time.Time, cfg config.Firewall) {
	if n := k.spoofed.rise(now.Spoofed, at); n > 0 {
		log.Warn("control-connection packets failed the source address check and were not inspected; "+spoofedAdvice(cfg.AntiSpoof),
			"packets", n, "total", now.Spoofed)
	}
	if n := k.sane.rise(now.SANERequests, at); n > 0 {
		log.Warn("dropped packets to control ports: requests that would make the kernel's sane helper open a port, which FTP never sends",
			"packets", n, "total", now.SANERequests)
	}
	if n := k.fastOpen.rise(now.FastOpens, at); n > 0 {
		log.Info("dropped SYNs with data to control ports (TCP Fast Open); clients retransmit them without data after a second",
			"packets", n, "total", now.FastOpens)
	}
}

// spoofedAdvice names the causes of packets that fail the source address check, and
// the setting that accepts honest ones.
func spoofedAdvice(a firewall.AntiSpoof) string {
	if a == firewall.AntiSpoofLoose {
		return `no other host can have these addresses: they are forged, or this is a bridge (set firewall.anti_spoof = "off")`
	}
	return `the routes back do not use the link that they arrived on: they are forged, or routing is asymmetric (set firewall.anti_spoof = "loose"), or this is a bridge without addresses (set "off")`
}

// counter is one of the rules' counters, as the log has reported it.
type counter struct {
	logged uint64
	next   time.Time // when it may be logged again
}

// rise returns by how much the counter has risen since it was logged last, and 0 if
// that was less than keptAwayInterval ago.
func (c *counter) rise(now uint64, at time.Time) uint64 {
	if now <= c.logged || at.Before(c.next) {
		return 0
	}
	n := now - c.logged
	c.logged, c.next = now, at.Add(keptAwayInterval)
	return n
}
