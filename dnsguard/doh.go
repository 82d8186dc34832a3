package dnsguard

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"

	"github.com/miekg/dns"
)

// doh is DNS over HTTPS (RFC 8484).
type doh struct {
	url     string
	address string // to connect to, with a port
	client  *http.Client
}

// dohType is the media type of a DNS message (RFC 8484, 6).
const dohType = "application/dns-message"

func newDoH(url, address string, config *tls.Config) *doh {
	dialer := net.Dialer{Timeout: deadline}
	return &doh{url, address, &http.Client{
		Transport: &http.Transport{
			// Without Proxy: the environment is the app's as much as appfw's.
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "tcp", address)
			},
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    deadline,
			ForceAttemptHTTP2:      true,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: patience, PingTimeout: patience},
			DisableCompression:     true,
			MaxConnsPerHost:        maxStreams,
			MaxResponseHeaderBytes: 16 << 10,
			IdleConnTimeout:        idle,
		},
		// A question goes where the user said, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// exchange asks twice if a kept connection turns out to be dead, as net/http
// does only for some of the ways in which that shows.
func (t *doh) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	q.Id = 0 // RFC 8484, 4.1
	pad(q)
	packed, err := q.Pack()
	if err != nil {
		return nil, err
	}
	response, kept, err := t.post(ctx, packed)
	if err != nil && kept && ctx.Err() == nil {
		t.client.CloseIdleConnections()
		response, _, err = t.post(ctx, packed)
	}
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	given := response.Header.Get("Content-Type")
	switch mediaType, _, _ := mime.ParseMediaType(given); {
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("HTTP status %d", response.StatusCode)
	case mediaType != dohType:
		return nil, fmt.Errorf("answered with %.60q, not a DNS message", given)
	}
	packet, err := io.ReadAll(io.LimitReader(response.Body, dns.MaxMsgSize+1))
	switch {
	case err != nil:
		return nil, err
	case len(packet) > dns.MaxMsgSize:
		return nil, errGarbage
	}
	m, err := unpack(packet, q)
	if err != nil {
		return nil, err
	}
	if age, err := strconv.ParseUint(response.Header.Get("Age"), 10, 32); err == nil {
		grow(m, uint32(age))
	}
	return m, nil
}

// post also tells whether the connection was one that had been kept.
func (t *doh) post(ctx context.Context, packed []byte) (response *http.Response, kept bool, err error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) { kept = c.Reused },
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(packed))
	if err != nil {
		return nil, false, err
	}
	request.Header = http.Header{
		"Content-Type": {dohType},
		"Accept":       {dohType},
		"User-Agent":   nil, // nor does net/http send its own then (RFC 8484, 8.2)
	}
	response, err = t.client.Do(request)
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return response, kept, err
}

// grow makes an answer older by seconds (RFC 8484, 5.1).
func grow(m *dns.Msg, seconds uint32) {
	for _, rr := range slices.Concat(m.Answer, m.Ns) {
		h := rr.Header()
		h.Ttl -= min(h.Ttl, seconds)
	}
}
