package netns_test

import (
	"encoding/hex"
	"fmt"
	"log"
	"net"

	"appfw/netns"
)

// It needs the right to make namespaces.
func ExampleNamespace_Do() {
	_ = func() net.Listener {
		gateway, err := netns.New()
		if err != nil {
			log.Fatal(err)
		}
		var l net.Listener
		err = gateway.Do(func() error {
			l, err = net.Listen("tcp4", "0.0.0.0:53") // an IP literal: no resolver runs here
			return err
		})
		if err != nil {
			log.Fatal(err)
		}
		return l
	}
}

func ExampleParsePacket() {
	packet, _ := hex.DecodeString("45000021000040004011000001020304c0000207" + "9c400035000d0000" + "68656c6c6f")
	p, err := netns.ParsePacket(packet)
	fmt.Println(p.Src, p.Dst, string(p.Payload), err)
	_, err = netns.ParsePacket(packet[:19])
	fmt.Println(err)
	// Output:
	// 1.2.3.4:40000 192.0.2.7:53 hello <nil>
	// truncated packet
}
