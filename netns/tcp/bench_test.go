package tcp

import (
	"net"
	"net/netip"
	"testing"
)

// BenchmarkConnect is of both ends, and of closing them.
func BenchmarkConnect(b *testing.B) {
	at := netip.AddrPortFrom(loopback4, 0)
	b.Run("tcp", func(b *testing.B) {
		l, to := listen(b, at.Addr())
		b.ReportAllocs()
		for b.Loop() {
			c, err := Dial(b.Context(), to)
			if err != nil {
				b.Fatal(err)
			}
			accepted, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			resetBy(c) // leaves no TIME_WAIT
			accepted.Close()
		}
	})
	b.Run("net", func(b *testing.B) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(b.Context(), "tcp", at.String())
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		to := l.Addr().String()
		var d net.Dialer
		b.ReportAllocs()
		for b.Loop() {
			c, err := d.DialContext(b.Context(), "tcp", to)
			if err != nil {
				b.Fatal(err)
			}
			accepted, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			resetBy(c.(conn))
			accepted.Close()
		}
	})
}
