package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/miniftp"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/report"
)

const (
	// dataTimeout is how long the server tries to open a data connection. It gives up
	// before the kernel retransmits a SYN that the firewall has dropped, after a second.
	dataTimeout  = 700 * time.Millisecond
	demoFileSize = 1 << 20
	demoFile     = "file.bin"
)

func newDemoCommand(e env) *cobra.Command {
	var asJSON bool
	var admit string
	cmd := &cobra.Command{
		Use:   "demo [--json] [--admit MODE]",
		Short: "Show FTP passing a default-drop firewall",
		Long: `demo builds a client, a router and a server in private network namespaces, gives the
router a default-drop firewall that accepts only port 21 and established or related
connections, and transfers files in every FTP mode, first without the daemon and
then with it. It requires root and cleans up after itself.`,
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per row")
	cmd.Flags().StringVar(&admit, "admit", string(config.AdmitAuto), "the admission `MODE` of the daemon: auto, expect, entry or helper")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg := fmt.Appendf(nil, "admit = %q\n", admit)
		if _, err := config.Parse("--admit", cfg); err != nil {
			return &exitError{exitUsage, err}
		}
		if err := needNetAdmin(); err != nil {
			return err
		}
		return demo(cmd.Context(), e.stdout, cfg, asJSON)
	}
	return cmd
}

// demoRow is a way of opening data connections, and the outcome.
type demoRow struct {
	Family  string `json:"family"`
	Mode    string `json:"mode"`
	Via     string `json:"via"`
	Bytes   int    `json:"bytes"`
	Related uint64 `json:"related"`
	Without string `json:"without"`
	With    string `json:"with"`

	way miniftp.Way
}

// The outcomes of a row.
const (
	outcomeBlocked = "blocked"
	outcomeOK      = "ok"
)

// transfers is the number of data connections a row makes: a file each way.
const transfers = 2

// holds reports whether the row is blocked without the daemon and passes with it.
func (r *demoRow) holds() bool {
	return r.Without == outcomeBlocked && r.With == outcomeOK && r.Related == transfers
}

func demo(ctx context.Context, w io.Writer, cfg []byte, asJSON bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	l, err := lab.New(lab.Config{})
	if err != nil {
		return err
	}
	rows, ready, err := runDemo(ctx, l, cfg)
	if err := errors.Join(err, l.Close()); err != nil {
		return err
	}
	if asJSON {
		err = demoJSON(w, rows)
	} else {
		err = demoTable(w, l, ready, rows)
	}
	if err != nil {
		return err
	}
	for _, r := range rows {
		if !r.holds() {
			return fmt.Errorf("%s %s via %s: without the daemon %s, with it %s, %d related packets for %d data connections",
				r.Family, r.Mode, r.Via, r.Without, r.With, r.Related, transfers)
		}
	}
	return nil
}

// runDemo runs the rows. It also returns the daemon's ready line.
func runDemo(ctx context.Context, l *lab.Lab, cfg []byte) (rows []demoRow, ready string, err error) {
	fw, err := l.Router.DropFirewall(lab.Forward)
	if err != nil {
		return nil, "", err
	}
	stop, err := demoServer(ctx, l.Server)
	if err != nil {
		return nil, "", err
	}
	defer stop()

	for _, w := range miniftp.Ways(l.Server.Addrs()...) {
		rows = append(rows, demoRow{Family: w.Family(), Mode: report.Mode(w.Via), Via: w.Via.String(), way: w})
	}
	for i := range rows {
		r := &rows[i]
		if r.Without, err = r.transferWithout(ctx, l.Client, fw); err != nil {
			return nil, "", err
		}
	}
	daemon, err := startDaemon(ctx, l.Router, cfg)
	if err != nil {
		return nil, "", err
	}
	for i := range rows {
		r := &rows[i]
		before, err := fw.Related()
		if err != nil {
			return nil, "", err
		}
		n, err := r.transfer(ctx, l.Client)
		r.With, r.Bytes = outcome(err), n
		after, err := fw.Related()
		if err != nil {
			return nil, "", err
		}
		r.Related = after - before
	}
	return rows, daemon.ready(), daemon.stop()
}

// demoServer serves FTP on both addresses of a host until stop is called.
func demoServer(ctx context.Context, h *lab.Host) (stop func(), err error) {
	s := &miniftp.Server{Network: h, DataTimeout: dataTimeout}
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	stop = func() { cancel(); serving.Wait() }
	for _, addr := range h.Addrs() {
		listener, err := h.ListenTCP(ctx, netip.AddrPortFrom(addr, lab.ControlPort))
		if err != nil {
			stop()
			return nil, err
		}
		serving.Go(func() { _ = s.Serve(ctx, listener) })
	}
	return stop, nil
}

