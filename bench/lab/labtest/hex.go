package labtest

import (
	"encoding/hex"
	"strings"
	"testing"
)

// ParseHex returns the bytes of a hexadecimal dump, such as one of a kernel message.
// White space may separate bytes, and # begins a comment to the end of the line.
func ParseHex(t testing.TB, dump string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(dump) {
		line, _, _ = strings.Cut(line, "#")
		for field := range strings.FieldsSeq(line) {
			digits.WriteString(field)
		}
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}
