package daemon

import (
	"log/slog"
	"time"

	"ftpctd/nfq"
)

// queueStats logs what goes wrong with the queues, each of its lines at most once a
// minute. The zero value is ready for use.
type queueStats struct {
	overruns, sendErrors, gone counter
}

// report logs the counters that have risen since they were logged last.
func (q *queueStats) report(log *slog.Logger, now nfq.Stats, at time.Time) {
	if n := q.overruns.rise(now.Overruns, at); n > 0 {
		log.Warn("netlink receive buffer overflow: packets were accepted without inspection (raise net.core.rmem_max, or lower the load)",
			"overruns", n, "total", now.Overruns)
	}
	if n := q.sendErrors.rise(now.SendErrors, at); n > 0 {
		log.Error("cannot send verdicts", "errors", n, "total", now.SendErrors, "err", now.SendError)
	}
	if n := q.gone.rise(now.Gone, at); n > 0 {
		log.Debug("packets left the queue before their verdicts", "packets", n, "total", now.Gone)
	}
}

// sumStats sums the counters of the workers' queues.
func sumStats(workers []*worker) (sum nfq.Stats) {
	for _, w := range workers {
		s := w.queue.Stats()
		sum.Overruns += s.Overruns
		sum.Gone += s.Gone
		sum.SendErrors += s.SendErrors
		if s.SendError != nil {
			sum.SendError = s.SendError
		}
	}
	return sum
}
