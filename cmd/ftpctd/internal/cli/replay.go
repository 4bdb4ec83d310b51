package cli

import (
	"bufio"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"ftpctd/cmd/ftpctd/internal/capture"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/offline"
	"ftpctd/cmd/ftpctd/internal/report"
	"ftpctd/conntrack"
	"ftpctd/nfq/packet"
)

func newReplayCommand(e env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "replay [--json] [-c FILE] CAPTURE|-",
		Short: "Show what the daemon would have done with a capture",
		Long: `replay runs a capture through the daemon's own tracker and prints each decision. It
reads pcap and pcapng, plain or gzip, from a file or from standard input (-), and
needs no privileges. Like the daemon's firewall rules, it follows the state of each
connection and skips packets that they would not queue. A control connection that
begins before the capture is picked up in the middle (open, picked-up).`,
		Args:                  cobra.ExactArgs(1),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per line")
	file := addConfigFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := file.load()
		if err != nil {
			return err
		}
		out := bufio.NewWriter(e.stdout)
		return errors.Join(replay(out, cmd.InOrStdin(), args[0], cfg, asJSON), out.Flush())
	}
	return cmd
}

// replay prints the decisions on the capture at path, or on stdin for "-". If the
// capture is damaged, it prints the decisions and the summary up to there, and returns
// the error.
func replay(w io.Writer, stdin io.Reader, path string, cfg config.Config, asJSON bool) error {
	packets, err := openCapture(path, stdin)
	if err != nil {
		return err
	}
	defer packets.Close()

	writeEvent, writeSummary := report.Text, report.Summary.Text
	if asJSON {
		writeEvent, writeSummary = report.JSON, report.Summary.JSON
	}
	var writeErr error
	tracking := cfg.Tracker()
	tracking.Observe = func(ev conntrack.Event) {
		if writeErr == nil {
			writeErr = writeEvent(w, &ev)
		}
	}
	daemon := offline.New(tracking)
	readErr := feed(packets, func(now time.Time, p *packet.Packet) { daemon.Packet(now, p) })
	stats := daemon.Stats()
	if writeErr == nil {
		writeErr = writeSummary(report.Summary{
			Packets: packets.Frame(), Sessions: stats.Sessions,
			Expected: stats.Expected, Rejected: stats.Rejected,
		}, w)
	}
	return errors.Join(readErr, writeErr)
}

func openCapture(path string, stdin io.Reader) (*capture.Reader, error) {
	if path == "-" {
		return capture.NewReader("standard input", stdin)
	}
	return capture.Open(path)
}

// feed calls yield for each whole TCP segment of a capture.
func feed(packets *capture.Reader, yield func(now time.Time, p *packet.Packet)) error {
	var decoder packet.Decoder
	var p packet.Packet
	for {
		now, ip, err := packets.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if decoder.Decode(ip, &p) == nil {
			yield(now, &p)
		}
	}
}
