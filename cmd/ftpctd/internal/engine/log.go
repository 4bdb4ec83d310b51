package engine

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"ftpctd/cmd/ftpctd/internal/event"
	"ftpctd/cmd/ftpctd/internal/report"
	"ftpctd/conntrack"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/ftpparse"
)

// levels are those of the events that an administrator should see. The others happen at
// every transfer, and are logged at debug.
var levels = map[conntrack.EventKind]slog.Level{
	conntrack.EventReject: slog.LevelInfo,
	conntrack.EventOpaque: slog.LevelInfo,
	conntrack.EventNotFTP: slog.LevelInfo,
}

var messages = map[conntrack.EventKind]string{
	conntrack.EventOpen:     "control connection opened",
	conntrack.EventClose:    "control connection closed",
	conntrack.EventExpect:   "data connection expected",
	conntrack.EventReject:   "data connection rejected",
	conntrack.EventWithdraw: "expectation withdrawn",
	conntrack.EventOpaque:   "control connection switched to TLS; its data ports are unknown (set passive.tls_ports to the server's passive range)",
	conntrack.EventNotFTP:   "control connection skipped; none of its data connections will be expected",
}

// Warnings about a packet, as the limiter and its summaries name them.
const (
	warnKernelRejected = "kernel-reject" // of an expectation
	warnUnrelated      = "unrelated"     // the entry of a data connection
	warnUnmarked       = "unmarked"
	warnTLS            = "tls"   // the admission of data connections of a session in TLS
	warnTable          = "table" // of data connections
	warnWithdraw       = "kernel-withdraw"
	warnMessage        = "kernel-message" // that is not known any more
)

// logEvent logs an event of the tracker.
func (e *Engine) logEvent(ev conntrack.Event) {
	level, ok := levels[ev.Kind]
	if !ok {
		level = slog.LevelDebug
	}
	if !e.mayLog(ev.Time, level, event.Kind{Event: string(ev.Kind), Reason: string(ev.Reason)}, ev.Master.Src.Addr()) {
		return
	}
	message := messages[ev.Kind]
	switch {
	case ev.Kind != conntrack.EventOpaque:
	case ev.Reason == conntrack.Translated:
		message = "control connection switched to TLS; its data ports are unknown, and passive.tls_ports does not apply behind NAT (open the server's passive range in your own rules)"
	case e.servesTLS():
		message = "control connection switched to TLS; its client may connect to passive.tls_ports of the server"
	}
	attrs := []slog.Attr{slog.Any("client", ev.Master.Src), slog.Any("server", ev.Master.Dst)}
	if ev.Via != ftpparse.ViaNone {
		attrs = append(attrs, slog.String("via", ev.Via.String()), slog.String("mode", report.Mode(ev.Via)))
		if ev.Tuple.Dst.IsValid() {
			attrs = append(attrs, slog.Any("src", ev.Tuple.Src.Addr()), slog.Any("dst", ev.Tuple.Dst))
		}
	}
	if ev.Reason != "" {
		attrs = append(attrs, slog.String("reason", string(ev.Reason)))
	}
	e.log.LogAttrs(context.Background(), level, message, attrs...)
}

// mayLog reports whether a line about a client is to be logged. Anybody can cause
// these lines at will, so that only a few of a kind pass, unless the level is
// debug: that asks for all of them. It is called before anything is made for the
// line, so that one that does not pass costs next to nothing.
func (e *Engine) mayLog(now time.Time, level slog.Level, k event.Kind, client netip.Addr) bool {
	ctx := context.Background()
	return e.log.Enabled(ctx, slog.LevelDebug) || e.log.Enabled(ctx, level) && e.limiter.Allow(now, k, client)
}

// mayWarn is mayLog for a warning; what is one of the constants above. The client
// may be invalid where it is not known.
func (e *Engine) mayWarn(now time.Time, what string, reason conntrack.Reason, client netip.Addr) bool {
	return e.mayLog(now, slog.LevelWarn, event.Kind{Event: what, Reason: string(reason)}, client)
}

// logKernelRejected warns that the kernel rejected an expectation.
func (e *Engine) logKernelRejected(now time.Time, x *conntrack.Expectation, reason conntrack.Reason, err error) {
	if e.mayWarn(now, warnKernelRejected, reason, x.Master.Src.Addr()) {
		e.log.Warn("kernel rejected expectation",
			"reason", reason, "client", x.Master.Src, "server", x.Master.Dst,
			"via", x.Via, "err", err)
	}
}

// logUnrelated warns that the kernel rejected the entry of a data connection.
func (e *Engine) logUnrelated(now time.Time, data, master conntrack.Tuple, err error) {
	if e.mayWarn(now, warnUnrelated, "", master.Src.Addr()) {
		e.log.Warn("cannot create conntrack entry for data connection",
			"src", data.Src, "dst", data.Dst, "client", master.Src, "server", master.Dst,
			"err", ctnetlink.WrapError(ctnetlink.OpCreate, data, err))
	}
}

// logSuppressed logs how many lines were not logged, once in a while.
func (e *Engine) logSuppressed(now time.Time) { e.summarize(e.limiter.Summaries(now)) }

// logRest is logSuppressed for the end.
func (e *Engine) logRest(now time.Time) { e.summarize(e.limiter.Rest(now)) }

func (e *Engine) summarize(summaries []event.Summary) {
	for _, s := range summaries {
		level, ok := levels[conntrack.EventKind(s.Kind.Event)]
		if !ok {
			level = slog.LevelWarn
		}
		attrs := []slog.Attr{slog.Uint64("suppressed", s.Lines), slog.String("event", s.Kind.Event)}
		if s.Kind.Reason != "" {
			attrs = append(attrs, slog.String("reason", s.Kind.Reason))
		}
		if s.Client.IsValid() {
			attrs = append(attrs, slog.Any("mostly_from", s.Client))
		}
		e.log.LogAttrs(context.Background(), level, "similar log lines suppressed", attrs...)
	}
}
