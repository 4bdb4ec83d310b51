package lab

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long Stop waits for a process to exit on SIGTERM.
const stopGrace = 2 * time.Second

// Process is a program running on a host of the lab. It never outlives the lab:
// Close stops it, and the kernel kills it if this process dies first. Its children
// are killed with it.
type Process struct {
	host *Host
	cmd  *exec.Cmd
	done chan struct{} // closed once the process was waited for
	err  error         // of cmd.Wait; read after done
}

// Start starts a program in the host's network namespace, which /sys does not show;
// it shares everything else with this process. The program leads a new process group.
// Start sets cmd.SysProcAttr. Only the Process may wait for the cmd.
func (h *Host) Start(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// A descendant that left the process group may hold the output pipes open.
	cmd.WaitDelay = cmp.Or(cmd.WaitDelay, stopGrace)

	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, &OpError{Op: "start " + cmd.Path, Host: h.name, Err: errClosed}
	}
	started := make(chan error)
	h.forks <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, &OpError{Op: "start " + cmd.Path, Host: h.name, Err: err}
	}
	p := &Process{host: h, cmd: cmd, done: make(chan struct{})}
	h.processes[p] = struct{}{}
	go p.reap()
	return p, nil
}

// Run starts a program in the host's namespace and waits for it to exit.
func (h *Host) Run(cmd *exec.Cmd) error {
	p, err := h.Start(cmd)
	if err != nil {
		return err
	}
	return p.Wait()
}

// Output runs a program and returns its standard output. If it fails, the error
// includes its standard error.
func (h *Host) Output(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout = &stdout
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	err := h.Run(cmd)
	if msg := bytes.TrimSpace(stderr.Bytes()); err != nil && len(msg) > 0 {
		err = &OpError{Op: "run " + cmd.Path, Host: h.name, Err: errors.Join(err, errors.New(string(msg)))}
	}
	return stdout.Bytes(), err
}

// reap waits for the process to exit and kills its process group: children that serve
// a connection may not exit with their parent. It does so while the process is a zombie,
// so that the group's id cannot have been reused.
func (p *Process) reap() {
	for {
		err := unix.Waitid(unix.P_PID, p.Pid(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Kill(-p.Pid(), unix.SIGKILL)
	p.err = p.cmd.Wait()
	p.host.mu.Lock()
	delete(p.host.processes, p)
	p.host.mu.Unlock()
	close(p.done)
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the process has exited.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the process to exit and returns the error of exec.Cmd.Wait. It can
// be called any number of times.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Signal sends a signal to the process, but not to its children.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop stops the process with SIGTERM and, after two seconds, with SIGKILL. It returns
// the error of Wait.
func (p *Process) Stop() error {
	for _, sig := range []os.Signal{unix.SIGTERM, unix.SIGKILL} {
		_ = p.Signal(sig) // fails only if the process has exited
		select {
		case <-p.done:
			return p.err
		case <-time.After(stopGrace):
		}
	}
	return p.Wait()
}

// Transcript records the output of a process for concurrent readers. The zero value is
// ready to use.
type Transcript struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer. It does not fail.
func (t *Transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(b)
}

// String returns everything written so far.
func (t *Transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}
