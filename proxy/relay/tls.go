package relay

import "appfw/proxy/sniff"

// relayTLS relays what follows the first ClientHello, until no other can be meant:
// one that answers a HelloRetryRequest shows a name, too.
func (r *Relay) relayTLS(s *source, first *sniff.Hello, answer *sniff.ServerHello) error {
	if err := s.pass(first.End()); err != nil {
		return err
	}
	for {
		if err := s.need(sniff.RecordHeader); err != nil {
			return err
		}
		if answer.Final() || s.len() < sniff.RecordHeader {
			return nil
		}
		size, err := sniff.RecordSize(s.buf)
		if err != nil {
			return err
		}
		if err := s.need(size); err != nil {
			return err
		}
		if sniff.IsHello(s.buf) {
			return r.secondHello(s)
		}
		size = min(size, s.len())
		if err := first.Rest.Read(s.buf[:size]); err != nil {
			return err
		}
		if err := s.pass(size); err != nil {
			return err
		}
	}
}

// secondHello judges another ClientHello at the start of s.
func (r *Relay) secondHello(s *source) error {
	var hello sniff.Hello
	for {
		name, state, err := hello.Read(s.buf)
		switch {
		case err != nil:
			return err
		case state == sniff.NeedMore && s.eof:
			return sniff.ErrHello
		case state == sniff.NeedMore:
			if err := s.fill(); err != nil {
				return err
			}
			continue
		case state == sniff.Named:
			if err := r.judge(s, name); err != nil {
				return err
			}
		}
		return s.pass(hello.End())
	}
}
