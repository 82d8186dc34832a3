package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"appfw/policy"
	"appfw/proxy/message"
)

// basic is the value of Proxy-Authorization (RFC 7617); "" without a user.
func basic(user *url.Userinfo) string {
	if user == nil {
		return ""
	}
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}

// connectHTTP is CONNECT of HTTP/1.1 (RFC 9110, 9.3.6). answers tells whether the proxy
// answers anything, and is asked if this is not answered soon.
func connectHTTP(ctx context.Context, conn net.Conn, target string, user *url.Userinfo, answers func(context.Context) error) error {
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	heard, silent := watchSilence(ctx, conn, answers)
	defer heard()
	head := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if b := basic(user); b != "" {
		head += "Proxy-Authorization: " + b + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return err
	}
	for informational := 0; ; informational++ {
		r, err := readAnswer(conn, heard)
		switch {
		case silent.Load() && ctx.Err() == nil:
			return errSilentHTTP
		case err == message.ErrHead:
			return errNoHTTP
		case err != nil:
			return err
		case r.Status/100 == 1 && informational < maxInformational: // the final one follows (RFC 9110, 15.2)
			continue
		case r.Status/100 == 2:
			return nil
		}
		return refusal(r, user != nil)
	}
}

// maxInformational bounds the responses before the final one.
const maxInformational = 16

var (
	errNoHTTP  = errors.New("it is no HTTP proxy")
	errHungUp  = errors.New("it hangs up without an answer; is it an HTTP proxy?")
	errEndless = errors.New("the head of its response does not end")
)

// maxAnswer bounds the head of the response to a CONNECT.
const maxAnswer = 16 << 10

// readAnswer reads the head of a response byte for byte: what follows it is the
// destination's. What cannot become a head is an error at once.
func readAnswer(conn net.Conn, heard func()) (*message.Response, error) {
	var answer []byte
	for len(answer) <= maxAnswer {
		var b [1]byte
		if _, err := io.ReadFull(conn, b[:]); err == io.EOF && len(answer) == 0 {
			return nil, errHungUp
		} else if err == io.EOF && !startsHTTP(answer) {
			return nil, errNoHTTP
		} else if err != nil {
			return nil, err
		}
		heard()
		if answer = append(answer, b[0]); !startsHTTP(answer) {
			return nil, errNoHTTP
		}
		if r, err := message.ReadResponse(answer, "CONNECT"); r != nil || err != nil {
			return r, err
		}
	}
	return nil, errEndless
}

// startsHTTP tells whether b is, or may become, a response.
func startsHTTP(b []byte) bool {
	const start = "HTTP/1."
	n := min(len(b), len(start))
	return string(b[:n]) == start[:n]
}

// watchSilence ends what reads from conn, if that hears nothing and the proxy answers
// nobody. heard ends the watch; silent tells that it was so.
func watchSilence(ctx context.Context, conn net.Conn, answers func(context.Context) error) (heard func(), silent *atomic.Bool) {
	silent = new(atomic.Bool)
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(silence, func() {
		if answers(ctx) != nil && ctx.Err() == nil {
			silent.Store(true)
			_ = conn.SetDeadline(time.Unix(1, 0))
		}
	})
	return func() {
		late.Stop()
		cancel()
	}, silent
}

// refusal is what the response of a proxy that is no success means.
func refusal(r *message.Response, given bool) *chainError {
	said := fmt.Errorf("it answers %q", fmt.Sprint(r.Status))
	switch {
	case r.Status == 407, r.Status == 401:
		return &chainError{errno: unix.EACCES, err: errScheme(r, given), own: true}
	case r.Status == 400, r.Status == 403, r.Status == 405, r.Status == 501:
		return &chainError{errno: unix.EACCES, err: said, noTunnel: true}
	case r.Status/100 == 3:
		to := "nowhere"
		if at := r.Values("Location"); len(at) > 0 {
			to = policy.Printable(at[0], 100)
		}
		return &chainError{errno: unix.EACCES, err: fmt.Errorf("it answers %q, and sends elsewhere, to %s; it may want a login there", fmt.Sprint(r.Status), to), own: true}
	case r.Status == 429:
		return &chainError{errno: unix.EHOSTUNREACH, err: errors.New(`it answers "429": it has been asked too often, and wants to be asked later`), own: true}
	}
	return &chainError{errno: unix.EHOSTUNREACH, err: said}
}

// errScheme says that a proxy refuses who asks, and by which schemes it knows others
// (RFC 9110, 11.7.1).
func errScheme(r *message.Response, given bool) error {
	var schemes []string
	for _, challenge := range append(r.Values("Proxy-Authenticate"), r.Values("WWW-Authenticate")...) {
		for part := range strings.SplitSeq(challenge, ",") {
			scheme, _, _ := strings.Cut(strings.TrimSpace(part), " ")
			switch {
			case strings.EqualFold(scheme, "Basic"):
				return errCredentials(given)
			case scheme != "" && !strings.Contains(scheme, "="):
				schemes = append(schemes, policy.Printable(scheme, 20))
			}
		}
	}
	if len(schemes) == 0 {
		return errCredentials(given)
	}
	return fmt.Errorf("it knows users by %s alone, and not by Basic, which is what appfw speaks", strings.Join(schemes[:min(len(schemes), 4)], " or "))
}
