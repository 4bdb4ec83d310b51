package realftp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/bench/lab/realftp"
	"ftpctd/ftpparse"
)

// content returns bytes that a transfer in text mode would spoil.
func content() []byte { return bytes.Repeat([]byte("one\ntwo\r\nthree\x00"), 10_000) }

// eachWay runs a subtest for each supported combination of client, family and line.
func eachWay(t *testing.T, l *lab.Lab, f func(t *testing.T, c realftp.Client, w miniftp.Way)) {
	for _, c := range realftp.Clients() {
		for _, w := range miniftp.Ways(l.Server.Addrs()...) {
			if c.Supports(w.Via, w.Server) {
				t.Run(c.Name+" "+w.String(), func(t *testing.T) { f(t, c, w) })
			}
		}
	}
}

// TestClients checks that each client uses the requested line and no other.
func TestClients(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t)
	l := labtest.New(t, lab.Config{})
	lines := map[ftpparse.Via]string{
		ftpparse.PORT: "PORT", ftpparse.EPRT: "EPRT", ftpparse.R227: "PASV", ftpparse.R229: "EPSV",
	}
	var (
		mu   sync.Mutex
		seen []string
	)
	s := &miniftp.Server{Trace: func(line string) {
		verb, _, _ := strings.Cut(line, " ")
		for _, v := range lines {
			if v == verb {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, verb)
			}
		}
	}}
	labtest.Serve(t, l.Server, s)
	want := content()
	s.Put("down", want)

	eachWay(t, l, func(t *testing.T, c realftp.Client, w miniftp.Way) {
		mu.Lock()
		seen = nil
		mu.Unlock()
		local := filepath.Join(t.TempDir(), "file")
		transfer := realftp.Transfer{Server: w.Server, Via: w.Via, Remote: "down", Local: local}
		if err := c.Run(ctx, l.Client, transfer); err != nil {
			labtest.FailUnlessMissing(t, err)
		}
		if got, err := os.ReadFile(local); err != nil || !bytes.Equal(got, want) {
			t.Errorf("downloaded %d bytes, %v, that differ from the file's %d", len(got), err, len(want))
		}
		up := "up-" + c.Name + w.Via.String()
		transfer.Upload, transfer.Remote = true, up
		if err := c.Run(ctx, l.Client, transfer); err != nil {
			t.Fatal(err)
		}
		if got, _ := s.File(up); !bytes.Equal(got, want) {
			t.Errorf("uploaded %d bytes that differ from the file's %d", len(got), len(want))
		}
		mu.Lock()
		defer mu.Unlock()
		if len(seen) < 2 {
			t.Errorf("used %q for two transfers", seen)
		}
		for _, verb := range seen {
			if verb != lines[w.Via] {
				t.Errorf("used %q, want nothing but %s", seen, lines[w.Via])
				break
			}
		}
	})
	for _, c := range realftp.Clients() {
		t.Run(c.Name+" fails", func(t *testing.T) {
			err := c.Run(ctx, l.Client, realftp.Transfer{
				Server: l.Server.IPv4(), Via: ftpparse.R227,
				Remote: "nonexistent", Local: filepath.Join(t.TempDir(), "file"),
			})
			var opErr *realftp.OpError
			if !errors.As(err, &opErr) {
				t.Errorf("got %v, want an *OpError", err)
			}
		})
	}
}

// TestServers runs each client with each server in every way, through a firewall with
// the kernel's helper, or without a firewall where the kernel has no helper.
func TestServers(t *testing.T) {
	t.Parallel()
	for _, s := range realftp.Servers() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			ctx := labtest.Context(t)
			l := labtest.New(t, lab.Config{})
			d := labtest.ServeReal(ctx, t, l.Server, s, realftp.ServerConfig{PassivePorts: [2]uint16{30000, 30999}})
			fw, err := l.Router.DropFirewall(lab.Forward)
			if err != nil {
				t.Fatal(err)
			}
			helper := true
			if err := fw.AssignHelper("ftp"); err != nil {
				t.Log(err)
				helper = false
				if err := fw.Close(); err != nil {
					t.Fatal(err)
				}
			}
			eachWay(t, l, func(t *testing.T, c realftp.Client, w miniftp.Way) {
				if !helper {
					labtest.RoundTripReal(ctx, t, l.Client, c, d, w)
					return
				}
				before := labtest.Count(t, fw.Related)
				labtest.RoundTripReal(ctx, t, l.Client, c, d, w)
				if got := labtest.Count(t, fw.Related) - before; got != 2 {
					t.Errorf("%d related packets for 2 data connections", got)
				}
			})
		})
	}
}

