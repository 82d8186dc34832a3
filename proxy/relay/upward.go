package relay

import (
	"appfw/policy"
	"appfw/proxy/sniff"
)

// upward relays from the app. Nothing is passed on before it was judged. verdict
// tells that an error is of what the app said, and not of a connection.
func (r *Relay) upward() (verdict bool, err error) {
	s := &source{app: r.App, out: r.Out, buf: r.Early, count: r.Sent, held: held{of: r.Held}}
	r.Early = nil
	if r.Judge == nil {
		if err := s.pass(s.len()); err != nil {
			return false, err
		}
		return false, forward(r.Out, r.App, r.Sent)
	}
	err = r.identify(s)
	if err == nil {
		err = s.pass(s.len())
	}
	if failed := s.end(); err == nil && failed != nil {
		return false, failed
	}
	switch {
	case err == nil && s.eof:
		return false, endOf(r.Out)
	case err == nil:
		return false, forward(r.Out, r.App, r.Sent)
	case s.denied:
		return true, err
	case s.err != nil:
		return false, err
	}
	return true, &Unreadable{err}
}

// judge has a name judged that s shows.
func (r *Relay) judge(s *source, shown policy.Name) error {
	err := r.Judge(shown)
	s.denied = err != nil
	return err
}

// identify relays while the connection may show names, and judges them.
func (r *Relay) identify(s *source) error {
	for {
		var hello sniff.Hello
		name, state, err := hello.Identify(s.buf, s.eof)
		for ; err == nil && state == sniff.NeedMore && !(s.eof && s.len() == 0); name, state, err = hello.Identify(s.buf, s.eof) {
			if !sniff.Holds(s.buf) {
				if err := s.show(); err != nil {
					return err
				}
			}
			if err := s.fill(); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		tls := hello.End() > 0
		if state == sniff.Named && tls {
			if err := r.judge(s, name); err != nil {
				return err
			}
		}
		switch {
		case tls:
			answer := new(sniff.ServerHello) // stays empty, if it has begun already
			r.follow(answer)
			return r.relayTLS(s, hello.End(), answer)
		case s.len() == 0 || !isRequest(s.buf):
			return nil
		}
		answers := new(sniff.Responses)
		if !r.follow(answers) {
			answers.Lose()
		}
		last, err := r.relayHTTP(s, answers)
		if last == nil || err != nil {
			return err
		}
		if last.Method != "CONNECT" {
			if shows, err := showsNames(s); !shows || err != nil {
				return err
			}
		}
	}
}

// isRequest tells whether b starts with the head of an HTTP/1 request, whole.
func isRequest(b []byte) bool {
	r, err := sniff.ReadRequest(b)
	return err == nil && r != nil
}

// showsNames tells whether a connection that was upgraded shows names again.
func showsNames(s *source) (bool, error) {
	for {
		if shows, known := sniff.Upgraded(s.buf, s.eof); known {
			return shows, nil
		}
		if err := s.fill(); err != nil {
			return false, err
		}
	}
}
