package conntrack

import "testing"

func TestPortRange(t *testing.T) {
	tests := []struct {
		name    string
		ports   PortRange
		text    string
		inside  []uint16
		outside []uint16
	}{
		{"range", PortRange{Min: 30000, Max: 30999}, "30000-30999", []uint16{30000, 30500, 30999}, []uint16{0, 29999, 31000}},
		{"one port", PortRange{Min: 21, Max: 21}, "21", []uint16{21}, []uint16{20, 22}},
		{"all ports", PortRange{Min: 1, Max: 65535}, "1-65535", []uint16{1, 65535}, []uint16{0}},
		{"none", PortRange{}, "", nil, []uint16{0, 1, 65535}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.ports.String(); got != tt.text {
				t.Errorf("String: %q, want %q", got, tt.text)
			}
			for _, port := range tt.inside {
				if !tt.ports.Contains(port) {
					t.Errorf("does not contain %d", port)
				}
			}
			for _, port := range tt.outside {
				if tt.ports.Contains(port) {
					t.Errorf("contains %d", port)
				}
			}
		})
	}
}
