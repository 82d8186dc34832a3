package sniff_test

import (
	"fmt"

	"appfw/proxy/sniff"
)

func Example() {
	request := []byte("GET / HTTP/1.1\r\nHost: Registry.example.org:80\r\n\r\n")
	for _, b := range [][]byte{request[:5], request[:20], request, []byte("SSH-2.0-OpenSSH\r\n")} {
		var opening sniff.Opening
		name, state, err := opening.Identify(b, false)
		switch {
		case err != nil:
			fmt.Println("refused:", err)
		case state == sniff.NeedMore:
			fmt.Printf("more is needed; of %d bytes, %d may go on\n", len(b), opening.Pass())
		case state == sniff.Named:
			fmt.Println("a connection for", name)
		case state == sniff.Watched:
			fmt.Println("it shows no name, but its lines may")
		case state == sniff.Nameless:
			fmt.Println("it shows no name")
		}
	}
	// Output:
	// more is needed; of 5 bytes, 5 may go on
	// more is needed; of 20 bytes, 0 may go on
	// a connection for registry.example.org
	// it shows no name, but its lines may
}

func ExampleReadRequest() {
	b := []byte("POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1")
	request, err := sniff.ReadRequest(b)
	if err != nil || request == nil {
		fmt.Println(request, err)
		return
	}
	n, done, err := request.Body.Read(b[request.Size:])
	fmt.Println(request.Method, request.Host, n, done, err)
	// Output: POST a.example 5 true <nil>
}

func ExampleQUIC() {
	var flow sniff.QUIC // of one UDP flow
	names, more, err := flow.Read([]byte("\x80\x60 is of RTP, and not of QUIC"))
	fmt.Println(names, more, err, flow.Refusal("no") == nil)
	// Output: [] false <nil> true
}
