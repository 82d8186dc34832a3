package relay

import (
	"errors"
	"os"
	"time"

	"appfw/proxy/sniff"
)

var errSwitch = errors.New("the HTTP request asks for another protocol, and it cannot be made out whether the server agrees")

// relayHTTP relays the requests of a connection, of which each is judged before
// any byte of it is passed on. It returns when the server may speak another protocol
// (CONNECT, Upgrade), with what became of the request that asked for it; or at the
// end, with SwitchRefused.
func (r *Relay) relayHTTP(s *source, answers *sniff.Responses) (sniff.Switch, error) {
	for {
		head, err := s.nextRequest()
		if err != nil || head == nil && s.len() == 0 {
			return sniff.SwitchRefused, err
		}
		if head == nil { // the body of a request that does not tell of it, say
			return sniff.SwitchRefused, r.watch(s, &sniff.Lines{HTTP: true})
		}
		if head.State == sniff.Named {
			if err := r.judge(s, head.Host); err != nil {
				return 0, err
			}
		}
		outcome := answers.Expect(head)
		if head.Switches() && outcome == nil {
			return 0, errSwitch
		}
		if err := s.pass(head.Size); err != nil {
			return 0, err
		}
		if err := s.passBody(&head.Body); err != nil {
			return 0, err
		}
		if head.Switches() {
			switch became, err := s.await(outcome); { // nothing of what follows is passed on before
			case err != nil:
				return 0, err
			case became == sniff.SwitchUnknown:
				return 0, errSwitch
			case became != sniff.SwitchRefused:
				return became, nil
			}
		}
	}
}

// await waits for what a server says to a request for another protocol. It
// reads on meanwhile, to hear when the app leaves; at its end, nothing matters.
func (s *source) await(outcome <-chan sniff.Switch) (sniff.Switch, error) {
	s.patient = true
	if err := s.hurry(); err != nil { // before the deadline is another's
		return 0, err
	}
	heard := make(chan sniff.Switch, 1)
	go func() {
		agreed := <-outcome                        // comes when the destination ends, at the latest
		_ = s.app.SetReadDeadline(time.Unix(1, 0)) // ends fill
		heard <- agreed
	}()
	var err error
	for err == nil && !s.eof && s.len() < sniff.MaxHead {
		err = s.fill()
	}
	s.patient = false
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.err = nil
	case err != nil:
		return 0, err
	case s.eof:
		return sniff.SwitchRefused, nil
	}
	agreed := <-heard
	s.err = s.app.SetReadDeadline(time.Time{})
	return agreed, s.err
}

// nextRequest reads the head of the next request; nil if what follows is none, or
// at the end.
func (s *source) nextRequest() (*sniff.Request, error) {
	next := sniff.Opening{Later: true}
	if _, state, err := s.identify(&next); err != nil || state == sniff.Watched {
		return nil, err
	}
	return sniff.ReadRequest(s.buf)
}

// passBody passes on a body as it comes.
func (s *source) passBody(x *sniff.Body) error {
	for {
		n, done, err := x.Read(s.buf)
		if err != nil {
			return err
		}
		if err := s.pass(n); err != nil || done {
			return err
		}
		if m := x.Opaque(); m >= bulk && s.len() == 0 {
			if err := s.passNext(m); err != nil {
				return err
			}
			x.Skip(m)
			continue
		}
		if s.eof {
			return nil // within the body; the server hears of the end, too
		}
		if err := s.fill(); err != nil {
			return err
		}
	}
}
