package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/doctor"
)

func newDoctorCommand(e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [--json] [-c FILE]",
		Short: "Check that the daemon can run here and suggest fixes",
		Long: `doctor checks the kernel, the firewall rules and everything else the daemon depends
on, and tries an expectation in a private network namespace. It makes no changes.
Each check reports OK, WARN or FAIL, with a suggested fix. With --json it prints
one object per line: check, status, found, fix. Exit status is 3 if any check
fails.`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
	}
	file := addConfigFlag(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print one JSON object per line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needNetAdmin(); err != nil {
			return err
		}
		cfg, err := file.load()
		if err != nil {
			return err
		}
		host, err := doctor.ThisHost()
		if err != nil {
			return err
		}
		return examine(cmd.Context(), e, host, cfg, *asJSON)
	}
	return cmd
}

// examine runs all checks and prints each result as soon as it is known.
func examine(ctx context.Context, e env, host doctor.Host, cfg config.Config, asJSON bool) error {
	checks := doctor.Checks(host, cfg)
	width := 0
	for _, c := range checks {
		width = max(width, len(c.Name()))
	}
	failed := false
	for _, c := range checks {
		r := c.Run(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		failed = failed || r.Status == doctor.Fail
		line := appendText(nil, width, c.Name(), r)
		if asJSON {
			var err error
			if line, err = doctor.AppendJSON(nil, c.Name(), r); err != nil {
				return err
			}
		}
		if _, err := e.stdout.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	if failed {
		return &exitError{Code: exitProblems}
	}
	return nil
}

// appendText appends a result as text: the check's name in a column of the width
// given, and its fix on the next line.
func appendText(b []byte, width int, name string, r doctor.Result) []byte {
	b = fmt.Appendf(b, "%-4s  %-*s  %s", r.Status, width, name, r.Detail)
	if r.Fix != "" {
		b = fmt.Appendf(b, "\n%*s  fix: %s", 4+2+width, "", r.Fix)
	}
	return b
}
