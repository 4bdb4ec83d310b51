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
		{name: "range", ports: PortRange{Min: 30000, Max: 30999}, text: "30000-30999", inside: []uint16{30000, 30500, 30999}, outside: []uint16{0, 29999, 31000}},
		{name: "one port", ports: PortRange{Min: 21, Max: 21}, text: "21", inside: []uint16{21}, outside: []uint16{20, 22}},
		{name: "all ports", ports: PortRange{Min: 1, Max: 65535}, text: "1-65535", inside: []uint16{1, 65535}, outside: []uint16{0}},
		{name: "none", outside: []uint16{0, 1, 65535}},
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
