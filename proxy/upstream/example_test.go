package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"appfw/proxy/upstream"
)

func Example() {
	chain := upstream.New()
	for _, url := range []string{"tor", "https://user:password@proxy.example"} {
		if err := chain.Append(url); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(chain, "by", chain.First())
	fmt.Println(chain.Append("ftp://proxy.example"))
	// Output:
	// tor → https://proxy.example:443 by [127.0.0.1:9050 127.0.0.1:9150]
	// "ftp" is no scheme of an upstream; there are socks5h, socks5, socks4a, http, https and tor
}

func ExampleChain_Dial() {
	chain := upstream.New() // without a proxy it connects to nothing
	conn, err := chain.Dial(context.Background(), "", "example.com", 80, false)
	if err != nil {
		fmt.Println(upstream.Failure(err))
		fmt.Println("the app is told that the network is unreachable:", errors.Is(err, unix.ENETUNREACH))
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
	// Output:
	// the upstream failed: there is none: network is unreachable
	// the app is told that the network is unreachable: true
}
