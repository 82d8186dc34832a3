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
	lines := new(sniff.Lines) // for what is no request
	for {
		var opening sniff.Opening
		name, state, err := s.identify(&opening)
		if err != nil {
			return err
		}
		if hello := opening.Hello(); hello != nil {
			if state == sniff.Named {
				if err := r.judge(s, name); err != nil {
					return err
				}
			}
			answer := new(sniff.ServerHello) // stays empty, if it has begun already
			r.follow(answer)
			return r.relayTLS(s, hello, answer)
		}
		switch {
		case state == sniff.Watched:
			return r.watch(s, lines)
		case s.len() == 0 || !isRequest(s.buf):
			return nil
		}
		answers := new(sniff.Responses)
		if !r.follow(answers) {
			answers.Lose()
		}
		switch outcome, err := r.relayHTTP(s, answers); {
		case err != nil, outcome == sniff.SwitchRefused, outcome == sniff.SwitchOpaque:
			return err
		case outcome == sniff.SwitchUnproven:
			lines = &sniff.Lines{HTTP: true}
		case outcome == sniff.SwitchRead:
			lines = new(sniff.Lines)
		}
	}
}

// identify reads what the connection goes on with until that is known.
func (s *source) identify(o *sniff.Opening) (policy.Name, sniff.State, error) {
	for {
		name, state, err := o.Identify(s.buf, s.eof)
		if err != nil || state != sniff.NeedMore {
			return name, state, err
		}
		if err := s.write(o.Pass()); err != nil {
			return "", state, err
		}
		if err := s.fill(); err != nil {
			return "", state, err
		}
	}
}

// watch relays what is no request of HTTP, until no server can find a name in it.
func (r *Relay) watch(s *source, lines *sniff.Lines) error {
	for {
		n, name, state, err := lines.Read(s.buf, s.eof)
		switch {
		case err != nil:
			return err
		case state == sniff.Named:
			if err := r.judge(s, name); err != nil {
				return err
			}
			continue
		}
		if err := s.pass(n); err != nil || state == sniff.Nameless {
			return err
		}
		if err := s.fill(); err != nil {
			return err
		}
	}
}

// isRequest tells whether b starts with the head of an HTTP/1 request, whole.
func isRequest(b []byte) bool {
	r, err := sniff.ReadRequest(b)
	return err == nil && r != nil
}
