package cli

import (
	"log/slog"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/daemon"
)

// flushFor is how long the process waits on exit for the reader of its log.
const flushFor = time.Second

func newRunCommand(e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [-c FILE]",
		Short: "Run the daemon",
		Long: `run inspects the FTP control connections in this network namespace and adds
conntrack expectations for their data connections, until it receives SIGTERM or
SIGINT. It creates the nftables table "inet ftpctd" and removes it on exit.

SIGHUP reloads the configuration: policy and log level take effect immediately,
other keys need a restart. An invalid file is rejected as a whole. Under systemd it
reports status and pings the watchdog.`,
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
		// By default the Go runtime exits when a write to stderr fails with EPIPE
		// (package os/signal, SIGPIPE).
		signal.Ignore(unix.SIGPIPE)
		e, sink := e.unblocked(e.logger(cfg.Log.Format, level))
		defer sink.Close(flushFor)
		log := e.logger(cfg.Log.Format, level)
		err = daemon.Run(cmd.Context(), daemon.Options{Config: cfg, Load: file.load, Level: level, Log: log})
		if err != nil {
			// A stderr that nobody reads must not keep the process from ending.
			exit := classify(err, true)
			exit.print(sink)
			return &exitError{Code: exit.Code}
		}
		return nil
	}
	return cmd
}
