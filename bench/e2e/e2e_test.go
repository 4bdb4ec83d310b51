package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/bench/lab/labtest"
)

// TestRun runs the benchmark with all variants and loads, as briefly as possible.
func TestRun(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	fw, err := l.Router.DropFirewall(lab.Forward)
	if err != nil {
		t.Fatal(err)
	}
	if err := fw.AssignHelper("ftp"); errors.Is(err, unix.ENOENT) {
		labtest.Unmet(t, err.Error())
	} else if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	raw := filepath.Join(t.TempDir(), "raw.json")
	code := run(ctx, []string{
		"-rounds", "1", "-conns", "2", "-time", "50ms", "-warmup", "10ms", "-size", "1000000", "-idle", "1500", "-json", raw,
	}, t.Output(), t.Output())
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}

	text, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Measurements measurements
		Memory       memory
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	const variants, cycles = 4, 4
	if n := len(got.Measurements); n != variants*(cycles+transfersPerRound) {
		t.Errorf("%d measurements, want %d", n, variants*(cycles+transfersPerRound))
	}
	for _, m := range got.Measurements {
		daemon := m.Variant == "expect" || m.Variant == "entry"
		switch {
		case m.Cycles == 0, m.Blocked != 0, m.P50 == 0, m.P99 < m.P50, m.Lab == 0, (m.Daemon != 0) != daemon:
			t.Errorf("%s, %s: %+v", m.Variant, m.Load, m)
		case (m.Data == 0) != (m.Load == "noop"):
			t.Errorf("%s, %s: %d data connections", m.Variant, m.Load, m.Data)
		// A retransmitted SYN is RELATED, too.
		case m.Variant != "none" && m.Related < m.Data, m.Variant == "none" && m.Related != 0:
			t.Errorf("%s, %s: %d packets were RELATED, of %d data connections", m.Variant, m.Load, m.Related, m.Data)
		}
	}
	if m := got.Memory; m.Connections != 1500 || m.Idle == 0 || m.Filled <= m.Idle {
		t.Errorf("memory: %+v", m)
	}
}

// TestBlocked checks that the benchmark notices dropped data connections.
func TestBlocked(t *testing.T) {
	labtest.New(t, lab.Config{}) // skips without root
	s, err := variant{name: "helpless"}.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	m, err := s.measure(loads(0)[0], 3, timing{duration: 20 * time.Millisecond, drain: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if m.Blocked != 3 || m.Cycles != 0 {
		t.Errorf("%d cycles blocked and %d done, want 3 and 0", m.Blocked, m.Cycles)
	}
}
