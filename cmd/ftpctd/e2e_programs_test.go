package main_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/bench/lab/realftp"
)

// TestPrograms runs the servers and clients that people use through a router
// with the daemon, in every way that a client can be told to use: a file each
// way, and exactly two RELATED packets.
func TestPrograms(t *testing.T) {
	t.Parallel()
	for _, s := range realftp.Servers() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t)
			l := labtest.New(t, lab.Config{})
			server := serveAs(ctx, t, l.Server, s, realftp.ServerConfig{})
			want := labtest.Content(small)
			fw := drop(t, l.Router, lab.Forward)
			start(t, l.Router, "")
			for _, c := range realftp.Clients() {
				for _, w := range miniftp.Ways(l.Server.Addrs()...) {
					if !c.Supports(w.Via, w.Server) {
						continue
					}
					t.Run(c.Name+" "+w.String(), func(t *testing.T) {
						before := read(t, fw.Related)
						local := filepath.Join(t.TempDir(), "file")
						transfer := realftp.Transfer{Server: w.Server, Via: w.Via, Remote: realftp.Pub + "/down", Local: local}
						if err := c.Run(ctx, l.Client, transfer); err != nil {
							labtest.FailUnlessMissing(t, err)
						}
						if got, err := os.ReadFile(local); err != nil || !bytes.Equal(got, want) {
							t.Errorf("downloaded %d bytes, %v, that differ from the file's %d", len(got), err, len(want))
						}
						up := fmt.Sprintf("up-%s-%s-%v", c.Name, w.Via, w.Server.Is6())
						transfer.Upload, transfer.Remote = true, realftp.Pub+"/"+up
						if err := c.Run(ctx, l.Client, transfer); err != nil {
							t.Fatal(err)
						}
						if got, err := server.File(up); err != nil || !bytes.Equal(got, want) {
							t.Errorf("uploaded %d bytes, %v, that differ from the file's %d", len(got), err, len(want))
						}
						if got := read(t, fw.Related) - before; got != 2 {
							t.Errorf("%d related packets for 2 data connections", got)
						}
					})
				}
			}
			if n := read(t, fw.Dropped); n != 0 {
				t.Errorf("%d packets dropped", n)
			}
		})
	}
}

// passivePorts is the range that the servers are given.
var passivePorts = [2]uint16{30000, 30999}
