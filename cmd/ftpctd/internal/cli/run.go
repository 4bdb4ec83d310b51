package cli

import (
	"log/slog"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/daemon"
)

// flushFor is how long the end of the process waits for the reader of the log.
const flushFor = time.Second

func newRunCommand(e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [-c FILE]",
		Short: "Run the daemon",
		Long: `run reads the FTP control connections of this network namespace and has
conntrack expect their data connections, until SIGTERM or SIGINT. It makes the
nftables table "inet ftpctd" and removes it at the end.

SIGHUP has it read the configuration again: the policy and the log level change
at once, other keys with a restart; a broken file changes nothing. Under systemd
it tells its status and feeds the watchdog.`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
	}
	file := addConfigFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := file.load()
		if err != nil {
			return err
		}
		if err := needNetAdmin(); err != nil {
			return err
		}
		level := new(slog.LevelVar)
		level.Set(cfg.Log.Level)
		// Without this, the runtime would end the process as soon as the reader of
		// stderr is gone (package os/signal, SIGPIPE).
		signal.Ignore(unix.SIGPIPE)
		e, sink := e.unblocked(e.logger(cfg.Log.Format, level))
		defer sink.Close(flushFor)
		log := e.logger(cfg.Log.Format, level)
		if err := daemon.Run(cmd.Context(), cfg, file.load, level, log); err != nil {
			// A stderr that nobody reads must not keep the process from ending.
			exit := classify(err, true)
			exit.print(sink)
			return &exitError{Code: exit.Code}
		}
		return nil
	}
	return cmd
}
