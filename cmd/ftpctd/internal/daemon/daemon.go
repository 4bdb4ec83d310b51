package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/engine"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
)

// readBuffer is the receive buffer of a queue's socket. The packets of a control
// connection are small; this holds thousands of them.
const readBuffer = 4 << 20

// Run runs the daemon with the configuration cfg until ctx ends or something breaks.
// load reads the configuration again, and level is what a reload sets.
func Run(ctx context.Context, cfg config.Config, load func() (config.Config, error), level *slog.LevelVar, log *slog.Logger) error {
	super, err := newSupervisor(cfg, load, level, log)
	if err != nil {
		return err
	}
	defer super.close()
	return run(ctx, cfg, super, log)
}

// run runs until ctx ends or something breaks. Whatever it made is gone when
// it returns.
func run(ctx context.Context, cfg config.Config, super *supervisor, log *slog.Logger) (err error) {
	if cfg.Metrics.Listen != "" {
		log.Warn("this version does not know what to do with metrics.listen")
	}
	if cfg.Control.Socket != config.Default().Control.Socket {
		log.Warn("this version does not know what to do with control.socket")
	}
	lock, err := takeLock()
	if err != nil {
		return err
	}
	defer lock.Close()

	kernel, err := ctnetlink.Dial()
	if err != nil {
		return err
	}
	defer kernel.Close()

	// What a killed daemon left: its rules would send packets to a queue that is
	// not ready, and nobody would withdraw its expectations.
	if cfg.Firewall.Manage {
		if err := firewall.RemoveStale(); err != nil {
			return err
		}
	}
	if err := withdrawStale(kernel, cfg, log); err != nil {
		return err
	}
	admission, err := admit.Prepare(kernel, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, admission.Close(kernel)) }()

	tracking, err := kernelTracking(kernel, cfg, admission, log)
	if err != nil {
		return err
	}
	// What a worker does takes microseconds, and all else next to nothing. With a
	// processor more, the runtime would wake a thread of its own at each packet, to
	// see whether there is anything for it to do.
	runtime.GOMAXPROCS(int(cfg.Queue.Count))
	queues, err := openQueues(cfg, log)
	defer func() {
		for _, q := range queues {
			err = errors.Join(err, q.Close())
		}
	}()
	if err != nil {
		return err
	}

	rule := "managed elsewhere"
	var rules *ruleset
	var entry *engine.Entry // works with the daemon's own table only
	if cfg.Firewall.Manage {
		if rules, err = installRules(kernel, cfg, admission); err != nil {
			return err
		}
		rule = rules.table.Mode()
		if tracking.Reopen = rules.table.Labels(); !tracking.Reopen {
			log.Warn("the kernel's connections have no labels (CONFIG_NF_CONNTRACK_LABELS): a handshake may be forged where the server is part of it")
		}
		entry = &engine.Entry{Table: rules.table, Timeout: cfg.Helper.Timeout}
	}

	tasks, failed := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	workers := make([]*worker, 0, len(queues))
	for _, q := range queues {
		w := &worker{queue: q, engine: newEngine(cfg, tracking, q, kernel, admission, entry, log)}
		defer w.engine.Close() // releases the packets that are held, before the queue goes
		workers = append(workers, w)
		tasks.Go(func() error { return w.queue.Run(running, w.engine) })
		tasks.Go(func() error { return w.engine.Run(running) })
	}
	log.Info("ready", "ports", cfg.Ports, "admit", admission.Mode, "helper", admission.Helper,
		"because", admission.Why, "queue", cfg.Queue.Num, "queues", cfg.Queue.Count, "rule", rule,
		"conntrack", workers[0].queue.Conntrack())
	tasks.Go(func() error { return super.run(failed, workers, rules) })
	<-failed.Done() // a signal, or a task that failed
	log.Info("stopping")
	// The rules go first, while the queues are still read: no packet is caught
	// in a queue that closes.
	if rules != nil {
		err = rules.table.Remove()
	}
	stop()
	return errors.Join(tasks.Wait(), err)
}

// kernelTracking is what the configuration and the kernel say of the tracker.
func kernelTracking(kernel *ctnetlink.Conn, cfg config.Config, admission admit.Admission, log *slog.Logger) (conntrack.Config, error) {
	tracking := cfg.Tracker()
	connections, err := kernel.Servers(cfg.Ports)
	if err != nil {
		return conntrack.Config{}, err
	}
	tracking.Older = conntrack.NewOlder(connections, cfg.Ports, cfg.Limits.Connections)
	if n, leftOut := tracking.Older.Len(); n > 0 {
		log.Info("control connections are older than the daemon: they are read from where they are", "connections", n, "left out", leftOut)
	}
	if admission.Mode == config.AdmitExpect {
		tracking.KernelShare = kernelShare()
	}
	return tracking, nil
}

// kernelShare is the part of the kernel's table of expectations that one client may
// have.
func kernelShare() int {
	// What a kernel with little memory takes, where a sandbox hides /proc/sys.
	most := 1024
	if b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_expect_max"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			most = n
		}
	}
	return max(most/4, 1)
}

// worker is a queue with its engine.
type worker struct {
	queue  *nfq.Queue
	engine *engine.Engine
}

// openQueues binds the queues of a configuration. With an error it returns those that
// are open.
func openQueues(cfg config.Config, log *slog.Logger) ([]*nfq.Queue, error) {
	queues := make([]*nfq.Queue, 0, cfg.Queue.Count)
	for i := range cfg.Queue.Count {
		q, err := nfq.Open(nfq.Config{
			Num: cfg.Queue.Num + i, Length: cfg.Queue.Length, ReadBuffer: readBuffer, Conntrack: true,
			Driver: cfg.Queue.Driver, BusyPoll: cfg.Queue.BusyPoll, Logger: log,
		})
		if err != nil {
			return queues, err
		}
		queues = append(queues, q)
	}
	return queues, nil
}

// newEngine makes the engine of a queue. entry is nil if others manage the rules.
func newEngine(cfg config.Config, tracking conntrack.Config, q *nfq.Queue, kernel *ctnetlink.Conn, admission admit.Admission, entry *engine.Entry, log *slog.Logger) *engine.Engine {
	c := engine.Config{
		Tracker: tracking, Entry: entry, Lookup: kernel.Connection,
		TLSPorts: cfg.TLSPorts(), SkipMark: cfg.Queue.SkipMark,
		Accept: q.Accept, Send: q.Send, Log: log,
	}
	if admission.Mode == config.AdmitExpect {
		c.Kernel = engine.Expect{Conn: kernel}
	}
	return engine.New(c)
}
