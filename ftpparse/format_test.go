package ftpparse

import (
	"net/netip"
	"testing"
)

func TestAppendEndpoint(t *testing.T) {
	tests := []struct {
		name     string
		via      Via
		endpoint netip.AddrPort
		want     string
	}{
		{name: "PORT", via: PORT, endpoint: ep("192.0.2.10:5000"), want: "192,0,2,10,19,136"},
		{name: "PORT, mapped address", via: PORT, endpoint: ep("[::ffff:192.0.2.10]:5000"), want: "192,0,2,10,19,136"},
		{name: "EPRT, IPv4", via: EPRT, endpoint: ep("192.0.2.10:5000"), want: "|1|192.0.2.10|5000|"},
		{name: "EPRT, IPv6", via: EPRT, endpoint: ep("[2001:db8::1]:5000"), want: "|2|2001:db8::1|5000|"},
		{name: "EPRT, zone", via: EPRT, endpoint: ep("[fe80::1%eth0]:5000"), want: "|2|fe80::1|5000|"},
		{name: "LPRT, IPv4", via: LPRT, endpoint: ep("192.0.2.10:5000"), want: "4,4,192,0,2,10,2,19,136"},
		{name: "LPRT, IPv6", via: LPRT, endpoint: ep("[2001:db8::1]:5000"), want: "6,16,32,1,13,184,0,0,0,0,0,0,0,0,0,0,0,1,2,19,136"},
		{name: "227", via: R227, endpoint: ep("192.0.2.10:5000"), want: "192,0,2,10,19,136"},
		{name: "228", via: R228, endpoint: ep("192.0.2.10:5000"), want: "4,4,192,0,2,10,2,19,136"},
		{name: "229", via: R229, endpoint: port(5000), want: "|||5000|"},
		{name: "229, with address", via: R229, endpoint: ep("[2001:db8::1]:5000"), want: "|2|2001:db8::1|5000|"},
		{name: "default port", via: DefaultPort, endpoint: ep("192.0.2.10:5000"), want: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			buf := make([]byte, 0, 128)
			var got []byte
			if n := testing.AllocsPerRun(10, func() { got = tt.via.AppendEndpoint(buf, tt.endpoint) }); n != 0 {
				t.Errorf("%v allocations, want 0", n)
			}
			if string(got) != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// FuzzAppendEndpoint demands that an endpoint is read back as it was written.
func FuzzAppendEndpoint(f *testing.F) {
	f.Add(uint8(PORT), []byte{192, 0, 2, 10}, uint16(5000))
	f.Add(uint8(EPRT), []byte{0x20, 1, 0xd, 0xb8, 15: 1}, uint16(5000))
	f.Add(uint8(LPRT), []byte{0x20, 1, 0xd, 0xb8, 15: 1}, uint16(65535))
	f.Add(uint8(R227), []byte{10: 255, 11: 255, 15: 1}, uint16(1))
	f.Add(uint8(R229), []byte{}, uint16(5000))
	f.Fuzz(func(t *testing.T, kind uint8, raw []byte, port uint16) {
		via := Via(kind)
		before, after := via.String()+" ", ""
		addr, ok := netip.AddrFromSlice(raw)
		addr = addr.Unmap()
		if via == R227 || via == R228 || via == R229 {
			before, after = before+"ok (", ")"
		}
		switch {
		case via == ViaNone || via >= DefaultPort || port == 0: // not an endpoint
			return
		case via == PORT || via == R227:
			ok = addr.Is4()
		case via == R229 && len(raw) == 0:
			ok = true
		}
		if !ok {
			return
		}
		want := netip.AddrPortFrom(addr, port)
		line := append(via.AppendEndpoint([]byte(before), want), after...)
		if got, why := via.Endpoint(line); got != want || why != "" {
			t.Fatalf("%q is read as %v (%q), want %v", line, got, why, want)
		}
	})
}
