package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/advice"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/notify"
	"ftpctd/conntrack"
)

// rulesetCheckInterval is how often the table is checked. Subscribing to nftables
// events would be prompt, but would also report every set element that the daemon
// adds, on the packet path.
const rulesetCheckInterval = time.Second

// supervisor looks after a daemon that runs: it reports the status to systemd, pings
// the watchdog while every queue responds, restores the table when it was removed, and
// reloads the configuration on SIGHUP.
type supervisor struct {
	systemd *notify.Systemd
	load    func() (config.Config, error)
	hangup  chan os.Signal

	cfg   config.Config // in force
	level *slog.LevelVar
	log   *slog.Logger

	workers      []*worker
	unhealthy    bool     // the last health check failed
	rules        *ruleset // nil unless the daemon manages its table
	rulesMissing bool     // the table could not be restored
	away         keptAway
	queues       queueStats
	notifyFailed bool // the service manager did not get the last notification
}

// newSupervisor makes the supervisor of a daemon. From here on SIGHUP does not end
// the process.
func newSupervisor(o Options) (*supervisor, error) {
	systemd, err := notify.Dial(os.Getenv, os.Getpid())
	if err != nil {
		return nil, err
	}
	s := &supervisor{
		systemd: systemd, load: o.Load, hangup: make(chan os.Signal, 1),
		cfg: o.Config, level: o.Level, log: o.Log,
	}
	signal.Notify(s.hangup, unix.SIGHUP)
	return s, nil
}

// close releases what newSupervisor took.
func (s *supervisor) close() error {
	signal.Stop(s.hangup)
	return s.systemd.Close()
}

// run notifies systemd that the daemon is ready and looks after its workers and its
// rules, which are nil unless the daemon manages its table, until ctx ends.
func (s *supervisor) run(ctx context.Context, workers []*worker, rules *ruleset) error {
	s.workers, s.rules = workers, rules
	s.notify(s.systemd.Ready(s.status()))
	health := time.NewTicker(s.systemd.Interval())
	defer health.Stop()
	ruleset := time.NewTicker(rulesetCheckInterval)
	defer ruleset.Stop()
	for {
		select {
		case <-ctx.Done():
			s.notify(s.systemd.Stopping())
			return nil
		case <-s.hangup:
			s.reload()
		case <-health.C:
			s.checkHealth(ctx)
		case <-ruleset.C:
			s.checkRuleset()
			s.queues.report(s.log, sumStats(s.workers), time.Now())
		}
	}
}

// checkRuleset restores the table if it was removed, deletes its idle chains, and logs
// what its rules kept from the daemon.
func (s *supervisor) checkRuleset() {
	if s.rules == nil {
		return
	}
	s.restoreRuleset()
	if err := s.rules.table.DeleteIdleHooks(); err != nil {
		s.log.Warn("cannot delete the hooks of data connections", "err", err)
	}
	if counters, err := s.rules.table.Counters(); err == nil {
		s.away.log(s.log, counters, time.Now(), s.cfg.Firewall)
	}
}

func (s *supervisor) restoreRuleset() {
	gone, err := s.rules.restore()
	switch {
	case err != nil:
		if !s.rulesMissing {
			s.log.Error(`cannot restore nftables table "inet ftpctd"; retrying`, "err", err)
		}
	case gone:
		s.log.Warn(`nftables table "inet ftpctd" was removed or replaced (nft flush ruleset?); restored it`)
		for _, w := range s.workers {
			w.engine.ReinstallTLS()
		}
	}
	s.rulesMissing = err != nil
}

// checkHealth pings each queue and, if all respond, the watchdog. Collecting the
// status also proves that each engine's lock is available.
func (s *supervisor) checkHealth(ctx context.Context) {
	timeout, cancel := context.WithTimeout(ctx, s.systemd.Interval())
	defer cancel()
	for _, w := range s.workers {
		err := w.queue.Ping(timeout)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !s.unhealthy {
				s.log.Error("packet queue is not responding; withholding watchdog keep-alive", "err", err)
			}
			s.unhealthy = true
			s.notify(s.systemd.Status(advice.Explain(err).Error()))
			return
		}
	}
	if s.unhealthy {
		s.log.Info("packet queues recovered")
	}
	s.unhealthy = false
	s.notify(s.systemd.Alive(s.status()))
}

// status sums up the counters of all workers.
func (s *supervisor) status() string {
	var sum conntrack.Stats
	for _, w := range s.workers {
		stats := w.engine.Stats()
		sum.Connections += stats.Connections
		sum.Expected += stats.Expected
		sum.Rejected += stats.Rejected
	}
	return fmt.Sprintf("%d control connections; %d data connections expected, %d rejected",
		sum.Connections, sum.Expected, sum.Rejected)
}

// reload reloads the configuration. A file with problems changes nothing: they are
// logged.
func (s *supervisor) reload() {
	s.notify(s.systemd.Reloading())
	defer func() { s.notify(s.systemd.Ready(s.status())) }()
	next, err := s.load()
	if problems, ok := errors.AsType[*config.Error](err); ok {
		for _, p := range problems.Problems {
			s.log.Error("configuration not reloaded", "file", problems.File, "problem", p)
		}
		return
	}
	if err != nil {
		s.log.Error("configuration not reloaded", "err", err)
		return
	}
	cfg, restart := s.cfg.Reload(next)
	for _, w := range s.workers {
		w.engine.SetPolicy(cfg.Tracker().Policy)
	}
	s.level.Set(cfg.Log.Level)
	s.cfg = cfg
	s.log.Info("configuration reloaded: the file was read again")
	if len(restart) > 0 {
		s.log.Warn("changed keys take effect after a restart", "keys", restart)
	}
}

// notify logs the error of a notification to systemd, the first of several in a row.
func (s *supervisor) notify(err error) {
	if err != nil && !s.notifyFailed {
		s.log.Warn("sd_notify failed", "err", err)
	}
	s.notifyFailed = err != nil
}
