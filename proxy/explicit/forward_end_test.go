package explicit

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"appfw/dnsguard"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/journal"
)

// elsewhere are routes by which all is elsewhere.
type elsewhere struct{}

func (elsewhere) Kind(netip.Addr) route.Kind { return route.Unicast }

func (elsewhere) Known(netip.Addr) route.Kind { return route.Unicast }

// The connection to the server of a forwarded request is done when the client has left,
// and stopped when appfw ends before.
func TestForwardEnds(t *testing.T) {
	for _, want := range []journal.End{journal.Done, journal.Stopped} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			defer server.Close()
			lines, err := policy.ReadLines("p", strings.NewReader("allow 127.0.0.1"))
			if err != nil {
				t.Fatal(err)
			}
			rules, err := policy.Compile(policy.Config{Lines: lines})
			if err != nil {
				t.Fatal(err)
			}
			events := make(chan journal.Event, 10)
			p := proxy.New(proxy.Config{
				Policy: func() *policy.Policy { return rules }, Pins: new(dnsguard.Pins), Routes: elsewhere{},
				Log: func(e journal.Event) { events <- e },
			})
			s := New(Config{Proxy: p})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{}, 2)
			go func() { s.Run(ctx); ended <- struct{}{} }()
			go func() { s.ServeListener(ctx, l); ended <- struct{}{} }()
			transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: l.Addr().String()})}
			resp, err := (&http.Client{Transport: transport}).Get(server.URL)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp, err)
			}
			resp.Body.Close()
			if want == journal.Done {
				transport.CloseIdleConnections()
			} else {
				cancel()
			}
			for {
				select {
				case e := <-events:
					if !e.Closed {
						continue
					}
					if e.End != want {
						t.Errorf("it ended as %s, not %s", e.End, want)
					}
				case <-time.After(20 * time.Second):
					t.Error("it does not end")
				}
				break
			}
			transport.CloseIdleConnections()
			cancel()
			l.Close()
			<-ended
			<-ended
		})
	}
}
