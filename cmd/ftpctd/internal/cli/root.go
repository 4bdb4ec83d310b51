package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"ftpctd/cmd/ftpctd/internal/advice"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/logsink"
)

// An env is the process as a subcommand sees it.
type env struct {
	stdout  io.Writer // results
	stderr  io.Writer // logs
	journal bool      // stderr is read by the systemd journal
}

// logger returns the logger of a subcommand, which explains errors. The journal adds
// the time itself.
func (e env) logger(format config.LogFormat, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: advice.Attr}
	if e.journal {
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return advice.Attr(groups, a)
		}
	}
	if format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(e.stderr, opts))
	}
	return slog.New(slog.NewTextHandler(e.stderr, opts))
}

// unblocked returns e with a stderr that never waits for its reader, and the sink that
// is this stderr. direct logs to the original one.
func (e env) unblocked(direct *slog.Logger) (env, *logsink.Sink) {
	sink := logsink.New(e.stderr, func(lines uint64) error {
		r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines dropped: the reader was too slow, or writing failed", 0)
		r.AddAttrs(slog.Uint64("lines", lines))
		return direct.Handler().Handle(context.Background(), r)
	})
	e.stderr = sink
	return e, sink
}

// newRootCommand returns the root command with all its subcommands.
func newRootCommand(e env) *cobra.Command {
	root := &cobra.Command{
		Use:   "ftpctd",
		Short: "User-space FTP connection-tracking helper",
		Long: `ftpctd is a user-space FTP connection-tracking helper. It inspects the FTP control
connections that a netfilter queue passes to it and adds conntrack expectations for
their data connections, so that a default-drop firewall accepts them as RELATED.`,
		Version: version(),
		// Run prints errors and usage, depending on the exit status.
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(*cobra.Command, []string) error {
			return &exitError{exitUsage, errors.New("no command given")}
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	for _, newCommand := range []func(env) *cobra.Command{
		newRunCommand,
		newDemoCommand,
		newReplayCommand,
		newCheckCommand,
		newDoctorCommand,
		newVersionCommand,
	} {
		root.AddCommand(newCommand(e))
	}
	return root
}

// A configFlag is the flag that names the configuration file.
type configFlag struct {
	cmd  *cobra.Command
	path string
	// absent is set by load if there is no file at the default path.
	absent bool
}

// addConfigFlag gives a subcommand the flag.
func addConfigFlag(cmd *cobra.Command) *configFlag {
	f := &configFlag{cmd: cmd}
	cmd.Flags().StringVarP(&f.path, "config", "c", config.DefaultPath, "configuration `FILE`")
	return f
}

// load reads the configuration. Only the file at the default path may be missing. The
// error has the exit code exitConfig.
func (f *configFlag) load() (config.Config, error) {
	c, err := config.Load(f.path)
	if errors.Is(err, fs.ErrNotExist) && !f.cmd.Flags().Changed("config") {
		f.absent = true
		return config.Default(), nil
	}
	if err != nil {
		return config.Config{}, &exitError{exitConfig, err}
	}
	return c, nil
}
