package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"appfw/policy"
	"appfw/proxy/conntest"
	"appfw/proxy/decide"
)

// A connection goes on by the name that it is allowed for, for however long it lives, and
// whatever its program asks for meanwhile: a request that shows the name is allowed, and
// another policy that allows the name cuts nothing.
func TestLiving(t *testing.T) {
	for what, meanwhile := range map[string]func(w *world){
		"nothing": func(*world) {},
		"a month": func(w *world) { w.pass(30 * 24 * time.Hour) },
		"many names": func(w *world) {
			for i := range 100_000 { // more than are remembered
				a := netip.AddrFrom4([4]byte{12, byte(i >> 16), byte(i >> 8), byte(i)})
				w.Pins.Give(policy.Name(fmt.Sprintf("n%d.example", i)), nil, []netip.Addr{a}, w.now())
			}
			if _, ok := w.Pins.Find(netip.MustParseAddr("12.0.0.0"), "n0.example", w.now()); ok {
				t.Error("they were not too many")
			}
		},
		"many names on the address": func(w *world) {
			for i := range 10_000 {
				w.Pins.Give(policy.Name(fmt.Sprintf("n%d.example", i)), nil, []netip.Addr{netip.MustParseAddr("11.22.0.10")}, w.now())
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			const lines = "upstream up=http://192.0.2.1:1\nallow a.example via=up\nallow b.example via=up\n"
			w := newWorld(t, lines)
			w.Pins.Living = w.Living
			fake := newFakeUpstream(t)
			w.via("up", fake.URL)
			dst := netip.MustParseAddrPort("11.22.0.10:8443")
			for _, name := range []policy.Name{"a.example", "b.example"} {
				w.Pins.Give(name, nil, []netip.Addr{dst.Addr()}, w.now())
			}
			app, accept := stream(t)
			ended := w.started(t.Context(), newAttempt(t, Facts{Scope: w.NewScope(), Facts: decide.Facts{Proto: policy.TCP, Dst: dst}}, accept))
			fake.answer <- http.StatusOK
			request := func(host string) string { return "POST / HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 0\r\n\r\n" }
			for range 2 {
				for _, host := range []string{"a.example", "b.example"} {
					conntest.Send(t, app, request(host))
					conntest.Receive(t, app, request(host))
				}
				living := map[policy.Name]bool{}
				for a, name := range w.Living {
					if living[name] = true; a != dst.Addr() {
						t.Errorf("it goes to %s", a)
					}
				}
				if !living["a.example"] || !living["b.example"] || len(living) != 2 {
					t.Errorf("it goes to %v", living)
				}
				meanwhile(w)
				w.reload(lines + "deny other.example\n")
			}
			app.Close()
			receive(t, "the end", ended)
			if told := story(w.recorded(), 1); !strings.HasPrefix(told, "allow; ") || strings.Contains(told, "deny") {
				t.Error(told)
			}
			for range w.Living {
				t.Error("it lives after its end")
			}
		})
	}
}
