package cli

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/bench/corpora"
	"ftpctd/cmd/ftpctd/internal/capture"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/conntrack"
	"ftpctd/nfq/packet"
)

// jsonLine is a line of replay --json as its readers see it.
type jsonLine struct {
	Time, Event, Client, Server, Via, Mode, Src, Dst, Reason string
	DPort                                                    uint16
	Packets, Sessions, Expect, Reject                        int
}

func replayJSON(t *testing.T, path string, cfg config.Config) []jsonLine {
	t.Helper()
	var out bytes.Buffer
	if err := replay(&out, nil, path, cfg, true); err != nil {
		t.Fatalf("replay: %v", err)
	}
	var lines []jsonLine
	sc := bufio.NewScanner(&out)
	for sc.Scan() {
		var l jsonLine
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatalf("%q: %v", sc.Text(), err)
		}
		lines = append(lines, l)
	}
	return lines
}

// tuples lists the expected tuples as src>dst dport via.
func tuples(lines []jsonLine) []string {
	out := []string{}
	for _, l := range lines {
		if l.Event == "expect" {
			out = append(out, l.Src+" > "+l.Dst+" "+strconv.Itoa(int(l.DPort))+" "+l.Via)
		}
	}
	slices.Sort(out)
	return out
}

// readTable reads a table of an oracle: the capture it is of, and its rows.
func readTable(t *testing.T, path string) (capture string, rows [][]string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\n")
		if name, ok := strings.CutPrefix(line, "#pcap "); ok {
			capture = name
		} else if !strings.HasPrefix(line, "#") && line != "" {
			rows = append(rows, strings.Split(line, "\t"))
		}
	}
	return capture, rows
}

// TestReplayAgreesWithZeek compares the expectations with Zeek's log of the same
// captures.
func TestReplayAgreesWithZeek(t *testing.T) {
	dir := corpora.Path(t, "corpora")
	unread := map[string][]string{
		// Commands and replies that touch one of the gaps of the capture: what was
		// pending before a gap does not count any more.
		"ftp/cwd-navigation.pcap": {"10.3.22.91 > 205.167.25.101 62191 227"},
		// The capture begins with this PASV, in the middle of the connection. What
		// nobody has answered may be forged.
		"ftp/ftp-with-numbers-in-filename.pcap": {"192.168.21.95 > 164.107.123.6 47035 227"},
	}
	tables, err := filepath.Glob(filepath.Join(dir, "expected", "*.zeek.tsv"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables of Zeek's: %v", err)
	}
	for _, table := range tables {
		capture, rows := readTable(t, table)
		t.Run(filepath.Base(table), func(t *testing.T) {
			want := []string{}
			for _, r := range rows {
				via := r[0] // Zeek logs the reply that came last, not always the 227
				if answer, ok := map[string]string{"PASV": "227", "EPSV": "229"}[via]; ok {
					via = answer
				}
				row := r[7] + " > " + r[8] + " " + r[9] + " " + via
				if !slices.Contains(unread[capture], row) {
					want = append(want, row)
				}
			}
			slices.Sort(want)
			path := filepath.Join(dir, "zeek", "Traces", capture)

			cfg := config.Default()
			cfg.Passive.Address = conntrack.AddressReply // Zeek believes the reply
			lines := replayJSON(t, path, cfg)
			if diff := cmp.Diff(want, tuples(lines)); diff != "" {
				t.Errorf("address = reply: expectations (-zeek +replay):\n%s", diff)
			}
			if got := lines[len(lines)-1]; got.Event != "summary" || got.Expect != len(want) {
				t.Errorf("summary %+v, want %d expectations", got, len(want))
			}

			cfg.Passive.Address = conntrack.AddressPeer
			for i, row := range want {
				want[i] = strings.ReplaceAll(row, "205.167.25.101", "10.167.25.101")
			}
			if diff := cmp.Diff(want, tuples(replayJSON(t, path, cfg))); diff != "" {
				t.Errorf("address = peer: expectations (-zeek +replay):\n%s", diff)
			}

			cfg.Passive.Address = conntrack.AddressStrict
			if capture == "ftp/cwd-navigation.pcap" {
				want = []string{} // every reply names another host
			}
			if diff := cmp.Diff(want, tuples(replayJSON(t, path, cfg))); diff != "" {
				t.Errorf("address = strict: expectations (-zeek +replay):\n%s", diff)
			}
		})
	}
}

// TestReplayStaysBelowTshark demands that every expectation of every capture is
// among the tuples that Wireshark's dissector sees, and none where it sees none.
func TestReplayStaysBelowTshark(t *testing.T) {
	dir := corpora.Path(t, "corpora")
	seen := 0
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.Contains(filepath.Base(path), ".pcap") || strings.HasSuffix(path, ".out") || strings.Contains(path, "expected") {
			return err
		}
		seen++
		name, _ := filepath.Rel(dir, path)
		t.Run(name, func(t *testing.T) {
			announced := map[string]bool{}
			table := filepath.Join(dir, "expected", strings.ReplaceAll(name, "/", "__")+".tshark.tsv")
			if _, err := os.Stat(table); err == nil {
				_, rows := readTable(t, table)
				for _, r := range rows {
					announced[r[8]+" "+r[2]] = true
				}
			}
			cfg := config.Default()
			cfg.Ports = []uint16{21, 2811}
			for _, l := range replayJSON(t, path, cfg) {
				if l.Event == "expect" && !announced[strconv.Itoa(int(l.DPort))+" "+l.Via] {
					t.Errorf("expected %+v, which Wireshark does not see", l)
				}
			}
		})
		return nil
	})
	if err != nil || seen == 0 {
		t.Fatalf("%d captures: %v", seen, err)
	}
}

