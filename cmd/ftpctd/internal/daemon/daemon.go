package daemon

import (
	"context"
	"log/slog"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
)

// Options are what a daemon is run with.
type Options struct {
	// Config is the configuration at the start.
	Config config.Config
	// Load loads the configuration again, on SIGHUP.
	Load func() (config.Config, error)
	// Level is the level of Log. A reload sets it.
	Level *slog.LevelVar
	Log   *slog.Logger
}

// Run runs the daemon in the calling process's network namespace until ctx ends or
// something breaks. Whatever it added to the kernel is removed when it returns. It
// needs CAP_NET_ADMIN, and sets GOMAXPROCS and the GC percent. From its start, SIGHUP
// does not end the process.
func Run(ctx context.Context, o Options) error {
	d := &daemon{cfg: o.Config, log: o.Log}
	d.warnUnsupported()
	return through([]step{
		func() (func() error, error) { return d.openSupervisor(o) },
		d.lock,
		d.dial,
		d.removeStale,
		d.chooseAdmission,
		d.findOlder,
		d.openWorkers,
		// Undone first, while the queues are still read: no packet is lost in a queue
		// that closes.
		d.installRules,
	}, func() error { return d.serve(ctx) })
}

// daemon is the parts of a daemon, in the order in which they are brought up.
type daemon struct {
	cfg config.Config
	log *slog.Logger

	super     *supervisor
	kernel    *ctnetlink.Conn
	admission admit.Admission
	tracking  conntrack.Config
	workers   *workers
	rules     *ruleset // nil unless the daemon manages its table
}

// warnUnsupported warns of keys that have no effect yet.
func (d *daemon) warnUnsupported() {
	if d.cfg.Metrics.Listen != "" {
		d.log.Warn("metrics.listen is set but not supported yet")
	}
	if d.cfg.Control.Socket != config.Default().Control.Socket {
		d.log.Warn("control.socket is set but not supported yet")
	}
}

func (d *daemon) openSupervisor(o Options) (undo func() error, err error) {
	if d.super, err = newSupervisor(o); err != nil {
		return nil, err
	}
	return d.super.close, nil
}

func (d *daemon) lock() (undo func() error, err error) {
	lock, err := takeLock()
	if err != nil {
		return nil, err
	}
	return lock.Close, nil
}

func (d *daemon) dial() (undo func() error, err error) {
	if d.kernel, err = ctnetlink.Dial(); err != nil {
		return nil, err
	}
	return d.kernel.Close, nil
}

// removeStale cleans up after a daemon that was killed: its rules would queue packets
// before the queues are read, and its expectations would never be removed.
func (d *daemon) removeStale() (undo func() error, err error) {
	if d.cfg.Firewall.Manage {
		if err := firewall.RemoveStale(); err != nil {
			return nil, err
		}
	}
	return nil, removeStaleExpectations(d.kernel, d.cfg, d.log)
}

func (d *daemon) chooseAdmission() (undo func() error, err error) {
	if d.admission, err = admit.Prepare(d.kernel, d.cfg); err != nil {
		return nil, err
	}
	return func() error { return d.admission.Close(d.kernel) }, nil
}

// findOlder lists the control connections that were there before the daemon.
func (d *daemon) findOlder() (undo func() error, err error) {
	d.tracking, err = kernelTracking(d.kernel, d.cfg, d.admission, d.log)
	return nil, err
}

func (d *daemon) openWorkers() (undo func() error, err error) {
	d.workers, err = openWorkers(d.cfg)
	return d.workers.close, err
}

func (d *daemon) installRules() (undo func() error, err error) {
	if !d.cfg.Firewall.Manage {
		return nil, nil
	}
	if d.rules, err = installRules(d.kernel, d.cfg, d.admission); err != nil {
		return nil, err
	}
	if d.tracking.Reopen = d.rules.table.Labels(); !d.tracking.Reopen {
		d.log.Warn("conntrack has no labels (CONFIG_NF_CONNTRACK_LABELS): where the server is part of it, a handshake can be forged")
	}
	return d.rules.table.Remove, nil
}

// serve starts the workers and supervises them until ctx ends or one of them fails.
func (d *daemon) serve(ctx context.Context) error {
	failed := d.workers.start(ctx, d.newEngine)
	d.logReady()
	d.workers.tasks.Go(func() error { return d.super.run(failed, d.workers.list, d.rules) })
	<-failed.Done() // a signal, or a task that failed
	d.log.Info("stopping")
	return nil
}

// logReady logs that the daemon serves, and how.
func (d *daemon) logReady() {
	rule := "managed elsewhere"
	if d.rules != nil {
		rule = d.rules.table.Mode()
	}
	d.log.Info("ready", "ports", d.cfg.Ports, "admit", d.admission.Mode, "helper", d.admission.Helper,
		"reason", d.admission.Why, "queue", d.cfg.Queue.Num, "queues", d.cfg.Queue.Count, "rule", rule,
		"conntrack", d.workers.conntrack())
}
