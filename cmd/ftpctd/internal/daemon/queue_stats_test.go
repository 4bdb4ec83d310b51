package daemon

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/nfq"
)

// TestQueueStats holds that the log has each counter that has risen, once a minute.
func TestQueueStats(t *testing.T) {
	steps := []struct {
		name  string
		after time.Duration
		stats nfq.Stats
		want  []string // contained in a line each
	}{
		{name: "nothing wrong", stats: nfq.Stats{Packets: 10}},
		{name: "overrun", after: time.Second, stats: nfq.Stats{Overruns: 2}, want: []string{"level=WARN overruns=2 total=2"}},
		{name: "within the minute", after: 30 * time.Second, stats: nfq.Stats{Overruns: 5}},
		{
			name: "another counter", after: 31 * time.Second, stats: nfq.Stats{Overruns: 5, SendErrors: 1, SendError: unix.ENOBUFS},
			want: []string{"level=ERROR errors=1 total=1 err=\"no buffer space available\""},
		},
		{
			name: "after the minute", after: 62 * time.Second, stats: nfq.Stats{Overruns: 6, SendErrors: 1, Gone: 3, SendError: unix.ENOBUFS},
			want: []string{"level=WARN overruns=4 total=6", "level=DEBUG packets=3 total=3"},
		},
		{name: "no change", after: time.Hour, stats: nfq.Stats{Overruns: 6, SendErrors: 1, Gone: 3}},
	}
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.MessageKey {
			return slog.Attr{}
		}
		return a
	}}))
	var q queueStats
	start := time.Unix(1000, 0)
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			log.Reset()
			q.report(logger, step.stats, start.Add(step.after))
			if got := strings.TrimSuffix(log.String(), "\n"); got != strings.Join(step.want, "\n") {
				t.Errorf("log:\n%s\nwant:\n%s", got, strings.Join(step.want, "\n"))
			}
		})
	}
}
