package main

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/sys/unix"
)

func init() {
	probes["say"] = probeSay
	probes["tls"] = probeTLS
	probes["socket"] = probeSocket
	probes["listen"] = probeListen
}

// probeTime is more than a probe has before it counts as slow.
const probeTime = 2 * time.Second

// pause is what comes apart by.
const pause = 50 * time.Millisecond

// probeSay connects to args[1] by network args[0], says the other args, and prints what is said to it. They are
// strings as in Go, in which @zeros are 1,200 of these, or: @answer to wait for one, @pause for 50 ms, @bytes to send
// every byte by itself from there on, @end to end at once.
func probeSay(args []string) error {
	c, err := net.DialTimeout(args[0], args[1], probeTime)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(probeTime))
	answer, bytewise := make([]byte, 1<<16), false
	for _, text := range args[2:] {
		switch text {
		case "@answer":
			n, err := c.Read(answer)
			if err != nil {
				return err
			}
			fmt.Printf("%q\n", answer[:n])
			continue
		case "@pause":
			time.Sleep(pause)
			continue
		case "@bytes":
			bytewise = true
			continue
		case "@end":
			return nil
		}
		if text, err = strconv.Unquote(`"` + strings.ReplaceAll(text, "@zeros", strings.Repeat(`\x00`, 1200)) + `"`); err != nil {
			return err
		}
		size := len(text)
		if bytewise {
			size = 1
		}
		for part := range slices.Chunk([]byte(text), size) {
			if _, err := c.Write(part); err != nil {
				return err
			}
		}
	}
	if args[0] == "udp" {
		n, err := c.Read(answer)
		fmt.Printf("%q\n", answer[:n])
		return err
	}
	_, err = io.Copy(os.Stdout, c)
	return err
}

// probeTLS connects to args[0] and shows the server name args[1], in the way of args[2].
func probeTLS(args []string) error {
	raw, err := net.DialTimeout("tcp", args[0], probeTime)
	if err != nil {
		return err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(probeTime))
	name := args[1]
	if name, err = strconv.Unquote(`"` + name + `"`); err != nil {
		return err
	}
	how, value, _ := strings.Cut(args[2], "=")
	if how == "after" { // a request
		if value, err = strconv.Unquote(`"` + value + `"`); err != nil {
			return err
		}
		if _, err = io.WriteString(raw, value); err == nil {
			_, err = raw.Read(make([]byte, 1<<16))
		}
		if err != nil {
			return err
		}
	}
	config := &tls.Config{ServerName: name, InsecureSkipVerify: true}
	if how == "ech" { // by a key that no server has, like GREASE: value is the name inside
		config.ServerName, config.InsecureSkipVerify = value, false
		if config.EncryptedClientHelloConfigList, err = echConfigs(name); err != nil {
			return err
		}
	}
	return tls.Client(&helloConn{Conn: raw, how: how, first: name, second: value}, config).Handshake()
}

// helloConn sends a ClientHello, the first thing that is written, in some way.
type helloConn struct {
	net.Conn
	how, first, second string
	sent               bool
}

func (c *helloConn) Write(b []byte) (int, error) {
	if c.sent {
		if c.how == "then" { // as long as the first, and the server notices only in the end
			b = bytes.ReplaceAll(b, []byte(c.first), []byte(c.second))
		}
		return c.Conn.Write(b)
	}
	c.sent = true
	var err error
	write := func(b ...byte) {
		if err == nil {
			_, err = c.Conn.Write(b)
		}
	}
	switch c.how {
	case "records": // of a byte each
		var records []byte
		for _, x := range b[5:] {
			records = append(records, b[0], b[1], b[2], 0, 1, x)
		}
		write(records...)
	case "segments": // of a byte each
		for _, x := range b {
			write(x)
		}
	case "slowly": // in five parts
		for i := range 5 {
			time.Sleep(pause)
			write(b[len(b)*i/5 : len(b)*(i+1)/5]...)
		}
	case "behind": // what is said first
		text, bad := strconv.Unquote(`"` + c.second + `"`)
		write(append([]byte(text), b...)...)
		return len(b), errors.Join(bad, err)
	case "version": // of the record; the one of the message stays
		version, bad := strconv.Atoi(c.second)
		write(append([]byte{b[0], byte(version)}, b[2:]...)...)
		return len(b), errors.Join(bad, err)
	case "later": // after another record
		write(append([]byte("\x14\x03\x03\x00\x01\x01"), b...)...)
	default:
		write(b...)
	}
	return len(b), err
}

// echConfigs is a list (RFC 9849, 4) of one configuration with a public name.
func echConfigs(name string) ([]byte, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	var list cryptobyte.Builder
	list.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16(0xfe0d)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint8(1)     // its ID
			b.AddUint16(0x20) // X25519
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(key.PublicKey().Bytes()) })
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddUint16(1) // HKDF-SHA256
				b.AddUint16(1) // AES-128-GCM
			})
			b.AddUint8(32) // the longest name
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
			b.AddUint16(0) // no extensions
		})
	})
	return list.Bytes()
}

// socketKinds are those that probeSocket can make.
var socketKinds = map[string][2]int{
	"tcp": {unix.SOCK_STREAM, unix.IPPROTO_TCP}, "mptcp": {unix.SOCK_STREAM, unix.IPPROTO_MPTCP},
	"udp": {unix.SOCK_DGRAM, unix.IPPROTO_UDP}, "udplite": {unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE},
	"sctp": {unix.SOCK_STREAM, unix.IPPROTO_SCTP}, "dccp": {unix.SOCK_DCCP, unix.IPPROTO_DCCP},
	"raw": {unix.SOCK_RAW, 253}, // for experiments (RFC 3692)
}

// probeSocket connects a socket of the kind args[0] to args[1] and says something. args[2], if there is one, is an
// address by way of which the packets are to go, or how many bytes are to be said.
func probeSocket(args []string) error {
	kind, to := socketKinds[args[0]], netip.MustParseAddrPort(args[1])
	domain, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())})
	if to.Addr().Is4() {
		domain, address = unix.AF_INET, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	fd, err := unix.Socket(domain, kind[0], kind[1])
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	said := 1
	if len(args) > 2 {
		if via, notAddr := netip.ParseAddr(args[2]); notAddr != nil {
			if said, err = strconv.Atoi(args[2]); err == nil {
				err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
			}
		} else if via.Is4() { // loose source route (RFC 791)
			err = unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, "\x83\x07\x04"+string(via.AsSlice())+"\x00")
		} else { // segment routing header (RFC 8754) with two segments
			header := []byte{0, 4, 4, 1, 1, 0, 0, 0}
			header = append(append(header, make([]byte, 16)...), via.AsSlice()...)
			err = unix.SetsockoptString(fd, unix.SOL_IPV6, unix.IPV6_RTHDR, string(header))
		}
		if err != nil {
			return err
		}
	}
	timeout := unix.NsecToTimeval(probeTime.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout))
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, address); err != nil {
		return err
	}
	if err := unix.Send(fd, make([]byte, said), 0); err != nil {
		return err
	}
	_, _, err = unix.Recvfrom(fd, make([]byte, 1), 0)
	return err
}

// probeListen listens on args[0], and says so and when somebody connects.
func probeListen(args []string) error {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	for fmt.Println("listening"); ; fmt.Println("reached") {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		c.Close()
	}
}
