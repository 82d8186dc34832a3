package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"appfw/netns"
	"appfw/netns/mmsg"
	"appfw/policy"
	"appfw/proxy/decide"
	"appfw/proxy/journal"
	"appfw/proxy/relay"
)

// Published is a port of the host by which clients come to a port of the app's, as
// an [Intake]. One of TCP and UDP is set. Run closes it. The app sees the clients'
// addresses.
type Published struct {
	Proxy *Proxy
	TCP   net.Listener
	UDP   *net.UDPConn
	Port  uint16 // the app's
	To    Inward
}

// Inward is how the app is reached: over the veth by whoever has an address that
// means something there, and on the app's own loopback by the host's.
type Inward struct{ Veth, Loopback Sockets }

func (in Inward) by(w netns.WayIn) Sockets {
	if w.Loopback {
		return in.Loopback
	}
	return in.Veth
}

// Run implements [Intake].
func (p *Published) Run(ctx context.Context, admit func(Attempt)) error {
	scope := p.Proxy.NewScope()
	defer scope.Wait()
	if p.UDP != nil {
		defer p.UDP.Close()
		defer context.AfterFunc(ctx, func() { p.UDP.Close() })()
		return p.datagrams(ctx, scope, admit)
	}
	defer p.TCP.Close()
	defer context.AfterFunc(ctx, func() { p.TCP.Close() })()
	full := journal.Event{Verdict: short.Verdict, Proto: "tcp", Client: p.TCP.Addr().String()}
	relay.EachConn(ctx, p.TCP, func(conn net.Conn) {
		admit(&client{visit: visit{port: p, scope: scope, from: relay.AddrPort(conn.RemoteAddr())}, conn: conn.(relay.Stream)})
	}, func() { p.Proxy.Log(full) })
	return nil
}

// visit is who comes to a published port.
type visit struct {
	port  *Published
	scope *Scope
	from  netip.AddrPort
}

// facts are those of a flow of the visitor's.
func (v *visit) facts(proto policy.Proto, local net.Addr) Facts {
	at := relay.AddrPort(local)
	return Facts{
		Facts: decide.Facts{Proto: proto, In: true, Src: v.from, Dst: at},
		Scope: v.scope, Subject: Subject{Client: v.from.String()},
	}
}

// client is an attempt: a connection to a published port.
type client struct {
	visit
	conn relay.Stream
}

func (c *client) Facts() Facts { return c.facts(policy.TCP, c.conn.LocalAddr()) }

func (c *client) Accept(context.Context) (Endpoint, error) { return Endpoint{Stream: c.conn}, nil }

// Refuse resets the connection before the app hears of it.
func (c *client) Refuse(error) { relay.Reset(c.conn) }

// Drop implements [Lost].
func (c *client) Drop() { relay.Reset(c.conn) }

// maxInward bounds the clients that the app has not accepted; more are reset.
const maxInward = 1024

var errCrowded = errors.New("too many clients wait already")

// DialTCP implements [Inwards].
func (c *client) DialTCP(ctx context.Context) (relay.Stream, error) {
	waiting := c.port.Proxy.inward
	select {
	case waiting <- struct{}{}:
	default:
		return nil, errCrowded
	}
	defer func() { <-waiting }()
	var err error
	for _, w := range netns.WaysIn(c.from, c.port.Port) {
		conn, failed := c.port.To.by(w).DialTCP(ctx, w.From, w.To)
		if failed == nil {
			return conn, nil
		}
		err = failed
	}
	return nil, err
}

// DialUDP implements [Inwards].
func (c *client) DialUDP() (*net.UDPConn, error) { return nil, errors.ErrUnsupported }

// visitor is an attempt: the datagrams of one client of a published port to one of the
// host's addresses.
type visitor struct {
	visit
	relay.Pushed
	to     string // the host's address, as a control message has it
	denied *decide.Denials
	rules  *policy.Policy // of when it came
}

func (v *visitor) Facts() Facts {
	f := v.facts(policy.UDP, v.port.UDP.LocalAddr())
	f.Key = Key{Proto: policy.UDP, Src: v.from, Text: v.to}
	f.Src = netns.NamedZone(f.Src)
	f.Subject.Client = f.Src.String()
	return f
}

func (v *visitor) Accept(context.Context) (Endpoint, error) { return Endpoint{Datagrams: v}, nil }

// Refuse remembers who is denied, so that it is said once.
func (v *visitor) Refuse(err error) {
	v.Forget()
	if _, ok := errors.AsType[*Denied](err); ok {
		v.denied.Add(v.from.Addr(), v.rules)
	}
}

// DialTCP implements [Inwards].
func (v *visitor) DialTCP(context.Context) (relay.Stream, error) { return nil, errors.ErrUnsupported }

// DialUDP implements [Inwards].
func (v *visitor) DialUDP() (*net.UDPConn, error) {
	w := netns.WaysIn(v.from, v.port.Port)[0]
	return v.port.To.by(w).DialClient(w.To, w.From)
}

// Deliver implements [relay.Sink].
func (v *visitor) Deliver(datagrams [][]byte) (bytes int, err error) {
	control := []byte(v.to)
	return relay.EachWrite(datagrams, func(data []byte) error {
		_, _, err := v.port.UDP.WriteMsgUDPAddrPort(data, control, v.from)
		return err
	})
}

// Unreachable does nothing: the host's sockets send no ICMP errors.
func (v *visitor) Unreachable(netns.Unreachable) {}

// Close does nothing: other flows go by the same socket.
func (v *visitor) Close() error { return nil }

// datagrams takes in those of all clients.
func (p *Published) datagrams(ctx context.Context, scope *Scope, admit func(Attempt)) error {
	in, err := mmsg.NewInbox(p.UDP, mmsg.AnySize, mmsg.ReceiveTo)
	if err != nil {
		return err
	}
	denied := new(decide.Denials)
	touched := make(map[*visitor]struct{})
	for {
		err := in.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // an ICMP error for one of the clients
			continue
		}
		rules := p.Proxy.Policy()
		for i := range in.N {
			data, _ := in.Datagram(i)
			origin := in.Origin(i)
			from := netip.AddrPortFrom(origin.Addr.Addr().Unmap(), origin.Addr.Port())
			v, known := scope.Find(Key{Proto: policy.UDP, Src: from, Text: string(origin.Control)}).(*visitor)
			switch {
			case known:
				v.Push(data)
				touched[v] = struct{}{}
			case !denied.Has(from.Addr(), rules):
				v = &visitor{visit: visit{p, scope, from}, to: string(origin.Control), denied: denied, rules: rules}
				v.Push(data)
				admit(v)
			}
		}
		for v := range touched {
			v.Flush()
		}
		clear(touched)
		in.Release()
	}
}
