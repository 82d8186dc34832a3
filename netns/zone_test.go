package netns

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
)

func TestNamedZone(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]string{
		fmt.Sprintf("[fe80::1%%%d]:9", lo.Index): "[fe80::1%lo]:9",
		"[fe80::1%nosuch]:9":                     "[fe80::1%nosuch]:9",
		"192.0.2.1:9":                            "192.0.2.1:9",
	} {
		if got := NamedZone(netip.MustParseAddrPort(from)).String(); got != want {
			t.Errorf("%s: %s, not %s", from, got, want)
		}
	}
}