func TestReplayCaptures(t *testing.T) {
	dir := corpora.Path(t, "corpora")
	tests := []struct {
		capture string
		want    []string // tuples
		events  map[string]int
	}{
		{
			capture: "ndpi/pcap/ftp-start-tls.pcap", // TLS, then CCC
			want:    []string{"10.238.26.36 > 10.220.50.76 16539 227"},
			events:  map[string]int{"open": 1, "opaque": 1, "expect": 1, "summary": 1},
		},
		{
			capture: "zeek/Traces/ftp/ftp-auth-tls.pcap",
			want:    []string{},
			events:  map[string]int{"open": 1, "opaque": 1, "summary": 1},
		},
		{
			capture: "zeek/Traces/ftp/ftp-many-port-expected.pcap.gz", // PORT to third hosts
			want:    []string{},
			events:  map[string]int{"open": 1, "reject": 500, "summary": 1},
		},
	}
	for _, tt := range tests {
		t.Run(tt.capture, func(t *testing.T) {
			lines := replayJSON(t, filepath.Join(dir, tt.capture), config.Default())
			if diff := cmp.Diff(tt.want, tuples(lines)); diff != "" {
				t.Errorf("expectations (-want +got):\n%s", diff)
			}
			events := map[string]int{}
			for _, l := range lines {
				events[l.Event]++
			}
			delete(events, "close")
			if diff := cmp.Diff(tt.events, events); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReplayAttacks replays attacks that once had a port opened. Each is an attack on
// 192.0.2.10, port 3384.
func TestReplayAttacks(t *testing.T) {
	dir := corpora.Path(t, "attacks", "captures")
	captures, err := filepath.Glob(filepath.Join(dir, "*.pcap"))
	if err != nil || len(captures) == 0 {
		t.Fatalf("no captures in %s: %v", dir, err)
	}
	want := map[string][]string{ // what is said of a client, where something must be
		"H3-evict.pcap": {"not-ftp 192.0.2.10:40000 no-greeting"},
	}
	for _, path := range captures {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			cfg := config.Default()
			if file := strings.TrimSuffix(path, ".pcap") + ".toml"; fileExists(file) {
				if cfg, err = config.Load(file); err != nil {
					t.Fatal(err)
				}
			}
			var said []string
			for _, l := range replayJSON(t, path, cfg) {
				if l.Event == "expect" && l.DPort != 0 {
					t.Errorf("expected %+v", l)
				}
				if l.Event == "not-ftp" {
					said = append(said, l.Event+" "+l.Client+" "+l.Reason)
				}
			}
			if diff := cmp.Diff(want[name], said); want[name] != nil && diff != "" {
				t.Errorf("said (-want +got):\n%s", diff)
			}
		})
	}
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestReplayStandardInput has a capture come through a pipe.
func TestReplayStandardInput(t *testing.T) {
	pcap := make([]byte, 24) // a header without packets
	binary.LittleEndian.PutUint32(pcap, 0xa1b2c3d4)
	binary.LittleEndian.PutUint16(pcap[4:], 2)
	binary.LittleEndian.PutUint32(pcap[20:], 101)
	tests := []struct {
		name, stdin string
		want, err   string
	}{
		{"a capture", string(pcap), `{"event":"summary","packets":0,"sessions":0,"expect":0,"reject":0}` + "\n", ""},
		{"nothing", "", "", "standard input: unrecognized format: not pcap or pcapng: it is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			cmd := newReplayCommand(env{stdout: &out})
			cmd.SetArgs([]string{"--json", "-"})
			cmd.SetIn(strings.NewReader(tt.stdin))
			cmd.SilenceUsage, cmd.SilenceErrors = true, true
			err := cmd.ExecuteContext(t.Context())
			if got := fmt.Sprint(err); got != tt.err && (err != nil || tt.err != "") {
				t.Errorf("error %q, want %q", got, tt.err)
			}
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReplayBoundsAFlood makes the third host that a flood of PORTs names the
// client itself, so that nothing but the limit stands between it and the
// kernel's table.
func TestReplayBoundsAFlood(t *testing.T) {
	packets, err := capture.Open(corpora.Path(t, "corpora", "zeek", "Traces", "ftp", "ftp-many-port-expected.pcap.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	cfg := config.Default().Tracker()
	cfg.Policy.RequireLogin = false // nobody logs in there
	standing, most := 0, 0
	cfg.Observe = func(e conntrack.Event) {
		switch e.Kind {
		case conntrack.EventExpect:
			standing++
		case conntrack.EventWithdraw:
			standing--
		}
		most = max(most, standing)
	}
	tracker := conntrack.New(cfg)
	named := netip.MustParseAddr("10.0.0.200")
	err = feed(packets, func(now time.Time, p *packet.Packet) {
		if p.Dst.Port() == 21 {
			p.Src = netip.AddrPortFrom(named, p.Src.Port())
		} else {
			p.Dst = netip.AddrPortFrom(named, p.Dst.Port())
		}
		tracker.Packet(now, p)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := tracker.Stats().Expected; got != 500 {
		t.Errorf("%d expectations in all, want 500: the address rule is in the way", got)
	}
	if most != cfg.MaxExpected {
		t.Errorf("%d expectations stood at once, want %d", most, cfg.MaxExpected)
	}
}
