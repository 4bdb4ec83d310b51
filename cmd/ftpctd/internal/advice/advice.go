package advice

import (
	"errors"
	"log/slog"
	"strings"

	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack/ctnetlink"
	"ftpctd/nfq"
)

// Explain returns err with what to do about it added to its text. Errors joined by
// errors.Join are explained one by one. An error that there is no advice about, or
// that was explained before, is returned as it is.
func Explain(err error) error {
	if joined := explainJoined(err); joined != nil {
		return joined
	}
	if _, ok := errors.AsType[*explained](err); ok {
		return err
	}
	if text := find(err); text != "" {
		return &explained{err, text}
	}
	return err
}

// explainJoined explains the errors that errors.Join has joined: their texts are the
// lines of err's. It returns nil if err is another one.
func explainJoined(err error) error {
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var lines []string
	var explained []error
	for _, e := range list.Unwrap() {
		lines = append(lines, e.Error())
		explained = append(explained, Explain(e))
	}
	if err.Error() != strings.Join(lines, "\n") {
		return nil
	}
	return errors.Join(explained...)
}

// Attr explains the errors in a log: it is a ReplaceAttr of slog.HandlerOptions.
func Attr(_ []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		a.Value = slog.AnyValue(Explain(err))
	}
	return a
}

// explained is an error and what to do about it.
type explained struct {
	err    error
	advice string
}

// Error implements error.
func (e *explained) Error() string { return e.err.Error() + ": " + e.advice }

// Unwrap returns the error without the advice.
func (e *explained) Unwrap() error { return e.err }

// find returns what to do about err, or nothing.
func find(err error) string {
	errno, ok := errors.AsType[unix.Errno](err)
	if !ok {
		return ""
	}
	if e, ok := errors.AsType[*ctnetlink.Error](err); ok {
		from := inConntrack
		if e.Op == ctnetlink.OpRegister || e.Op == ctnetlink.OpUnregister || e.Op == ctnetlink.OpHelpers {
			from = inHelpers
		}
		return aboutHelper(lookup(from, string(e.Op), errno), e.Helper)
	}
	if e, ok := errors.AsType[*nfq.Error](err); ok {
		if e.Owner != nil {
			return queueTaken
		}
		return lookup(inQueue, e.Op, errno)
	}
	if e, ok := errors.AsType[*firewall.Error](err); ok {
		if text, ok := missing[e.Missing]; ok && errno != unix.EPERM {
			return aboutHelper(text, e.Helper)
		}
		return lookup(inFirewall, e.Op, errno)
	}
	return ""
}

// aboutHelper writes the name of the helper into an advice. An advice about a helper is
// none about an error that concerns no helper.
func aboutHelper(advice, helper string) string {
	if helper == "" && strings.Contains(advice, nameOf) {
		return ""
	}
	return strings.ReplaceAll(advice, nameOf, helper)
}

// lookup returns the advice of the first row that fits.
func lookup(from origin, op string, errno unix.Errno) string {
	for _, r := range rows {
		if r.errno == errno && r.from&from != 0 && (r.op == "" || r.op == op) {
			return r.advice
		}
	}
	return ""
}
