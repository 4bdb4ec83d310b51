package vm

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// Options describe a run in a virtual machine.
type Options struct {
	// Command is the command line: the program, searched in the environment's
	// PATH if it has no slash, and its arguments. It runs as root, with an empty
	// standard input, no terminal, and the loopback interface up.
	Command []string

	// Dir is the working directory; this process's if empty.
	Dir string

	// Env is the environment as "key=value"; this process's if nil.
	Env []string

	// Modules are loaded before the command runs. They are those that the
	// kernel does not request on demand.
	Modules []string

	// Systemd makes systemd PID 1 and the command a service. No service of the
	// host is enabled, but each can be started. Otherwise PID 1 runs the command,
	// alone.
	Systemd bool

	// Stdout and Stderr get the output of the command as it is written. They may
	// be nil, and the same writer if it is safe for concurrent use. A failed
	// write stops the machine.
	Stdout, Stderr io.Writer

	// Console gets the output of QEMU and of the guest's console. It may be nil.
	Console io.Writer
}

// Result is the result of a command.
type Result struct {
	// ExitCode is the exit code of the command. As in a shell it is 128 plus the
	// signal number if a signal killed it, 127 if it was not found and 126 if it
	// could not be executed.
	ExitCode int

	// Boot is the time from the start of QEMU to the start of the command.
	Boot time.Duration

	// Elapsed is the run time of the command.
	Elapsed time.Duration
}

// Run boots a kernel, runs the command and switches the machine off. The end of
// the context stops the machine immediately. When Run returns, nothing of the
// machine is left.
//
// A failed command is not an error: see Result.ExitCode. If the command did not
// run to its end, the error is an *OpError. Its cause is context.Cause(ctx) if the
// context ended, and [ErrPanic] if the kernel panicked.
//
// Output that processes left by the command write more than five seconds after
// its exit is lost.
func Run(ctx context.Context, k Kernel, o Options) (Result, error) {
	program, err := exec.LookPath(qemu)
	if err != nil {
		return Result{}, &OpError{Op: "find QEMU", Kernel: k.Name, Err: fmt.Errorf("%w: %w", err, errInstall)}
	}
	initramfs, err := newInitramfs(k, o)
	if err != nil {
		return Result{}, &OpError{Op: "build the initramfs", Kernel: k.Name, Err: err}
	}
	defer initramfs.Close() // memory that QEMU has read
	m := newMachine(o)
	if err := m.run(ctx, program, k, initramfs); err != nil {
		op := "boot"
		if !m.started.IsZero() {
			op = "run " + o.Command[0]
		}
		return Result{}, &OpError{Op: op, Kernel: k.Name, Err: err, Console: m.console.String()}
	}
	return m.result, nil
}
