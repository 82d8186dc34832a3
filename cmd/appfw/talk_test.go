package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	probes["talk"] = probeTalk
}

// probeTalk does what it is told line by line, and answers each by a line:
//
//	open ID tcp|udp|tls ADDRESS [NAME]   connects; NAME is shown in TLS
//	say ID WORD                          sends a line, and waits for one
//	get ID HOST                          sends an HTTP request, and waits for the answer
//	hear ID                              waits for whatever comes
func probeTalk([]string) error {
	type conn struct {
		net.Conn
		*bufio.Reader
	}
	conns := make(map[string]conn)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var said string
		words := strings.Fields(in.Text())
		c := conns[words[1]]
		if c.Conn != nil {
			_ = c.SetDeadline(time.Now().Add(patience))
		}
		err := func() (err error) {
			switch words[0] {
			case "open":
				network, tlsName := words[2], ""
				if network == "tls" {
					network, tlsName = "tcp", words[4]
				}
				if c.Conn, err = net.DialTimeout(network, words[3], patience/2); err != nil {
					return err
				}
				if tlsName != "" {
					secured := tls.Client(c.Conn, &tls.Config{ServerName: tlsName})
					c.Conn = secured
					if err := secured.Handshake(); err != nil {
						return err
					}
				}
				c.Reader = bufio.NewReader(c.Conn)
				conns[words[1]] = c
				said = "open"
			case "say":
				if _, err := fmt.Fprintln(c.Conn, words[2]); err != nil {
					return err
				}
				said, err = c.ReadString('\n')
			case "get":
				if _, err := fmt.Fprintf(c.Conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", words[2]); err != nil {
					return err
				}
				response, err := http.ReadResponse(c.Reader, nil)
				if err != nil {
					return err
				}
				b, err := io.ReadAll(response.Body)
				said = string(b)
				return err
			case "hear":
				said, err = c.ReadString('\n')
			}
			return err
		}()
		for _, known := range []unix.Errno{unix.ECONNRESET, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.EACCES} {
			if errors.Is(err, known) {
				err = errors.New(unix.ErrnoName(known))
			}
		}
		if err != nil {
			said = err.Error()
		}
		fmt.Println(strings.TrimSpace(said))
	}
	return nil
}

// echo answers what it hears.
func echo(c net.Conn) { _, _ = io.Copy(c, c) }
