package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"ftpctd/cmd/ftpctd/internal/advice"

	"github.com/spf13/cobra"
)

// Exit codes of every subcommand.
const (
	exitOK         = 0
	exitFailure    = 1
	exitUsage      = 2 // unknown command or flag, wrong arguments
	exitProblems   = 3 // doctor found problems
	exitPermission = 4 // not root, no CAP_NET_ADMIN
	exitConfig     = 6 // configuration missing or invalid, as systemd.exec(5) numbers it
)

// An exitError is an error of a subcommand with its own exit code. Without Err nothing
// is printed: the subcommand has reported the problem itself.
type exitError struct {
	Code int
	Err  error
}

// Error implements error.
func (e *exitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns the cause, which may be nil.
func (e *exitError) Unwrap() error { return e.Err }

// print writes the error, unless the subcommand has reported it.
func (e *exitError) print(w io.Writer) {
	if e.Err != nil {
		fmt.Fprintf(w, "ftpctd: %v\n", advice.Explain(e.Err))
	}
}

// Run runs the command line args and returns the exit code. Results go to
// stdout, logs and errors to stderr. SIGINT and SIGTERM cancel the context of
// the subcommand; a second one ends the process.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRootCommand(env{
		stdout:  stdout,
		stderr:  stderr,
		journal: os.Getenv("JOURNAL_STREAM") != "",
	})
	root.SetArgs(args)
	running := false
	root.PersistentPreRun = func(*cobra.Command, []string) { running = true }
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}

	exit := classify(err, running)
	exit.print(stderr)
	if exit.Code == exitUsage {
		fmt.Fprint(stderr, cmd.UsageString())
	}
	return exit.Code
}

// classify assigns an exit code to an error. An error from before the subcommand was
// running is a usage error.
func classify(err error, running bool) *exitError {
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit
	}
	switch {
	case !running:
		return &exitError{exitUsage, err}
	case errors.Is(err, fs.ErrPermission):
		return &exitError{exitPermission, err}
	default:
		return &exitError{exitFailure, err}
	}
}
