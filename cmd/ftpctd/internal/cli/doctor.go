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
		Short: "Find out whether the daemon can work here, and what mends it",
		Long: `doctor looks at the kernel, at the firewall's rules and at what else the daemon
needs, and tries an expectation in a network namespace of its own. It changes
nothing. Each check is OK, WARN or FAIL; below it stands what mends it. With
--json it prints an object a line: check, status, found, mend. It exits with 3 if
a check fails.`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
	}
	file := addConfigFlag(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print an object a line")
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

// examine runs all checks and prints what each has found as soon as it is known.
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

// appendText appends a result as a person reads it: the check's name in a column
// of the width given, and what mends it on a line below.
func appendText(b []byte, width int, name string, r doctor.Result) []byte {
	b = fmt.Appendf(b, "%-4s  %-*s  %s", r.Status, width, name, r.Found)
	if r.Mend != "" {
		b = fmt.Appendf(b, "\n%*s  mend: %s", 4+2+width, "", r.Mend)
	}
	return b
}
