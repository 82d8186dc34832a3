package tcp_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"

	"appfw/netns/tcp"
)

// Of the addresses of a name, the first that answers wins (RFC 8305).
func ExampleRace() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			fmt.Fprint(conn, "hello")
			conn.Close()
		}
	}()
	there := netip.MustParseAddrPort(l.Addr().String())
	closed := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), there.Port())
	conn, err := tcp.Race(context.Background(), []netip.AddrPort{closed, there}, tcp.Dial)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	fmt.Println(string(text), err)
	// Output: hello <nil>
}
