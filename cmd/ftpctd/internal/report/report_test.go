package report

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ftpctd/conntrack"
	"ftpctd/ftpparse"
)

func TestEvent(t *testing.T) {
	at := time.Date(2026, 11, 22, 13, 4, 5, 600700, time.FixedZone("", 3600))
	v4 := conntrack.Tuple{Src: netip.MustParseAddrPort("192.0.2.10:40000"), Dst: netip.MustParseAddrPort("198.51.100.20:21")}
	v6 := conntrack.Tuple{Src: netip.MustParseAddrPort("[2001:db8::1]:40000"), Dst: netip.MustParseAddrPort("[2001:db8::2]:21")}
	tests := []struct {
		name       string
		event      conntrack.Event
		json, text string
	}{
		{
			"open",
			conntrack.Event{Time: at, Kind: conntrack.EventOpen, Master: v6},
			`{"time":"2026-11-22T12:04:05.0006007Z","event":"open","client":"[2001:db8::1]:40000","server":"[2001:db8::2]:21"}`,
			`2026-11-22T12:04:05.000600Z open     [2001:db8::1]:40000 -> [2001:db8::2]:21`,
		},
		{
			"open, picked up",
			conntrack.Event{Time: at, Kind: conntrack.EventOpen, Master: v4, Reason: ftpparse.PickedUp},
			`{"time":"2026-11-22T12:04:05.0006007Z","event":"open","client":"192.0.2.10:40000","server":"198.51.100.20:21","reason":"picked-up"}`,
			`2026-11-22T12:04:05.000600Z open     192.0.2.10:40000 -> 198.51.100.20:21 (picked-up)`,
		},
		{
			"expect, passive",
			conntrack.Event{Time: at, Kind: conntrack.EventExpect, Master: v4, Via: ftpparse.R227, Tuple: conntrack.Tuple{
				Src: netip.MustParseAddrPort("192.0.2.10:0"), Dst: netip.MustParseAddrPort("198.51.100.20:31240"),
			}},
			`{"time":"2026-11-22T12:04:05.0006007Z","event":"expect","client":"192.0.2.10:40000","server":"198.51.100.20:21","via":"227","mode":"passive","src":"192.0.2.10","dst":"198.51.100.20","dport":31240}`,
			`2026-11-22T12:04:05.000600Z expect   192.0.2.10:40000 -> 198.51.100.20:21 227 passive 192.0.2.10 -> 198.51.100.20:31240`,
		},
		{
			"reject what could not be read",
			conntrack.Event{Time: at, Kind: conntrack.EventReject, Master: v4, Via: ftpparse.PORT, Reason: ftpparse.Malformed, Tuple: conntrack.Tuple{
				Src: netip.MustParseAddrPort("198.51.100.20:0"),
			}},
			`{"time":"2026-11-22T12:04:05.0006007Z","event":"reject","client":"192.0.2.10:40000","server":"198.51.100.20:21","via":"PORT","mode":"active","src":"198.51.100.20","reason":"malformed"}`,
			`2026-11-22T12:04:05.000600Z reject   192.0.2.10:40000 -> 198.51.100.20:21 PORT active (malformed)`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, form := range []struct {
				want  string
				write func(*strings.Builder) error
			}{
				{tt.json, func(b *strings.Builder) error { return JSON(b, &tt.event) }},
				{tt.text, func(b *strings.Builder) error { return Text(b, &tt.event) }},
			} {
				var b strings.Builder
				if err := form.write(&b); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(form.want+"\n", b.String()); diff != "" {
					t.Errorf("line (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestSummary(t *testing.T) {
	s := Summary{Packets: 95, Sessions: 1, Expected: 4, Rejected: 2}
	var b strings.Builder
	if err := s.JSON(&b); err != nil {
		t.Fatal(err)
	}
	if err := s.Text(&b); err != nil {
		t.Fatal(err)
	}
	want := `{"event":"summary","packets":95,"sessions":1,"expect":4,"reject":2}` + "\n" +
		"95 packets, 1 control connections: 4 data connections expected, 2 rejected\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}
