package explicit_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"appfw/dnsguard"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/explicit"
)

// A proxy for programs that are told of it: http_proxy=http://ADDRESS.
func Example() {
	lines, err := policy.ReadLines("policy", strings.NewReader("allow 127.0.0.1"))
	if err != nil {
		log.Fatal(err)
	}
	rules, err := policy.Compile(policy.Config{Lines: lines})
	if err != nil {
		log.Fatal(err)
	}
	current, pins := func() *policy.Policy { return rules }, new(dnsguard.Pins)
	routes := route.New()
	defer routes.Close()
	p := proxy.New(proxy.Config{
		Policy: current, Pins: pins, Routes: routes,
		Guard: dnsguard.New(dnsguard.Config{Policy: current, Pins: pins}),
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	s := explicit.New(explicit.Config{Proxy: p})
	go s.Run(ctx)
	go s.ServeListener(ctx, listener)

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "hello")
	}))
	defer server.Close()
	at := &url.URL{Scheme: "http", Host: listener.Addr().String()}
	client := http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(at)}}
	defer client.CloseIdleConnections()
	for _, u := range []string{server.URL, "http://example.com"} {
		response, err := client.Get(u)
		if err != nil {
			log.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		fmt.Printf("%d %s", response.StatusCode, body)
	}
	// Output:
	// 200 hello
	// 403 appfw: denied tcp example.com:80: no rule allows it
}
