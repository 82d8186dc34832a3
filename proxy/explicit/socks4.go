package explicit

import (
	"context"
	"errors"
	"io"
	"net/netip"

	"github.com/things-go/go-socks5/statute"
)

// Of SOCKS4 (its authors' memo, and the one on 4A).
const (
	socks4Version = 4
	socks4Granted = 90
	socks4Refused = 91
)

// socks4 serves a client of SOCKS4 or 4a. It has a user, but no password.
func (c *client) socks4(ctx context.Context) {
	host, port, user, err := readSOCKS4(c)
	if err != nil {
		return
	}
	if host != "" {
		c.greeted()
	}
	if host == "" || !c.open() {
		_ = c.reply4(socks4Refused)
		return
	}
	c.from.Credentials = user
	c.connectSOCKS(ctx, host, port,
		func() error { return c.reply4(socks4Granted) },
		func(error) { _ = c.reply4(socks4Refused) })
}

func (c *client) reply4(code byte) error {
	_, err := c.Write([]byte{0, code, 0, 0, 0, 0, 0, 0})
	return err
}

// readSOCKS4 reads a request of SOCKS4 or 4a, to its last byte and no further.
// host is empty if it is not for a connection.
func readSOCKS4(r io.Reader) (host string, port uint16, user string, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", 0, "", err
	}
	if user, err = readString(r); err != nil {
		return "", 0, "", err
	}
	addr := netip.AddrFrom4([4]byte(head[4:]))
	host, port = addr.String(), uint16(head[2])<<8|uint16(head[3])
	if [3]byte(head[4:7]) == [3]byte{} && head[7] != 0 { // 4a: a name follows
		if host, err = readString(r); err != nil {
			return "", 0, "", err
		}
	}
	if head[0] != socks4Version || head[1] != statute.CommandConnect {
		return "", 0, "", nil
	}
	return host, port, user, nil
}

var errLongString = errors.New("longer than 255 bytes")

// readString reads up to a zero byte.
func readString(r io.Reader) (string, error) {
	var s []byte
	for len(s) < 256 {
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == 0 {
			return string(s), nil
		}
		s = append(s, b[0])
	}
	return "", errLongString
}
