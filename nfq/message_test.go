package nfq

import (
	"encoding/binary"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMessages holds the messages of this package against hand-written ones, of
// a little-endian host.
func TestMessages(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		t.Skip("the golden messages are of a little-endian host")
	}
	tests := []struct {
		name, got, want string
	}{
		// nlmsghdr; nfgenmsg with the queue number; attribute header; its value.
		{
			"verdict", hex.EncodeToString(appendVerdict(nil, 21, 0x01020304)),
			"20000000" + "0103" + "0100" + "00000000" + "00000000" + "00000015" + "0c000200" + "00000001" + "01020304",
		},
		{
			"verdict on all", hex.EncodeToString(appendVerdictBatch(nil, 21, 0x01020304)),
			"20000000" + "0303" + "0100" + "ffffffff" + "00000000" + "00000015" + "0c000200" + "00000001" + "01020304",
		},
		{
			"unbind", hex.EncodeToString(appendUnbind(nil, 0xfffe)),
			"1c000000" + "0203" + "0100" + "ffffffff" + "00000000" + "0000fffe" + "08000100" + "02000000",
		},
		{
			"bind", hex.EncodeToString(appendCommand(nil, 21, commandBind)),
			"1c000000" + "0203" + "0500" + "ffffffff" + "00000000" + "00000015" + "08000100" + "01000000",
		},
		{
			"config", hex.EncodeToString(appendConfig(nil, 21, 0xfffb, 4096, flagFailOpen)),
			"38000000" + "0203" + "0500" + "ffffffff" + "00000000" + "00000015" +
				"09000200" + "0000fffb02" + "000000" + "08000300" + "00001000" + "08000400" + "00000001" + "08000500" + "00000001",
		},
		{
			"config with the default length and conntrack", hex.EncodeToString(appendConfig(nil, 21, 1500, 0, flagFailOpen|flagConntrack)),
			"30000000" + "0203" + "0500" + "ffffffff" + "00000000" + "00000015" +
				"09000200" + "000005dc02" + "000000" + "08000400" + "00000003" + "08000500" + "00000003",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.got); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}
