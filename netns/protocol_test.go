package netns

import "testing"

func TestProtocolName(t *testing.T) {
	for number, want := range map[uint8]string{2: "igmp", 132: "sctp", 47: "gre", 50: "esp", 33: "dccp", 136: "udplite", 200: "protocol-200"} {
		if got := ProtocolName(number); got != want {
			t.Errorf("%d: %s, not %s", number, got, want)
		}
	}
}
