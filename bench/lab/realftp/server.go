package realftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/textproto"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ftpctd/bench/lab"
)

// Server is a server program, configured with one account that can read and write
// the directory Pub, over IPv4 and IPv6, in active mode (from port 20) and in
// passive mode.
type Server struct {
	// Name is the program's name, as its authors write it.
	Name string

	command func(ServerConfig, string) (*exec.Cmd, error)
}

// Servers returns the known servers.
func Servers() []Server {
	return []Server{
		{"vsftpd", vsftpd},
		{"ProFTPD", proftpd},
		{"Pure-FTPd", pureftpd},
	}
}

// ServerConfig is the configurable part of a server.
type ServerConfig struct {
	// PassivePorts are the first and the last port announced by 227 and 229.
	PassivePorts [2]uint16

	// PassiveAddr is the address that 227 names instead of the server's own, if it
	// is valid: the setting for servers behind NAT. Vsftpd then serves only IPv4,
	// because with a dual-stack socket it names 0.0.0.0.
	PassiveAddr netip.Addr

	// EPSVOnly makes the server refuse PASV. Pure-FTPd cannot: Start returns an
	// error that wraps errors.ErrUnsupported.
	EPSVOnly bool

	// TLS makes the server accept AUTH TLS (RFC 4217) with a self-signed
	// certificate, and PROT P. It still accepts sessions in clear text and PROT C,
	// and CCC except in vsftpd, which lacks it.
	TLS bool
}

// The account of every server.
const (
	User     = "ftp"
	Password = "lab@example.com"
)

// Pub is the directory that clients can read and write.
const Pub = "pub"

// Daemon is a server running on a host of a lab.
type Daemon struct {
	name    string
	dir     string
	process *lab.Process
	output  lab.Transcript // for the error if it does not start
}

// Start starts the server on port 21 of a host and waits for its greeting, or until
// ctx is done. The error is an *OpError, which wraps a *MissingError if the server
// is not on this machine. Close stops it.
func (s Server) Start(ctx context.Context, h *lab.Host, c ServerConfig) (*Daemon, error) {
	d := &Daemon{name: s.Name}
	if err := d.start(ctx, s, h, c); err != nil {
		if msg := strings.TrimSpace(d.output.String()); msg != "" {
			err = fmt.Errorf("%w: %s", err, msg)
		}
		return nil, &OpError{Op: "start " + s.Name, Err: errors.Join(err, d.Close())}
	}
	return d, nil
}

func (d *Daemon) start(ctx context.Context, s Server, h *lab.Host, c ServerConfig) error {
	// Not a test's directory: the servers' unprivileged user cannot enter those.
	var err error
	if d.dir, err = os.MkdirTemp("", "ftpctd-realftp-"); err != nil {
		return err
	}
	if err := os.Chmod(d.dir, 0o755); err != nil {
		return err
	}
	// Servers reject a root directory that is writable for the account.
	if err := os.MkdirAll(d.path(""), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(d.path(""), 0o777); err != nil {
		return err
	}
	cmd, err := s.command(c, d.dir)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = &d.output, &d.output
	if d.process, err = h.Start(cmd); err != nil {
		return err
	}
	return d.ready(ctx, h)
}

// ready waits for the server's greeting.
func (d *Daemon) ready(ctx context.Context, h *lab.Host) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-d.process.Done():
			return fmt.Errorf("exited at once: %w", d.process.Wait())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		conn, err := h.DialTCP(ctx, netip.AddrPort{}, netip.AddrPortFrom(h.IPv4(), lab.ControlPort))
		if err != nil {
			continue
		}
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		client := textproto.NewConn(conn)
		_, _, err = client.ReadResponse(220)
		return errors.Join(err, client.Close())
	}
}

// path returns the path of a file of Pub on this machine.
func (d *Daemon) path(name string) string { return filepath.Join(d.dir, "root", Pub, name) }

