package socks_test

import (
	"fmt"

	"appfw/proxy/upstream/socks"
)

func Example() {
	datagram := socks.AppendAddress([]byte{0, 0, 0}, "a.example", 53)
	datagram = append(datagram, "question"...)
	to, data, ok := socks.Payload(datagram)
	if !ok {
		fmt.Println("no header")
		return
	}
	host, port := socks.SplitAddress(string(to))
	fmt.Println(host, port, string(data))
	// Output: a.example 53 question
}
