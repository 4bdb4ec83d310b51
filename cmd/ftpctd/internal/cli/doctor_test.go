package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"ftpctd/cmd/ftpctd/internal/admit"
	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/cmd/ftpctd/internal/doctor"
	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/nfq"
)

// patient is a host whose kernel answers every question with err.
func patient(err error) doctor.Host {
	return doctor.Host{
		Files:        fstest.MapFS{},
		Release:      "6.1.0",
		Queue:        func() error { return err },
		Rules:        func(bool) (string, error) { return "nft queue", err },
		Conntrack:    func() error { return err },
		OwnHelper:    func() error { return err },
		Carrier:      func(string) error { return err },
		Choose:       func(config.Config) (admit.Admission, error) { return admit.Admission{}, err },
		RoundTrip:    func(context.Context, admit.Admission) ([]string, error) { return []string{"IPv4"}, err },
		Owner:        func(uint16) (nfq.Owner, bool) { return nfq.Owner{}, false },
		KeptAway:     func() (firewall.Counters, error) { return firewall.Counters{}, err },
		Tables:       func() ([]doctor.Table, error) { return nil, err },
		Expectations: func() (int, error) { return 0, err },
	}
}

func TestExamine(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		failed bool
		line   string
	}{
		{"nothing fails", nil, false, "OK    packet-queue       a queue can be bound, and fails open\n"},
		{"checks fail", errors.New("no luck"), true, "FAIL  packet-queue       no luck\n                         mend: modprobe nfnetlink_queue\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var text, lines bytes.Buffer
			for _, out := range []struct {
				stdout *bytes.Buffer
				json   bool
			}{{&text, false}, {&lines, true}} {
				err := examine(t.Context(), env{stdout: out.stdout}, patient(tt.err), config.Default(), out.json)
				exit, ok := errors.AsType[*exitError](err)
				if ok != tt.failed || ok && (exit.Code != exitProblems || exit.Err != nil) || !ok && err != nil {
					t.Errorf("error %v, want exit code %d: %v", err, exitProblems, tt.failed)
				}
			}
			if !strings.Contains(text.String(), tt.line) {
				t.Errorf("output:\n%s\nlacks:\n%s", &text, tt.line)
			}
			var got []string
			for line := range strings.Lines(lines.String()) {
				var object struct{ Check, Status string }
				if err := json.Unmarshal([]byte(line), &object); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				got = append(got, object.Check)
			}
			var want []string
			for _, c := range doctor.Checks(patient(nil), config.Default()) {
				want = append(want, c.Name())
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("checks (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExamineInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout bytes.Buffer
	if err := examine(ctx, env{stdout: &stdout}, patient(nil), config.Default(), false); !errors.Is(err, context.Canceled) || stdout.Len() > 0 {
		t.Errorf("error %v after %q, want %v and nothing", err, &stdout, context.Canceled)
	}
}
