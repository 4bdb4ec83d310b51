package daemon

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/engine"
	"ftpctd/nfq"
)

// readBuffer is the receive buffer of a queue's socket, in bytes. The packets of a
// control connection are small: it holds thousands of them.
const readBuffer = 4 << 20

// A worker is a queue with its engine.
type worker struct {
	queue  *nfq.Queue
	engine *engine.Engine // nil until it is started
}

// workers are the workers of a daemon, and its tasks.
type workers struct {
	list  []*worker
	tasks *errgroup.Group    // nil until they are started
	stop  context.CancelFunc // ends the workers' tasks
}

// gcPercent is the garbage that the heap may have, in percent of the memory in use. The
// packet path leaves none, so that less than Go's 100 costs next to nothing.
const gcPercent = 25

// openWorkers binds the queues. With an error it returns those that are open.
func openWorkers(cfg config.Config) (*workers, error) {
	// Workers need microseconds per packet and nothing else in the process is busy.
	// With spare Ps the scheduler would wake an idle thread for every packet.
	runtime.GOMAXPROCS(int(cfg.Queue.Count))
	debug.SetGCPercent(gcPercent)
	w := &workers{}
	for i := range cfg.Queue.Count {
		q, err := nfq.Open(nfq.Config{
			Num: cfg.Queue.Num + i, Length: cfg.Queue.Length, ReadBuffer: readBuffer, Conntrack: true,
			Driver: cfg.Queue.Driver, BusyPoll: cfg.Queue.BusyPoll,
		})
		if err != nil {
			return w, err
		}
		w.list = append(w.list, &worker{queue: q})
	}
	return w, nil
}

// start starts the workers. They do not end with ctx, but when they are closed. The
// context it returns is for the other tasks: it ends with ctx, or when a task fails.
func (w *workers) start(ctx context.Context, newEngine func(*nfq.Queue) *engine.Engine) (failed context.Context) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	w.tasks, failed = errgroup.WithContext(ctx)
	for _, worker := range w.list {
		worker.engine = newEngine(worker.queue)
		w.tasks.Go(func() error { return worker.queue.Run(running, worker.engine) })
		w.tasks.Go(func() error { return worker.engine.Run(running) })
	}
	return failed
}

// close ends the tasks and returns their error. The engines release the packets that
// they hold before the queues close.
func (w *workers) close() (err error) {
	if w.tasks != nil {
		w.stop()
		err = w.tasks.Wait()
		for _, worker := range w.list {
			worker.engine.Close()
		}
	}
	for _, worker := range w.list {
		err = errors.Join(err, worker.queue.Close())
	}
	return err
}

// conntrack reports whether the queues' packets come with their conntrack entry.
func (w *workers) conntrack() bool { return w.list[0].queue.Conntrack() }

// newEngine makes the engine of a queue.
func (d *daemon) newEngine(q *nfq.Queue) *engine.Engine {
	c := engine.Config{
		Tracker: d.tracking, Now: time.Now, Lookup: d.kernel.Lookup,
		TLSPorts: d.cfg.TLSPorts(), SkipMark: d.cfg.Queue.SkipMark,
		Accept: q.Accept, Send: q.Send, Log: d.log,
	}
	if d.admission.Mode != config.AdmitEntry {
		c.Expect = admit.NewExpect(d.kernel)
	}
	if d.rules != nil {
		c.Entry = admit.NewEntry(d.rules.table, d.cfg.Helper.Timeout)
	}
	return engine.New(c)
}
