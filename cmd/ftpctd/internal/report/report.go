package report

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"

	"ftpctd/conntrack"
	"ftpctd/ftpparse"
)

// A line is an event with the keys of its JSON line, in their order.
type line struct {
	Time   string `json:"time"`
	Event  string `json:"event"`
	Client string `json:"client"`
	Server string `json:"server"`
	Via    string `json:"via,omitempty"`
	Mode   string `json:"mode,omitempty"`
	Src    string `json:"src,omitempty"`
	Dst    string `json:"dst,omitempty"`
	DPort  uint16 `json:"dport,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Mode is the word for the side that opens the data connection.
func Mode(v ftpparse.Via) string {
	switch {
	case v == ftpparse.ViaNone:
		return ""
	case v.Active():
		return "active"
	default:
		return "passive"
	}
}

func lineOf(e *conntrack.Event) line {
	return line{
		Time:   e.Time.UTC().Format(time.RFC3339Nano),
		Event:  string(e.Kind),
		Client: e.Master.Src.String(),
		Server: e.Master.Dst.String(),
		Via:    e.Via.String(),
		Mode:   Mode(e.Via),
		Src:    addr(e.Tuple.Src.Addr()),
		Dst:    addr(e.Tuple.Dst.Addr()),
		DPort:  e.Tuple.Dst.Port(),
		Reason: string(e.Reason),
	}
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// JSON writes e as one line.
func JSON(w io.Writer, e *conntrack.Event) error { return object(w, lineOf(e)) }

// Text writes e as one line of text.
func Text(w io.Writer, e *conntrack.Event) error {
	what := ""
	if e.Via != ftpparse.ViaNone {
		what = fmt.Sprintf(" %s %s", e.Via, Mode(e.Via))
		if e.Tuple.Dst.IsValid() {
			what += fmt.Sprintf(" %s -> %s", e.Tuple.Src.Addr(), e.Tuple.Dst)
		}
	}
	if e.Reason != "" {
		what += fmt.Sprintf(" (%s)", e.Reason)
	}
	_, err := fmt.Fprintf(w, "%s %-8s %s -> %s%s\n",
		e.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), e.Kind, e.Master.Src, e.Master.Dst, what)
	return err
}

// Summary is the last line of a replay.
type Summary struct {
	// Packets are the frames of the capture.
	Packets int
	// Sessions are the control connections, Expected and Rejected what their
	// lines announced.
	Sessions, Expected, Rejected uint64
}

// JSON writes s as one line.
func (s Summary) JSON(w io.Writer) error {
	return object(w, struct {
		Event    string `json:"event"`
		Packets  int    `json:"packets"`
		Sessions uint64 `json:"sessions"`
		Expect   uint64 `json:"expect"`
		Reject   uint64 `json:"reject"`
	}{"summary", s.Packets, s.Sessions, s.Expected, s.Rejected})
}

// Text writes s as one line of text.
func (s Summary) Text(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%d packets, %d control connections: %d data connections expected, %d rejected\n",
		s.Packets, s.Sessions, s.Expected, s.Rejected)
	return err
}

func object(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