// TestTLS transfers a file with each server and client that support TLS, and checks on
// the router which parts are readable.
func TestTLS(t *testing.T) {
	t.Parallel()
	for _, s := range realftp.Servers() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			ctx := labtest.Context(t)
			l := labtest.New(t, lab.Config{})
			d := labtest.ServeReal(ctx, t, l.Server, s, realftp.ServerConfig{PassivePorts: [2]uint16{30000, 30009}, TLS: true})
			want := content()
			if err := d.Put("down", want); err != nil {
				t.Fatal(err)
			}
			w := newWire(t, l.Router)
			for _, tt := range []struct {
				name                     string
				protection               realftp.Protection
				ccc                      bool
				password, passive, bytes bool // can be read
			}{
				{name: "clear", protection: realftp.Clear, password: true, passive: true, bytes: true},
				{name: "control", protection: realftp.Control, bytes: true},
				{name: "private", protection: realftp.Private},
				{name: "control and CCC", protection: realftp.Control, ccc: true, passive: true, bytes: true},
				{name: "private and CCC", protection: realftp.Private, ccc: true, passive: true},
			} {
				for _, c := range realftp.Clients() {
					if tt.protection != realftp.Clear && !c.SupportsTLS() || tt.ccc && !c.SupportsCCC() {
						continue
					}
					if tt.ccc && s.Name == "vsftpd" {
						continue
					}
					for _, via := range []ftpparse.Via{ftpparse.R227, ftpparse.R229} {
						t.Run(fmt.Sprintf("%s %s %s", tt.name, c.Name, via), func(t *testing.T) {
							ctx := labtest.Context(t)
							w.read(t)
							local := filepath.Join(t.TempDir(), "file")
							err := c.Run(ctx, l.Client, realftp.Transfer{
								Server: l.Server.IPv4(), Via: via, Remote: realftp.Pub + "/down", Local: local,
								Protection: tt.protection, CCC: tt.ccc,
							})
							if err != nil {
								labtest.FailUnlessMissing(t, err)
							}
							if got, err := os.ReadFile(local); err != nil || !bytes.Equal(got, want) {
								t.Errorf("downloaded %d bytes, %v, that differ from the file's %d", len(got), err, len(want))
							}
							frames := w.read(t)
							for _, look := range []struct {
								what, text string
								want       bool
							}{
								{"the password", realftp.Password, tt.password},
								{"the passive reply", via.String() + " E", tt.passive},
								{"the file", string(want[:200]), tt.bytes},
							} {
								if got := bytes.Contains(frames, []byte(look.text)); got != look.want {
									t.Errorf("%s can be read: %v, want %v", look.what, got, look.want)
								}
							}
						})
					}
				}
			}
		})
	}
}

// TestSettings checks the replies of servers with unusual settings.
func TestSettings(t *testing.T) {
	t.Parallel()
	ports := [2]uint16{117 << 8, 117<<8 + 255}
	for _, tt := range []struct {
		name   string
		config realftp.ServerConfig
		want   string // prefix of the reply to PASV
		code   int    // of that reply, or its first digit
		none   string // the server without this setting
	}{
		{
			name:   "another address",
			config: realftp.ServerConfig{PassivePorts: ports, PassiveAddr: netip.MustParseAddr("10.9.8.7")},
			want:   "Entering Passive Mode (10,9,8,7,117,", code: 227,
		},
		{name: "EPSV only", config: realftp.ServerConfig{PassivePorts: ports, EPSVOnly: true}, code: 5, none: "Pure-FTPd"},
	} {
		for _, s := range realftp.Servers() {
			t.Run(tt.name+" "+s.Name, func(t *testing.T) {
				t.Parallel()
				ctx := labtest.Context(t)
				l := labtest.New(t, lab.Config{})
				if s.Name == tt.none {
					_, err := s.Start(ctx, l.Server, tt.config)
					if !errors.Is(err, errors.ErrUnsupported) {
						t.Errorf("got %v, want %v", err, errors.ErrUnsupported)
					}
					return
				}
				labtest.ServeReal(ctx, t, l.Server, s, tt.config)
				c, err := miniftp.Dial(ctx, l.Client, netip.AddrPortFrom(l.Server.IPv4(), lab.ControlPort))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				if err := c.Login(ctx, realftp.User, realftp.Password); err != nil {
					t.Fatal(err)
				}
				reply, err := c.Command(ctx, tt.code, "PASV")
				if err != nil || !strings.HasPrefix(reply, tt.want) {
					t.Errorf("PASV is answered %q, %v, want %d %q", reply, err, tt.code, tt.want)
				}
			})
		}
	}
}

// wire is a socket that receives a copy of each frame that a host sends or receives.
type wire struct{ fd int }

func newWire(t *testing.T, h *lab.Host) *wire {
	t.Helper()
	w := &wire{}
	err := h.Do(func() (err error) {
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(all))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(w.fd) })
	// Room for a whole session.
	if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20); err != nil {
		t.Fatal(err)
	}
	return w
}

// read returns the concatenated frames since the last call. A frame arrives here before
// its receiver gets it.
func (w *wire) read(t *testing.T) (frames []byte) {
	t.Helper()
	b := make([]byte, 1<<17)
	for {
		n, err := unix.Read(w.fd, b)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return frames
		case errors.Is(err, unix.EINTR):
		case err != nil:
			t.Fatal(err)
		default:
			frames = append(frames, b[:n]...)
		}
	}
}

func TestMissing(t *testing.T) {
	// Not parallel, because it changes the environment.
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("PATH", "")
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ctx := labtest.Context(t)
	l := labtest.New(t, lab.Config{})
	for _, s := range realftp.Servers() {
		var missing *realftp.MissingError
		if _, err := s.Start(ctx, l.Server, realftp.ServerConfig{}); !errors.As(err, &missing) {
			t.Errorf("%s: got %v, want a *MissingError", s.Name, err)
		}
	}
	for _, c := range realftp.Clients() {
		var missing *realftp.MissingError
		err := c.Run(ctx, l.Client, realftp.Transfer{Server: l.Server.IPv4(), Via: ftpparse.R229})
		if !errors.As(err, &missing) {
			t.Errorf("%s: got %v, want a *MissingError", c.Name, err)
		}
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) != 0 {
		t.Errorf("left by servers that did not start: %v, %v", left, err)
	}
}
