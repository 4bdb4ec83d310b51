package bench

import (
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// readCapture returns the IP packets of a pcap file of Ethernet frames.
func readCapture(b *testing.B, path string) [][]byte {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		b.Fatal(err)
	}
	if r.LinkType() != layers.LinkTypeEthernet {
		b.Fatalf("%s: link type %v", path, r.LinkType())
	}
	var packets [][]byte
	for {
		frame, _, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return packets
		}
		if err != nil {
			b.Fatal(err)
		}
		const ethernetHeader = 14
		packets = append(packets, slices.Clone(frame[ethernetHeader:]))
	}
}
