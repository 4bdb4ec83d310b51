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

	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/notify"
	"ftpctd/conntrack"
)

// lookEvery is how often the supervisor looks whether the rules still stand. The
// kernel could tell: but of every element that the daemon itself adds, too, while
// a packet is held for it.
const lookEvery = time.Second

// supervisor looks after a daemon that runs: it tells systemd how the daemon is,
// feeds the watchdog as long as every queue works, makes the rules again when
// somebody has removed them, and reads the configuration again at SIGHUP.
type supervisor struct {
	systemd *notify.Systemd
	load    func() (config.Config, error)
	hangup  chan os.Signal

	cfg   config.Config // in force
	level *slog.LevelVar
	log   *slog.Logger

	workers []*worker
	stuck   bool     // the last test failed
	rules   *ruleset // nil if others manage them
	bare    bool     // the rules could not be made again
	away    keptAway
	unheard bool // the service manager could not be told the last thing
}

// newSupervisor makes the supervisor of a daemon with the configuration cfg,
// which load reads again. From here on SIGHUP does not end the process.
func newSupervisor(cfg config.Config, load func() (config.Config, error), level *slog.LevelVar, log *slog.Logger) (*supervisor, error) {
	systemd, err := notify.Dial(os.Getenv, os.Getpid())
	if err != nil {
		return nil, err
	}
	s := &supervisor{
		systemd: systemd, load: load, hangup: make(chan os.Signal, 1),
		cfg: cfg, level: level, log: log,
	}
	signal.Notify(s.hangup, unix.SIGHUP)
	return s, nil
}

// close releases what newSupervisor took.
func (s *supervisor) close() {
	signal.Stop(s.hangup)
	s.tell(s.systemd.Close())
}

// run says that the daemon is ready and looks after its workers and its rules,
// which are nil if others manage them, until ctx ends.
func (s *supervisor) run(ctx context.Context, workers []*worker, rules *ruleset) error {
	s.workers, s.rules = workers, rules
	s.tell(s.systemd.Ready(s.status()))
	tick := time.NewTicker(s.systemd.Interval())
	defer tick.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			s.tell(s.systemd.Stopping())
			return nil
		case <-s.hangup:
			s.reload()
		case <-tick.C:
			s.test(ctx)
		case <-look.C:
			s.look()
		}
	}
}

// look makes the rules again if somebody has removed them, and says what they keep
// away.
func (s *supervisor) look() {
	if s.rules == nil {
		return
	}
	gone, err := s.rules.restore()
	switch {
	case err != nil:
		if !s.bare {
			s.log.Error("the rules are gone or cannot be seen, and cannot be made again: trying on", "err", err)
		}
	case gone:
		s.log.Warn(`somebody has removed the table "inet ftpctd" (nft flush ruleset?): it was made again`)
		for _, w := range s.workers {
			w.engine.Refill()
		}
	}
	s.bare = err != nil
	if counters, err := s.rules.table.Counters(); err == nil {
		s.away.say(s.log, counters, time.Now(), s.cfg.Firewall)
	}
}

// test feeds the watchdog if the daemon works: the receive loop of each queue
// answers, and the lock of each engine, which the status needs, can be taken.
func (s *supervisor) test(ctx context.Context) {
	patience, cancel := context.WithTimeout(ctx, s.systemd.Interval())
	defer cancel()
	for _, w := range s.workers {
		err := w.queue.Ping(patience)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !s.stuck {
				s.log.Error("a queue does not work: the watchdog goes unfed until it does", "err", err)
			}
			s.stuck = true
			s.tell(s.systemd.Status(err.Error()))
			return
		}
	}
	if s.stuck {
		s.log.Info("the queues work again")
	}
	s.stuck = false
	s.tell(s.systemd.Alive(s.status()))
}

// status sums the counters of all workers up.
func (s *supervisor) status() string {
	var sum conntrack.Stats
	for _, w := range s.workers {
		stats := w.engine.Stats()
		sum.Connections += stats.Connections
		sum.Expected += stats.Expected
		sum.Rejected += stats.Rejected
	}
	return fmt.Sprintf("control connections: %d; since the start, data connections expected: %d, refused: %d",
		sum.Connections, sum.Expected, sum.Rejected)
}

// reload reads the configuration again. What is wrong with it is logged, and
// nothing changes then.
func (s *supervisor) reload() {
	s.tell(s.systemd.Reloading())
	defer func() { s.tell(s.systemd.Ready(s.status())) }()
	next, err := s.load()
	if problems, ok := errors.AsType[*config.Error](err); ok {
		for _, p := range problems.Problems {
			s.log.Error("the configuration stays as it was", "file", problems.File, "problem", p)
		}
		return
	}
	if err != nil {
		s.log.Error("the configuration stays as it was", "err", err)
		return
	}
	cfg, restart := s.cfg.Reload(next)
	for _, w := range s.workers {
		w.engine.SetPolicy(cfg.Tracker().Policy)
	}
	s.level.Set(cfg.Log.Level)
	s.cfg = cfg
	s.log.Info("the configuration was read again")
	if len(restart) > 0 {
		s.log.Warn("some keys have changed that only a restart takes over", "keys", restart)
	}
}

// tell logs that systemd could not be told something, until it can be.
func (s *supervisor) tell(err error) {
	if err != nil && !s.unheard {
		s.log.Warn("cannot tell the service manager", "err", err)
	}
	s.unheard = err != nil
}
