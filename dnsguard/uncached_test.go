package dnsguard

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// BenchmarkUncached asks a resolver on the loopback for a new name each time, 100 at
// a time.
func BenchmarkUncached(b *testing.B) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadBuffer(4 << 20)
	go answerAll(conn)
	f := newFixture(b, nil, "allow *.ok.x", "dns-budget 100000000")
	up := &Resolvers{Servers: []*Server{plainServer(conn.LocalAddr().(*net.UDPAddr).AddrPort())}}
	f.Guard.Upstream, f.Guard.Now = up, time.Now
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(50)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			packet, _ := query(fmt.Sprintf("n%d.ok.x.", n.Add(1)), "A").Pack()
			if answer := f.AnswerPacket(context.Background(), packet); answer[3]&15 != dns.RcodeSuccess {
				b.Errorf("%x", answer)
			}
		}
	})
}

// answerAll answers each question with an address.
func answerAll(conn *net.UDPConn) {
	b := make([]byte, 4096)
	for i := 0; ; i++ {
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		q, _ := readPlain(b[:n], make([]byte, 256))
		answer := append([]byte(nil), b[:q.end]...)
		answer[2], answer[3], answer[7], answer[11] = 0x81, 0x80, 1, 0
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 11, byte(i>>16), byte(i>>8), byte(i))
		_, _ = conn.WriteToUDPAddrPort(answer, from)
	}
}
