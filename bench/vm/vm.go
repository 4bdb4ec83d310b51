package vm

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// Options say what runs in a virtual machine, and how.
type Options struct {
	// Command is the command line: the program, found by the environment's
	// PATH if it has no slash, and its arguments. It runs as root, with nothing
	// on its standard input, no terminal, and the loopback interface up.
	Command []string

	// Dir is the working directory; the one of this process if empty.
	Dir string

	// Env is the environment as "key=value"; that of this process if nil.
	Env []string

	// Modules are loaded before the command runs, for those that the kernel
	// does not ask for by itself.
	Modules []string

	// Systemd makes systemd PID 1. The command is then a service that runs
	// beside what every machine with systemd has; no service of the host is
	// enabled, but each may be started. Otherwise PID 1 runs the command and
	// there is nothing besides.
	Systemd bool

	// Stdout and Stderr take what the command writes, as it does. They may be
	// nil, and they may be the same writer if it is safe for concurrent use.
	// If writing to one fails, the machine is stopped.
	Stdout, Stderr io.Writer

	// Console takes what QEMU and the guest's console say. It may be nil.
	Console io.Writer
}

// Result is how a command ended.
type Result struct {
	// ExitCode is the exit code of the command. As in a shell it is 128 plus
	// the signal's number if a signal ended it, 127 if it was not found and 126
	// if it cannot be run.
	ExitCode int

	// Boot is the time from the start of QEMU to the start of the command.
	Boot time.Duration

	// Elapsed is the time that the command took.
	Elapsed time.Duration
}

// Run boots a kernel, runs the command and switches the machine off. The end
// of the context ends the machine at once. Whatever happens, when Run has
// returned nothing of the machine is left.
//
// That a command fails is no error: see Result.ExitCode. If the command did not
// run to its end the error is an *OpError, whose cause is context.Cause(ctx) if
// the context ended, and [ErrPanic] if the kernel panicked.
//
// Output that a process left behind by the command writes more than five
// seconds after the command's end is lost.
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
