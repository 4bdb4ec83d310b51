package engine

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/conntrack"
	"ftpctd/ftpparse"
)

// TestLogFlood has one client cause the same lines again and again: a few are
// logged, and their number is; at the level debug all of them.
func TestLogFlood(t *testing.T) {
	master := conntrack.Tuple{Src: netip.MustParseAddrPort("192.0.2.10:40000"), Dst: server}
	rejected := conntrack.Event{
		Kind: conntrack.EventReject, Master: master, Via: ftpparse.PORT, Reason: ftpparse.BadPort,
		Tuple: conntrack.Tuple{Src: server, Dst: netip.MustParseAddrPort("192.0.2.10:80")},
	}
	const n = 1000
	for _, tt := range []struct {
		name  string
		level slog.Level
		line  func(*bench, time.Time)
		text  string // of a line
		lines int
		want  []string // the summaries
	}{
		{
			name: "event", level: slog.LevelInfo,
			line: func(b *bench, now time.Time) { rejected.Time = now; b.logEvent(rejected) },
			text: `msg="data connection rejected"`, lines: 5,
			want: []string{`level=INFO msg="similar log lines suppressed" suppressed=995 event=reject reason=` + string(ftpparse.BadPort) + " mostly_from=192.0.2.10"},
		},
		{
			name: "event at debug", level: slog.LevelDebug,
			line: func(b *bench, now time.Time) { rejected.Time = now; b.logEvent(rejected) },
			text: `msg="data connection rejected"`, lines: n,
		},
		{
			name: "event at warn", level: slog.LevelWarn,
			line: func(b *bench, now time.Time) { rejected.Time = now; b.logEvent(rejected) },
			text: `msg="data connection rejected"`, lines: 0,
		},
		{
			name: "kernel rejects an expectation", level: slog.LevelInfo,
			line: func(b *bench, _ time.Time) {
				b.logKernelRejected(b.now(), &conntrack.Expectation{Master: master, Via: ftpparse.PORT}, conntrack.TableFull, errors.New("full"))
			},
			text: `msg="kernel rejected expectation" reason=table-full client=192.0.2.10:40000`, lines: 5,
			want: []string{`level=WARN msg="similar log lines suppressed" suppressed=995 event=kernel-reject reason=table-full mostly_from=192.0.2.10`},
		},
		{
			name: "kernel rejects an entry", level: slog.LevelInfo,
			line: func(b *bench, _ time.Time) { b.logUnrelated(b.now(), rejected.Tuple, master, errors.New("full")) },
			text: `msg="cannot create conntrack entry`, lines: 5,
			want: []string{`level=WARN msg="similar log lines suppressed" suppressed=995 event=unrelated mostly_from=192.0.2.10`},
		},
		{
			name: "kernel does not mark", level: slog.LevelInfo,
			line: func(b *bench, _ time.Time) { b.Rejected(markSeq, errors.New("no")) },
			text: `msg="cannot set conntrack mark`, lines: 5,
			want: []string{`level=WARN msg="similar log lines suppressed" suppressed=995 event=unmarked`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				b.level.Set(tt.level)
				for range n {
					tt.line(b, time.Now())
				}
				b.logSuppressed(time.Now())
				b.Close() // nothing is left to say
				var lines int
				var summaries []string
				for line := range strings.Lines(b.log.String()) {
					switch {
					case strings.Contains(line, tt.text):
						lines++
					default:
						summaries = append(summaries, strings.TrimSpace(line))
					}
				}
				if lines != tt.lines {
					t.Errorf("%d lines of %d, want %d", lines, n, tt.lines)
				}
				if diff := cmp.Diff(tt.want, summaries); diff != "" {
					t.Errorf("summaries (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestLogRest makes sure that what was suppressed after the last summary is told
// at the end.
func TestLogRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		for range 2 {
			for range 10 {
				b.Rejected(markSeq, errors.New("no"))
			}
			b.logSuppressed(time.Now())
		}
		b.Close()
		for _, want := range []string{" suppressed=5 ", " suppressed=10 "} {
			if n := strings.Count(b.log.String(), want); n != 1 {
				t.Errorf("%d lines with %q, want 1:\n%s", n, want, &b.log)
			}
		}
	})
}

// TestSuppressedLineAllocates makes sure that a line that does not pass costs
// nothing on the packet path.
func TestSuppressedLineAllocates(t *testing.T) {
	b := newBench()
	defer b.Close()
	ev := conntrack.Event{
		Time: time.Now(), Kind: conntrack.EventReject, Reason: ftpparse.BadPort, Via: ftpparse.PORT,
		Master: conntrack.Tuple{Src: netip.MustParseAddrPort("192.0.2.10:40000"), Dst: server},
	}
	for range 10 {
		b.logEvent(ev)
	}
	if n := testing.AllocsPerRun(100, func() { b.logEvent(ev) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