// Put stores a file in Pub.
func (d *Daemon) Put(name string, data []byte) error {
	if err := os.WriteFile(d.path(name), data, 0o644); err != nil {
		return &OpError{Op: "put a file on " + d.name, Err: err}
	}
	return nil
}

// File returns a file of Pub.
func (d *Daemon) File(name string) ([]byte, error) {
	data, err := os.ReadFile(d.path(name))
	if err != nil {
		return nil, &OpError{Op: "get a file from " + d.name, Err: err}
	}
	return data, nil
}

// Process returns the server's process.
func (d *Daemon) Process() *lab.Process { return d.process }

// Close stops the server and removes its files.
func (d *Daemon) Close() error {
	if d.process != nil {
		_ = d.process.Stop() // its exit status does not matter
		d.endSessions()
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return &OpError{Op: "remove the files of " + d.name, Err: err}
	}
	return nil
}

// endSessions kills the server's remaining sessions: vsftpd's leave its process group,
// and if a firewall drops the end of their connection, they wait for minutes. Only they
// have d.dir in their command line.
func (d *Daemon) endSessions() {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, entry := range processes {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// Find the process before reading its command line: if the ID is reused in
		// between, Kill fails.
		p, err := os.FindProcess(pid)
		if err != nil {
			continue
		}
		args, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && bytes.Contains(args, []byte(d.dir+"/")) {
			_ = p.Kill()
		}
		_ = p.Release()
	}
}

// configuration is a configuration file.
type configuration struct{ text []byte }

func (c *configuration) add(format string, args ...any) {
	c.text = fmt.Appendf(c.text, format, args...)
}

// write writes the file, writable only by its owner.
func (c *configuration) write(dir string) (path string, err error) {
	path = filepath.Join(dir, "conf")
	return path, os.WriteFile(path, c.text, 0o644)
}

func vsftpd(c ServerConfig, dir string) (*exec.Cmd, error) {
	program, err := unpacked("usr/sbin/vsftpd")
	if err != nil {
		return nil, err
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		return nil, err
	}
	// The user daemon exists on every system and, unlike nobody, has a home.
	var conf configuration
	conf.add(`background=NO
anonymous_enable=YES
anon_root=%s
anon_upload_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
write_enable=YES
ftp_username=daemon
nopriv_user=nobody
secure_chroot_dir=%s
connect_from_port_20=YES
pasv_min_port=%d
pasv_max_port=%d
seccomp_sandbox=NO
`, filepath.Join(dir, "root"), empty, c.PassivePorts[0], c.PassivePorts[1])
	if c.PassiveAddr.IsValid() {
		conf.add("listen=YES\nlisten_ipv6=NO\npasv_address=%s\n", c.PassiveAddr)
	} else {
		// A dual-stack socket: IPv4 clients appear as ::ffff:a.b.c.d.
		conf.add("listen=NO\nlisten_ipv6=YES\n")
	}
	if c.EPSVOnly {
		conf.add("cmds_denied=PASV\n")
	}
	if c.TLS {
		cert, err := certificate(dir)
		if err != nil {
			return nil, err
		}
		// By default it offers only ciphers for RSA, and requires data connections to
		// resume the TLS session of the control connection.
		conf.add(`ssl_enable=YES
allow_anon_ssl=YES
rsa_cert_file=%[1]s
rsa_private_key_file=%[1]s
ssl_ciphers=HIGH
require_ssl_reuse=NO
`, cert)
	}
	path, err := conf.write(dir)
	return exec.Command(program, path), err
}

