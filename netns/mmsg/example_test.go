package mmsg_test

import (
	"fmt"
	"log"
	"net/netip"

	"appfw/netns/mmsg"
)

// A server that answers each datagram from the address that it was sent to.
func Example() {
	server, err := mmsg.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	in, err := mmsg.NewInbox(server, mmsg.SmallSize, mmsg.ReceiveTo)
	if err != nil {
		log.Fatal(err)
	}
	client, err := mmsg.Dial(netip.MustParseAddrPort(server.LocalAddr().String()))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		log.Fatal(err)
	}

	if err := in.Receive(); err != nil {
		log.Fatal(err)
	}
	for i := range in.N {
		data, whole := in.Datagram(i)
		fmt.Println(string(data), whole)
		in.Reply(i, append(data, " again"...))
	}
	in.Send()
	in.Release()

	b := make([]byte, 100)
	n, err := client.Read(b)
	fmt.Println(string(b[:n]), err)
	// Output:
	// hello true
	// hello again <nil>
}
