package engine

import (
	"context"
	"log/slog"

	"ftpctd/cmd/ftpctd/internal/report"
	"ftpctd/conntrack"
	"ftpctd/ftpparse"
)

// levels tells an administrator what went against somebody's wish, and keeps
// what happens at every transfer for those who ask.
var levels = map[conntrack.EventKind]slog.Level{
	conntrack.EventReject: slog.LevelInfo,
	conntrack.EventOpaque: slog.LevelInfo,
	conntrack.EventNotFTP: slog.LevelInfo,
}

var messages = map[conntrack.EventKind]string{
	conntrack.EventOpen:     "control connection opened",
	conntrack.EventClose:    "control connection closed",
	conntrack.EventExpect:   "data connection expected",
	conntrack.EventReject:   "data connection refused",
	conntrack.EventWithdraw: "expectation withdrawn",
	conntrack.EventOpaque:   "control connection went into TLS: its data ports cannot be learned; give the server a passive port range, and open it or name it in passive.tls_ports",
	conntrack.EventNotFTP:   "no FTP session: nothing will be expected on it",
}

// observe logs an event of the tracker.
func (e *Engine) observe(ev conntrack.Event) {
	level, ok := levels[ev.Kind]
	if !ok {
		level = slog.LevelDebug
	}
	if !e.log.Enabled(context.Background(), level) {
		return
	}
	message := messages[ev.Kind]
	switch {
	case ev.Kind != conntrack.EventOpaque:
	case ev.Reason == conntrack.Translated:
		message = "control connection went into TLS: its data ports cannot be learned, and passive.tls_ports do not serve a connection behind NAT; give the server a passive port range, and open it"
	case e.servesTLS():
		message = "control connection went into TLS: its client may connect to the server's passive.tls_ports"
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