func proftpd(c ServerConfig, dir string) (*exec.Cmd, error) {
	program, err := unpacked("usr/sbin/proftpd")
	if err != nil {
		return nil, err
	}
	modules := filepath.Join(cache(), "usr/lib/proftpd")
	var conf configuration
	conf.add(`ServerName lab
ServerType standalone
DefaultServer on
Port 21
UseIPv6 on
UseReverseDNS off
User nobody
Group nogroup
PassivePorts %[2]d %[3]d
PidFile %[1]s/pid
ScoreboardFile %[1]s/scoreboard
ControlsEngine off
ControlsSocket %[1]s/controls
DelayEngine off
WtmpLog off
TransferLog none
SystemLog %[1]s/log
ModulePath %[4]s
<Anonymous %[1]s/root>
  User nobody
  Group nogroup
  UserAlias ftp nobody
  AuthAliasOnly on
  RequireValidShell off
  AllowOverwrite on
</Anonymous>
`, dir, c.PassivePorts[0], c.PassivePorts[1], modules)
	if c.PassiveAddr.IsValid() {
		conf.add("MasqueradeAddress %s\n", c.PassiveAddr)
	}
	if c.EPSVOnly {
		conf.add("<Limit PASV>\n  DenyAll\n</Limit>\n")
	}
	if c.TLS {
		if _, err := unpacked("usr/lib/proftpd/mod_tls.so"); err != nil {
			return nil, err
		}
		cert, err := certificate(dir)
		if err != nil {
			return nil, err
		}
		conf.add(`LoadModule mod_tls.c
TLSEngine on
TLSLog %[2]s/tls
TLSECCertificateFile %[1]s
TLSECCertificateKeyFile %[1]s
TLSOptions NoSessionReuseRequired
`, cert, dir)
	}
	path, err := conf.write(dir)
	return exec.Command(program, "--nodaemon", "--config", path), err
}

func pureftpd(c ServerConfig, dir string) (*exec.Cmd, error) {
	if c.EPSVOnly {
		return nil, fmt.Errorf("cannot refuse PASV alone: %w", errors.ErrUnsupported)
	}
	program, err := unpacked("usr/sbin/pure-ftpd")
	if err != nil {
		return nil, err
	}
	pw, err := unpacked("usr/bin/pure-pw")
	if err != nil {
		return nil, err
	}
	// A virtual user: anonymous login needs a system account named ftp. The account
	// is written here, because pure-pw would choose a hash that takes a second to check.
	passwd, db := filepath.Join(dir, "passwd"), filepath.Join(dir, "db")
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return nil, err
	}
	account := fmt.Sprintf("%s:%s:%s:%s::%s/./::::::::::::\n",
		User, passwordHash, nobody.Uid, nobody.Gid, filepath.Join(dir, "root"))
	if err := os.WriteFile(passwd, []byte(account), 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.Command(pw, "mkdb", db, "-f", passwd).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pure-pw: %w: %s", err, bytes.TrimSpace(out))
	}
	args := []string{
		"--login", "puredb:" + db,
		"--noanonymous",
		"--chrooteveryone",
		"--dontresolve",
		"--minuid", "1",
		"--pidfile", filepath.Join(dir, "pid"),
		"--passiveportrange", fmt.Sprintf("%d:%d", c.PassivePorts[0], c.PassivePorts[1]),
	}
	if c.PassiveAddr.IsValid() {
		args = append(args, "--forcepassiveip", c.PassiveAddr.String())
	}
	if c.TLS {
		cert, err := certificate(dir)
		if err != nil {
			return nil, err
		}
		args = append(args, "--tls", "1", "--certfile", cert)
	}
	// It leaves a list of its sessions in /run/pure-ftpd, so it gets a private /run.
	// (With -n mount does not write there, either.)
	own := []string{"--mount", "sh", "-c", `mount -n -t tmpfs run /run && exec "$@"`, "sh", program}
	return exec.Command("unshare", append(own, args...)...), nil
}

// passwordHash is crypt(3) of Password: SHA-256 with the minimum number of rounds.
const passwordHash = "$5$rounds=1000$lab$sq6kSYeya2Ybr8hyu.CDa6rdsRSJ8dZe6K0D5MrG1u8"
