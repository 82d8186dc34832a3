package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"appfw/policy"
	"appfw/proxy/relay"
)

// both is the two ends of a connection.
func both() (here, there *net.TCPConn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		panic(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		panic(err)
	}
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

func Example() {
	client, app := both()
	out, server := both()
	var sent, received atomic.Int64
	r := relay.Relay{App: app, Out: out, Sent: &sent, Received: &received}
	r.Judge = func(shown policy.Name) error {
		if shown != "registry.example.org" {
			return errors.New("denied: " + string(shown))
		}
		return nil
	}
	ended := make(chan error)
	go func() { ended <- r.Run(context.Background()) }()

	request := "GET / HTTP/1.1\r\nHost: registry.example.org\r\n\r\n"
	_, _ = io.WriteString(client, request)
	_, _ = io.ReadFull(server, make([]byte, len(request)))
	_, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
	fmt.Println(<-ended)
	fmt.Println("all that passed is the first request:", sent.Load() == int64(len(request)))
	// Output:
	// denied: evil.example
	// all that passed is the first request: true
}
