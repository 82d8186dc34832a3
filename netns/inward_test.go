package netns

import (
	"net/netip"
	"reflect"
	"testing"
)

// By which way a client comes to the app.
func TestWaysIn(t *testing.T) {
	at := netip.MustParseAddrPort
	v4, v6 := WayIn{true, at("127.0.0.1:0"), at("127.0.0.1:80")}, WayIn{true, at("[::1]:0"), at("[::1]:80")}
	app4, app6 := netip.AddrPortFrom(App4, 80), netip.AddrPortFrom(App6, 80)
	for client, want := range map[string][]WayIn{
		"127.0.0.1:9":       {v4, v6},
		"127.0.0.9:9":       {v4, v6},
		"[::1]:9":           {v6, v4},
		"192.0.2.1:9":       {{false, at("192.0.2.1:9"), app4}},
		"[2001:db8::1]:9":   {{false, at("[2001:db8::1]:9"), app6}},
		"[fe80::1%lo]:9":    {{false, netip.AddrPortFrom(Gateway6, 0), app6}},
		"[fd00::1]:9":       {{false, at("[fd00::1]:9"), app6}},
		"169.254.1.1:9":     {{false, at("169.254.1.1:9"), app4}},
		"255.255.255.255:9": {{false, at("255.255.255.255:9"), app4}},
	} {
		if got := WaysIn(at(client), 80); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, not %v", client, got, want)
		}
	}
}
