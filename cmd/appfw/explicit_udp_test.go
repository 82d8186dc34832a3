package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/things-go/go-socks5/statute"
)

func init() {
	probes["associate"] = probeAssociate
}

// probeAssociate has the proxy at args[0] relay datagrams. It reads lines: an
// address to send the line's second word to. It prints what arrives, and from where.
func probeAssociate(args []string) error {
	// command sends a request of SOCKS5, and returns the reply's code and port.
	command := func(c net.Conn, number byte) (code byte, port uint16, err error) {
		if _, err = c.Write([]byte{5, 1, 0, 5, number, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
			return 0, 0, err
		}
		head := make([]byte, 2+4) // the choice of a method, and the reply up to its address
		if _, err = io.ReadFull(c, head); err != nil {
			return 0, 0, err
		}
		rest := make([]byte, net.IPv4len+2)
		if head[5] == statute.ATYPIPv6 {
			rest = make([]byte, net.IPv6len+2)
		}
		_, err = io.ReadFull(c, rest)
		return head[3], binary.BigEndian.Uint16(rest[len(rest)-2:]), err
	}
	bind, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	code, _, err := command(bind, statute.CommandBind)
	if err != nil {
		return err
	}
	fmt.Println("bind", code)
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	code, port, err := command(c, statute.CommandAssociate)
	if err != nil || code != 0 {
		return fmt.Errorf("ASSOCIATE: %d %w", code, err)
	}
	host, _, _ := net.SplitHostPort(args[0])
	u, err := net.Dial("udp", net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		return err
	}
	fmt.Println("associated")
	go func() {
		b := make([]byte, 65535)
		for {
			n, err := u.Read(b)
			if err != nil {
				fmt.Println(err)
				return
			}
			d, err := statute.ParseDatagram(b[:n])
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(d.DstAddr.String(), string(d.Data))
		}
	}()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		to, word, _ := strings.Cut(in.Text(), " ")
		d, err := statute.NewDatagram(to, []byte(word))
		if err != nil {
			return err
		}
		if _, err := u.Write(d.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// Datagrams by UDP ASSOCIATE, which hardly a program knows.
func TestExplicitUDP(t *testing.T) {
	both(t, func(w *world) {
		answer := func(c net.PacketConn, from net.Addr, b []byte) { _, _ = c.WriteTo([]byte("echo-"+string(b)), from) }
		w.example.ServeUDP(7, answer)
		w.other.ServeUDP(7, answer)
		for _, at := range []string{"192.0.0.1:1080", "[fd61:7070:6677::1]:1080"} {
			s := w.session(append([]string{"--allow", "example.com", "--allow", "11.22.0.10/udp", "--allow", "[2a0d:aaaa::10]:7/udp", "--"}, probing("associate", at)...)...)
			s.await(s.out, `^bind 7\nassociated\n`)
			said := s.ask("example.com:7 one")
			if !regexp.MustCompile(`^(11\.22\.0\.10|\[?2a0d:aaaa::10\]?):7 echo-one$`).MatchString(said) {
				t.Errorf("by name: %q", said)
			}
			for _, denied := range []string{"other.example:7", "11.22.0.20:7", "[2a0d:aaaa::20]:7", "192.0.0.1:53", "127.0.0.1:7"} {
				s.tell(denied + " two")
				s.await(s.err, "appfw: denied udp "+regexp.QuoteMeta(denied)+": ")
			}
			// The next that arrives is the answer to the next, so nothing did before.
			if said := s.ask("11.22.0.10:7 three"); said != "11.22.0.10:7 echo-three" {
				t.Errorf("by address: %q", said)
			}
			if said := s.ask("[2a0d:aaaa::10]:7 four"); said != "[2a0d:aaaa::10]:7 echo-four" && said != "2a0d:aaaa::10:7 echo-four" {
				t.Errorf("by address: %q", said)
			}
			if code := s.end(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		}
		w.untouched(w.other)
		if w.Zone().Asked("other.example") {
			t.Error("a denied name was asked for")
		}
	})
}