// transferWithout is transfer without the daemon, and returns its outcome. It ends as
// soon as the firewall has dropped a packet: then the transfer is blocked.
func (r *demoRow) transferWithout(ctx context.Context, client *lab.Host, fw *lab.Firewall) (string, error) {
	before, err := fw.Dropped()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		_ = lab.AwaitRise(ctx, fw.Dropped, before)
		cancel()
	})
	_, transferErr := r.transfer(ctx, client)
	cancel()
	watching.Wait()
	dropped, err := fw.Dropped()
	if err == nil && transferErr != nil && dropped > before {
		return outcomeBlocked, nil
	}
	return outcome(transferErr), err
}

// transfer uploads a file of random bytes, downloads it again and compares the
// checksums. It returns the number of bytes transferred.
func (r *demoRow) transfer(ctx context.Context, client *lab.Host) (n int, err error) {
	c, err := miniftp.Dial(ctx, client, netip.AddrPortFrom(r.way.Server, lab.ControlPort))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.Login(ctx, "anonymous", "demo@example.com"); err != nil {
		return 0, err
	}
	sent := make([]byte, demoFileSize)
	_, _ = rand.Read(sent) // never fails
	if err := c.Stor(ctx, r.way.Via, demoFile, sent); err != nil {
		return 0, err
	}
	got, err := c.Retr(ctx, r.way.Via, demoFile)
	if err != nil {
		return 0, err
	}
	if sha256.Sum256(got) != sha256.Sum256(sent) {
		return 0, errors.New("checksum mismatch")
	}
	return len(sent) + len(got), c.Quit(ctx)
}

// outcome names the result of a transfer.
func outcome(err error) string {
	switch {
	case err == nil:
		return outcomeOK
	case errors.Is(err, miniftp.ErrNoDataConnection):
		return outcomeBlocked
	default:
		return err.Error()
	}
}

// A daemonProcess is this program's daemon in a host of the lab.
type daemonProcess struct {
	process *lab.Process
	log     *logWatcher
}

// startDaemon runs this program as the daemon with the configuration cfg, and
// waits until it is ready.
func startDaemon(ctx context.Context, h *lab.Host, cfg []byte) (*daemonProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d := &daemonProcess{log: newLogWatcher("msg=ready")}
	cmd := exec.Command(self, "run", "-c", "/dev/stdin")
	cmd.Stdin = bytes.NewReader(cfg)
	cmd.Stderr = d.log
	if d.process, err = h.Start(cmd); err != nil {
		return nil, err
	}
	select {
	case <-d.log.seen:
		return d, nil
	case <-d.process.Done():
		return nil, fmt.Errorf("the daemon ended: %w\n%s", d.process.Wait(), d.log)
	case <-ctx.Done():
		return nil, fmt.Errorf("the daemon is not ready: %w\n%s", ctx.Err(), d.log)
	}
}

// ready returns the daemon's ready line.
func (d *daemonProcess) ready() string {
	for line := range strings.Lines(d.log.String()) {
		if _, said, ok := strings.Cut(line, d.log.word+" "); ok {
			return strings.TrimSpace(said)
		}
	}
	return ""
}

func (d *daemonProcess) stop() error {
	if err := d.process.Stop(); err != nil {
		return fmt.Errorf("the daemon: %w\n%s", err, d.log)
	}
	return nil
}

// logWatcher keeps what is written to it, and closes seen as soon as it contains the
// word.
type logWatcher struct {
	lab.Transcript
	word string
	seen chan struct{}
	once sync.Once
}

func newLogWatcher(word string) *logWatcher {
	return &logWatcher{word: word, seen: make(chan struct{})}
}

// Write implements io.Writer.
func (l *logWatcher) Write(b []byte) (int, error) {
	n, err := l.Transcript.Write(b)
	if strings.Contains(l.String(), l.word) {
		l.once.Do(func() { close(l.seen) })
	}
	return n, err
}

func demoJSON(w io.Writer, rows []demoRow) error {
	enc := json.NewEncoder(w)
	for _, r := range rows {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

func demoTable(w io.Writer, l *lab.Lab, ready string, rows []demoRow) error {
	fmt.Fprintf(w, `FTP through a default-drop firewall

  client %s  --  router  --  server %s
                       forward: policy drop
                       accept tcp dport 21
                       accept ct state established,related
  daemon: %s

`, l.Client.IPv4(), l.Server.IPv4(), ready)
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "  FAMILY\tMODE\tVIA\tWITHOUT ftpctd\tWITH ftpctd\tBYTES\tRELATED\t")
	good := 0
	for _, r := range rows {
		mark := "FAILED"
		if r.holds() {
			mark = ""
			good++
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", r.Family, r.Mode, r.Via, r.Without, r.With, r.Bytes, r.Related, mark)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d of %d ways pass with ftpctd and are blocked without it. In each, a file was uploaded and\ndownloaded with the same checksum; the firewall counted %d data connections as RELATED.\n",
		good, len(rows), transfers)
	return err
}
