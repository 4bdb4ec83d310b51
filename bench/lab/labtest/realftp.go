package labtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/miniftp"
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

// FailUnlessMissing fails the test with an error of package realftp, or calls [Unmet] if
// a program is missing.
func FailUnlessMissing(t testing.TB, err error) {
	t.Helper()
	if _, ok := errors.AsType[*realftp.MissingError](err); ok {
		Unmet(t, err.Error())
	}
	t.Fatal(err)
}

// RoundTripReal is [RoundTrip] with a client program on a host and a server program.
func RoundTripReal(ctx context.Context, t testing.TB, h *lab.Host, c realftp.Client, d *realftp.Daemon, w miniftp.Way) {
	t.Helper()
	const down = "down"
	up := "up-" + rand.Text() // not a file that is there already
	want := Content(fileSize)
	if err := d.Put(down, want); err != nil {
		t.Fatal(err)
	}
	local := filepath.Join(t.TempDir(), "file")
	transfer := realftp.Transfer{Server: w.Server, Via: w.Via, Remote: realftp.Pub + "/" + down, Local: local}
	if err := c.Run(ctx, h, transfer); err != nil {
		FailUnlessMissing(t, err)
	}
	if got, err := os.ReadFile(local); err != nil || !bytes.Equal(got, want) {
		t.Errorf("downloaded %d bytes, %v, that differ from the file's %d", len(got), err, len(want))
	}
	transfer.Upload, transfer.Remote = true, realftp.Pub+"/"+up
	if err := c.Run(ctx, h, transfer); err != nil {
		t.Fatal(err)
	}
	if got, err := d.File(up); err != nil || !bytes.Equal(got, want) {
		t.Errorf("uploaded %d bytes, %v, that differ from the file's %d", len(got), err, len(want))
	}
}
