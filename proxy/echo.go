package proxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/policy"
)

const (
	maxEchoes = 256 // echo requests on their way; more are lost, as they may be
	echoTime  = 10 * time.Second
)

// echo decides on an echo request and passes it on: by a socket of the host's
// that can send nothing else (ping sockets, icmp(7)).
func (in *intake) echo(p netns.Packet) {
	d := in.decide(in.origin(p), policy.ICMP, p.Dst, nil)
	v := d.verdict
	if chained, _ := in.synthetic(p.Dst.Addr()); v.Allowed() && (v.Via != policy.Direct || chained != "") {
		v = policy.Denial("upstreams carry no ICMP")
	}
	if !v.Allowed() {
		in.refuse(p, v)
		return
	}
	select {
	case in.echoes <- struct{}{}:
	default:
		_ = in.gate.Drop(p)
		return
	}
	in.Log(d.event(v))
	_ = in.gate.Consume(p)
	in.work.Go(func() {
		defer func() { <-in.echoes }()
		answer, err := in.ping(p)
		switch why, ok := unreachable(err); {
		case err == nil:
			_ = in.gate.ReplyEcho(p, answer)
		case errors.Is(err, os.ErrDeadlineExceeded):
		default:
			if ok {
				_ = in.gate.Unreachable(p, why)
			}
			in.unconnected(&d, err)
			if errors.Is(err, errNoPing) {
				in.deny(&d, policy.Denial(errNoPing.Error()+" (appfw doctor says how)"))
			}
			return
		}
		in.ended(&d, v, int64(len(p.Payload)-8), int64(len(answer)))
	})
}

var errNoPing = errors.New("this host does not let its user send echo requests")

// ping sends the echo request from the host and waits for its reply. It returns
// the reply's data, without identifier and sequence number.
func (in *intake) ping(p netns.Packet) ([]byte, error) {
	domain, proto := unix.AF_INET, unix.IPPROTO_ICMP
	var to unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte(p.Dst.Addr().AsSlice()[:4])}
	if p.Dst.Addr().Is6() {
		domain, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		to = &unix.SockaddrInet6{Addr: p.Dst.Addr().As16()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err == unix.EACCES || err == unix.EPERM {
		return nil, fmt.Errorf("%w: %w", errNoPing, err)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, to); err != nil {
		unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "ping")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(echoTime))
	if _, err := conn.Write(p.Payload); err != nil {
		return nil, err
	}
	answer := make([]byte, 65535)
	for {
		n, err := conn.Read(answer)
		if err != nil {
			return nil, err
		}
		// The kernel gives the socket only echo replies of its own; the
		// sequence number tells whose.
		if n >= 8 && answer[6] == p.Payload[6] && answer[7] == p.Payload[7] {
			return answer[8:n], nil
		}
	}
}
