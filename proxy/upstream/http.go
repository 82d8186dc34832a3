package upstream

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxConnectHead bounds the head of the response to a CONNECT.
const maxConnectHead = 16 << 10

// connectHTTP is CONNECT of HTTP/1.1 (RFC 9110, 9.3.6).
func connectHTTP(ctx context.Context, conn net.Conn, target string, user *url.Userinfo) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	head := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if user != nil {
		password, _ := user.Password()
		head += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return err
	}
	// Byte for byte: what follows the head is the destination's.
	var answer []byte
	for !bytes.HasSuffix(answer, []byte("\r\n\r\n")) {
		var b [1]byte
		if len(answer) > maxConnectHead {
			return errors.New("the head of its response does not end")
		}
		if _, err := io.ReadFull(conn, b[:]); err == io.EOF && len(answer) == 0 {
			return errors.New("it hangs up without an answer; is it an HTTP proxy?")
		} else if err != nil {
			return err
		}
		answer = append(answer, b[0])
	}
	line, _, _ := strings.Cut(string(answer), "\r\n")
	version, rest, _ := strings.Cut(line, " ")
	status, _, _ := strings.Cut(rest, " ")
	if _, err := strconv.ParseUint(status, 10, 16); err != nil || !strings.HasPrefix(version, "HTTP/1.") || len(status) != 3 {
		return errors.New("it is no HTTP proxy")
	}
	switch {
	case status[0] == '2':
		return nil
	case status == "407", status == "401":
		return &chainError{errno: unix.EACCES, err: errCredentials(user != nil), own: true}
	case status == "400", status == "403", status == "405":
		return &chainError{errno: unix.EACCES, err: fmt.Errorf("it answers %q", status)}
	}
	return &chainError{errno: unix.EHOSTUNREACH, err: fmt.Errorf("it answers %q", status)}
}
