package labtest

import (
	"context"
	"errors"
	"testing"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/realftp"
)

// ServeReal runs a server program on a host until the end of the test.
func ServeReal(ctx context.Context, t testing.TB, h *lab.Host, s realftp.Server, c realftp.ServerConfig) *realftp.Daemon {
	t.Helper()
	d, err := s.Start(ctx, h, c)
	if err != nil {
		FailUnlessMissing(t, err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// FailUnlessMissing ends the test with an error of package realftp. A program that
// is not on this machine is a prerequisite that is missing: see [Unmet].
func FailUnlessMissing(t testing.TB, err error) {
	t.Helper()
	if _, ok := errors.AsType[*realftp.MissingError](err); ok {
		Unmet(t, err.Error())
	}
	t.Fatal(err)
}
