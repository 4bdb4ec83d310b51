package realftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/ftpparse"
)

// Client is a client program.
type Client struct {
	// Name is the program's name.
	Name string

	// skips is the line that the program does not use over IPv4.
	skips ftpparse.Via

	// tls reports whether the program can protect a transfer, ccc whether it can
	// return to clear text.
	tls, ccc bool

	// script returns the arguments and the standard input.
	script func(Transfer) (args []string, stdin string)

	// unsure reports that success must be read from the program's output, because
	// its exit status does not show it.
	unsure bool
}

// Clients returns the known clients.
func Clients() []Client {
	return []Client{
		{Name: "curl", script: curl, tls: true, ccc: true},
		// After CCC all servers close their side of TLS together with the reply 200.
		// lftp takes that for the end of the session.
		{Name: "lftp", script: lftp, tls: true, skips: ftpparse.EPRT},
		{Name: "tnftp", script: tnftp, unsure: true},
	}
}

// Supports reports whether the client can open data connections with the line, with a
// server at this address.
func (c Client) Supports(via ftpparse.Via, server netip.Addr) bool {
	return miniftp.Supports(via, server) && (server.Is6() || via != c.skips)
}

// SupportsTLS reports whether the client can protect a transfer.
func (c Client) SupportsTLS() bool { return c.tls }

// SupportsCCC reports whether the client can return to clear text (Transfer.CCC).
func (c Client) SupportsCCC() bool { return c.ccc }

// Protection is the part of a transfer that is protected by TLS (RFC 4217).
type Protection uint8

const (
	// Clear is a transfer without TLS.
	Clear Protection = iota
	// Control protects the control connection (AUTH TLS, PROT C).
	Control
	// Private also protects data connections (AUTH TLS, PROT P). In active mode
	// curl 7.88 then hangs.
	Private
)

// String returns the commands that select the protection.
func (p Protection) String() string {
	switch p {
	case Clear:
		return "clear"
	case Control:
		return "AUTH TLS, PROT C"
	case Private:
		return "AUTH TLS, PROT P"
	}
	return fmt.Sprintf("Protection(%d)", uint8(p))
}

// Transfer is the transfer of a file from or to a server.
type Transfer struct {
	Server netip.Addr
	Via    ftpparse.Via

	// Upload transfers the file from Local to Remote instead of back.
	Upload bool

	// Remote is the file's path on the server, relative to the login directory.
	Remote string

	// Local is the file's path in this machine's file system.
	Local string

	// Protection is the use of TLS. The server's certificate is not verified.
	Protection Protection

	// CCC returns the control connection to clear text after login and PROT
	// (RFC 4217 section 9), if the server agrees; otherwise curl continues in TLS.
	// It requires Control or Private.
	CCC bool
}

// Run runs the client on a host of a lab. Clients differ in how long they wait for a
// blocked data connection; limit it with ctx. The error is an *OpError, which wraps a
// *MissingError if the client is not on this machine.
func (c Client) Run(ctx context.Context, h *lab.Host, t Transfer) error {
	if err := c.run(ctx, h, t); err != nil {
		return &OpError{Op: fmt.Sprintf("%s via %s with %s", c.Name, t.Via, t.Server), Err: err}
	}
	return nil
}

func (c Client) run(ctx context.Context, h *lab.Host, t Transfer) error {
	if !c.Supports(t.Via, t.Server) || t.Protection != Clear && !c.tls || t.CCC && (!c.ccc || t.Protection == Clear) {
		return errors.ErrUnsupported
	}
	program, err := installed(c.Name)
	if err != nil {
		return err
	}
	args, stdin := c.script(t)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	// Without the user's configuration files and proxies.
	cmd.Env = []string{"HOME=/nonexistent", "LC_ALL=C", "PATH=/usr/bin:/bin"}
	out, err := h.Output(cmd)
	switch {
	case ctx.Err() != nil:
		return errors.Join(context.Cause(ctx), err)
	case err != nil:
		return err
	case c.unsure && !bytes.Contains(out, []byte("\n226")):
		return fmt.Errorf("no transfer completed: %s", bytes.TrimSpace(out))
	}
	return nil
}

// url returns the URL of a path on the server.
func (t Transfer) url(path string) string {
	return fmt.Sprintf("ftp://%s/%s", netip.AddrPortFrom(t.Server, lab.ControlPort), path)
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func curl(t Transfer) (args []string, stdin string) {
	args = []string{
		"--disable", "--silent", "--show-error", "--globoff",
		"--user", User + ":" + Password, t.url(t.Remote),
	}
	switch t.Via {
	case ftpparse.PORT:
		args = append(args, "--ftp-port", "-", "--disable-eprt")
	case ftpparse.EPRT:
		args = append(args, "--ftp-port", "-")
	case ftpparse.R227:
		args = append(args, "--disable-epsv")
	}
	switch t.Protection {
	case Control:
		args = append(args, "--insecure", "--ftp-ssl-control")
	case Private:
		args = append(args, "--insecure", "--ssl-reqd")
	}
	if t.CCC {
		// Close TLS on both sides (RFC 5246 section 7.2.1). By default curl does not,
		// and Pure-FTPd waits for that forever.
		args = append(args, "--ftp-ssl-ccc", "--ftp-ssl-ccc-mode", "active")
	}
	if t.Upload {
		args = append(args, "--upload-file", t.Local)
	} else {
		args = append(args, "--output", t.Local)
	}
	return args, ""
}

func lftp(t Transfer) (args []string, stdin string) {
	verb, from, to := "get", t.Remote, t.Local
	if t.Upload {
		verb, from, to = "put", t.Local, t.Remote
	}
	return []string{"--norc"}, fmt.Sprintf(`set cmd:fail-exit on
set net:max-retries 1
set xfer:clobber on
set ftp:ssl-allow %[1]s
set ftp:ssl-allow-anonymous %[1]s
set ftp:ssl-force %[1]s
set ftp:ssl-protect-data %s
set ssl:verify-certificate off
set ftp:passive-mode %s
set ftp:prefer-epsv %s
open --user %q --password %q %s
%s %q -o %q
`, onOff(t.Protection != Clear), onOff(t.Protection == Private),
		onOff(!t.Via.Active()), onOff(t.Via == ftpparse.R229), User, Password, t.url(""), verb, from, to)
}

func tnftp(t Transfer) (args []string, stdin string) {
	verb, from, to := "get", t.Remote, t.Local
	if t.Upload {
		verb, from, to = "put", t.Local, t.Remote
	}
	extended := t.Via == ftpparse.EPRT || t.Via == ftpparse.R229
	mode := "-p"
	if t.Via.Active() {
		mode = "-A"
	}
	return []string{"-n", "-i", "-v", mode},
		fmt.Sprintf("epsv4 %s\nopen %s\nuser %s %s\nbinary\n%s %s %s\nbye\n",
			onOff(extended), t.Server, User, Password, verb, from, to)
}
