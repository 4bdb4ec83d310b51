package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"ftpctd/cmd/ftpctd/internal/config"
)

func newCheckCommand(e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [-c FILE]",
		Short: "Check the configuration",
		Long: `check validates the configuration and prints one line per problem:
FILE:LINE:COLUMN: key: problem; allowed: values. Exit status is 6 if there are
problems.`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
	}
	file := addConfigFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		_, err := file.load()
		if problems, ok := errors.AsType[*config.Error](err); ok {
			fmt.Fprintln(e.stdout, problems)
			return &exitError{Code: exitConfig}
		}
		if err != nil {
			return err
		}
		verdict := "ok"
		if file.absent {
			verdict = "not found; using defaults"
		}
		_, err = fmt.Fprintf(e.stdout, "%s: %s\n", file.path, verdict)
		return err
	}
	return cmd
}
