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
		Long: `check prints what is wrong with the configuration, a line for each problem, as
FILE:LINE:COLUMN: key: what is wrong; what is allowed. It exits with 6 if there
is a problem.`,
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
			verdict = "no such file, which is ok: the defaults hold"
		}
		_, err = fmt.Fprintf(e.stdout, "%s: %s\n", file.path, verdict)
		return err
	}
	return cmd
}
