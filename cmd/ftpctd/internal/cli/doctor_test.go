package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
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
type patient struct{ err error }

func (patient) Files() fs.FS                           { return fstest.MapFS{} }
func (patient) Release() string                        { return "6.1.0" }
func (p patient) Queue() error                         { return p.err }
func (p patient) Rules(bool) (string, error)           { return "nft queue", p.err }
func (p patient) Conntrack() error                     { return p.err }
func (p patient) OwnHelper() error                     { return p.err }
func (p patient) Carrier(string) error                 { return p.err }
func (p patient) KeptAway() (firewall.Counters, error) { return firewall.Counters{}, p.err }
func (p patient) Tables() ([]doctor.Table, error)      { return nil, p.err }
func (p patient) Expectations() (int, error)           { return 0, p.err }
func (patient) Owner(uint16) (nfq.Owner, bool)         { return nfq.Owner{}, false }

func (p patient) Choose(config.Config) (admit.Admission, error) {
	return admit.Admission{}, p.err
}

func (p patient) RoundTrip(context.Context, admit.Admission) ([]string, error) {
	return []string{"IPv4"}, p.err
}

func TestExamine(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		failed bool
		line   string
	}{
		{"nothing fails", nil, false, "OK    packet-queue       queues can be bound and fail open\n"},
		{"checks fail", errors.New("no luck"), true, "FAIL  packet-queue       no luck\n                         fix: modprobe nfnetlink_queue\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var text, lines bytes.Buffer
			for _, out := range []struct {
				stdout *bytes.Buffer
				json   bool
			}{{&text, false}, {&lines, true}} {
				err := examine(t.Context(), env{stdout: out.stdout}, patient{tt.err}, config.Default(), out.json)
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
			for _, c := range doctor.Checks(patient{}, config.Default()) {
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
	if err := examine(ctx, env{stdout: &stdout}, patient{}, config.Default(), false); !errors.Is(err, context.Canceled) || stdout.Len() > 0 {
		t.Errorf("error %v after %q, want %v and nothing", err, &stdout, context.Canceled)
	}
}
