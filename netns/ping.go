package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns/tcp"
)

// echoTime is how long a reply is waited for.
const echoTime = 10 * time.Second

// ErrNoPing is the error of hosts that keep ping sockets from this user (the sysctl
// net.ipv4.ping_group_range).
var ErrNoPing = errors.New("this host does not let its user send echo requests")

// Ping sends the echo request from the host and waits for its reply, by a socket of
// the host's that can send nothing else (ping sockets, icmp(7)). It returns the
// reply's data, without identifier and sequence number.
func Ping(ctx context.Context, dst netip.Addr, request []byte) ([]byte, error) {
	conn, err := pingSocket(dst)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(echoTime))
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(request); err != nil {
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
		if n >= 8 && answer[6] == request[6] && answer[7] == request[7] {
			return answer[8:n], nil
		}
	}
}

// pingSocket makes a socket for echo requests to an address.
func pingSocket(dst netip.Addr) (net.Conn, error) {
	domain, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if dst.Is6() {
		domain, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err == unix.EACCES || err == unix.EPERM {
		return nil, fmt.Errorf("%w: %w", ErrNoPing, err)
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "ping")
	defer file.Close()
	if err := unix.Connect(fd, tcp.Sockaddr(netip.AddrPortFrom(dst, 0))); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(file)
}
