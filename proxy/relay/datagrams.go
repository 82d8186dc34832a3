package relay

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns"
	"appfw/netns/mmsg"
	"appfw/policy"
	"appfw/proxy/sniff"
)

const (
	// maxHeld bounds the bytes of datagrams that wait for the rest of a ClientHello,
	// and maxWaiting their number: servers take 16 KiB at most.
	maxHeld    = 64 << 10
	maxWaiting = 64
	// A flow without an answer ends after shortIdle, any other after longIdle
	// (RFC 4787, REQ-5: not less than two minutes).
	shortIdle = 30 * time.Second
	longIdle  = 180 * time.Second
)

// ErrIdle is how a flow of datagrams ends that nothing was sent in for long.
var ErrIdle = errors.New("nothing was sent any more")

// Sink is the app's side of a flow of datagrams.
type Sink interface {
	// Deliver hands over datagrams of the destination's, and returns the payload bytes
	// of those that were taken.
	Deliver(datagrams [][]byte) (bytes int, err error)
	// Unreachable says that the destination cannot be reached, or not any more.
	Unreachable(netns.Unreachable)
	// Open says that what the app sends goes to d from here on.
	Open(d *Datagrams)
	Close() error
}

// Wrapping is how datagrams go by a proxy.
type Wrapping interface {
	Receive(datagram []byte) ([]byte, bool) // what one brings from the destination; false if nothing
	Close()
}

// Datagrams relays the datagrams of one flow. Make it with NewDatagrams. Of the
// methods by which the app sends, one is called at a time.
type Datagrams struct {
	in     Sink
	out    *net.UDPConn
	by     Wrapping // nil: directly
	header []byte   // before each datagram that is sent; nil: none
	outbox *mmsg.Outbox

	judge          func(policy.Name) error // nil: names are not looked at
	sent, received *atomic.Int64
	now            func() time.Time
	used           atomic.Int64 // Unix nanoseconds of the last datagram

	hellos sniff.QUIC // that the app sent
	held   [][]byte   // datagrams that wait for the rest of a ClientHello
	holds  int        // their bytes

	holding sync.Mutex // guards budget and over
	budget  held
	over    bool // nothing more is held

	ending sync.Once
	err    error // why it ended; set by ending
}

// Config is what Datagrams are made of. What does not say what nil means is needed.
type Config struct {
	In  Sink
	Out *net.UDPConn // to the destination, or to the proxy of By
	By  Wrapping     // nil: they go as they are
	// Header goes before each datagram that is sent. Nil: nothing does.
	Header []byte
	// Judge is asked for each name that a QUIC connection shows, before a datagram
	// of it passes. Its error ends the flow. Nil: the flow is not looked at.
	Judge func(policy.Name) error
	// Held bounds what is held of flows that are not judged. Nil: nothing does.
	Held           *Budget
	Sent, Received *atomic.Int64 // payload bytes, as the app sees it
	Now            func() time.Time
}

// NewDatagrams makes Datagrams, which own In, Out and By from then on; after an error,
// too: then they are closed.
func NewDatagrams(c Config) (*Datagrams, error) {
	d := &Datagrams{in: c.In, out: c.Out, by: c.By, header: c.Header, judge: c.Judge, budget: held{of: c.Held}, sent: c.Sent, received: c.Received, now: c.Now}
	d.used.Store(d.now().UnixNano())
	var err error
	if d.outbox, err = mmsg.NewOutbox(c.Out); err != nil {
		d.end(err)
		return nil, err
	}
	return d, nil
}

// In is the app's side.
func (d *Datagrams) In() Sink { return d.in }

// Used is when a datagram was relayed last, in Unix nanoseconds.
func (d *Datagrams) Used() int64 { return d.used.Load() }

// Run relays to the app until the flow ends, or ctx, and returns why: ErrIdle, the
// error of Judge, an *Unreadable, the cause of ctx, or an error of a socket. With
// ErrAbort, the app is told that the flow is denied.
func (d *Datagrams) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { d.end(context.Cause(ctx)) })()
	d.in.Open(d)
	d.end(d.downward())
	return d.err
}

// end closes all sockets. The first error is what the flow ended of.
func (d *Datagrams) end(err error) {
	d.ending.Do(func() {
		d.err = err
		d.holding.Lock()
		_ = d.budget.hold(0)
		d.over = true
		d.holding.Unlock()
		if errors.Is(err, ErrAbort) {
			d.in.Unreachable(netns.Prohibited)
		}
		d.in.Close()
		d.out.Close()
		if d.by != nil {
			d.by.Close()
		}
	})
}

// receive waits for datagrams at one of the sockets; at the end of an idle flow it is
// ErrIdle.
func (d *Datagrams) receive(in *mmsg.Inbox) error {
	for {
		_ = in.Conn().SetReadDeadline(d.idleEnd())
		err := in.Receive()
		now := d.now()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && now.Before(d.idleEnd()):
			continue // used by the other direction
		case errors.Is(err, os.ErrDeadlineExceeded):
			return ErrIdle
		case errors.Is(err, unix.EMSGSIZE):
			continue // of what was sent: now the kernel knows how much the path takes
		case err == nil:
			d.used.Store(now.UnixNano())
		}
		return err
	}
}

// idleEnd is when the flow ends if nothing more is sent.
func (d *Datagrams) idleEnd() time.Time {
	idle := shortIdle
	if d.received.Load() > 0 {
		idle = longIdle
	}
	return time.Unix(0, d.used.Load()).Add(idle)
}

// Upward relays what comes to a socket of the app's until the flow ends.
func (d *Datagrams) Upward(in *mmsg.Inbox) {
	for {
		err := d.receive(in)
		if err == nil {
			for data := range in.Datagrams(in.N) {
				if err = d.Add(data); err != nil {
					break
				}
			}
			err = errors.Join(err, d.Flush())
			in.Release()
		}
		if err != nil {
			d.end(err)
			return
		}
	}
}

// Add has the next Flush send a datagram of the app's on, or holds it until more is
// known. data must stay as it is until then. An error has ended the flow.
func (d *Datagrams) Add(data []byte) error {
	d.used.Store(d.now().UnixNano())
	if d.judge != nil {
		if pass, err := d.look(data); err != nil {
			sent, _ := d.outbox.Send() // what came before it
			d.sent.Add(int64(sent))
			d.refuse(err)
			d.end(err)
			return err
		} else if !pass {
			return nil
		}
	}
	d.add(data)
	return nil
}

func (d *Datagrams) add(data []byte) {
	d.outbox.Add(d.header, data)
}

// Flush sends what was added. An error has ended the flow; the app has been told.
func (d *Datagrams) Flush() error {
	sent, err := d.outbox.Send()
	d.sent.Add(int64(sent))
	if err != nil {
		d.failed(err)
		d.end(err)
	}
	return err
}

// failed tells the app of an error of the socket to the destination.
func (d *Datagrams) failed(err error) {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, ErrIdle) {
		return
	}
	if why, ok := netns.UnreachableFor(err); ok {
		d.in.Unreachable(why)
	}
}

// downward relays to the app until the flow ends.
func (d *Datagrams) downward() error {
	in, err := mmsg.NewInbox(d.out, mmsg.AnySize, mmsg.Gather)
	var datagrams [][]byte
	for err == nil {
		if err := d.receive(in); err != nil {
			d.failed(err)
			return err
		}
		datagrams = datagrams[:0]
		for data := range in.Datagrams(in.N) {
			ok := true
			if d.by != nil {
				data, ok = d.by.Receive(data)
			}
			if ok {
				datagrams = append(datagrams, data)
			}
		}
		var received int
		received, err = d.in.Deliver(datagrams)
		d.received.Add(int64(received))
		clear(datagrams) // an idle flow is not to hold the batch
		in.Release()
	}
	return err
}

// EachWrite delivers datagrams one by one, for a Sink.
func EachWrite(datagrams [][]byte, write func([]byte) error) (bytes int, err error) {
	for _, data := range datagrams {
		switch err := write(data); {
		case err == nil:
			bytes += len(data)
		case !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.ENOBUFS): // else lost, as datagrams may be
			return bytes, err
		}
	}
	return bytes, nil
}

// look judges the names that a datagram of the app's shows. It is false if the
// datagram has to wait for others; those that waited for it are added.
func (d *Datagrams) look(datagram []byte) (pass bool, err error) {
	names, more, err := d.hellos.Read(datagram)
	if d.holds += len(datagram); err == nil && more && (d.holds > maxHeld || len(d.held) == maxWaiting) {
		err = errLongHello
	}
	if err == nil && more {
		err = d.hold(d.holds)
	}
	if err != nil {
		return false, &Unreadable{err}
	}
	for _, shown := range names {
		if err := d.judge(shown); err != nil {
			return false, err
		}
	}
	if more {
		d.held = append(d.held, slices.Clone(datagram))
		return false, nil
	}
	for _, x := range d.held {
		d.add(x)
	}
	d.held, d.holds = nil, 0
	_ = d.hold(0)
	return true, nil
}

// hold has n bytes held.
func (d *Datagrams) hold(n int) error {
	d.holding.Lock()
	defer d.holding.Unlock()
	if d.over {
		return net.ErrClosed
	}
	return d.budget.hold(n)
}

var errLongHello = errors.New("the QUIC ClientHello does not end")

// refuse tells the app that the flow is denied from here on: by an ICMP error, and
// in QUIC's own way, as few clients hear of the other. Of an ErrAbort, its end tells.
func (d *Datagrams) refuse(err error) {
	reason := err.Error()
	if r, ok := err.(interface{ Reason() string }); ok {
		reason = r.Reason()
	}
	if refusal := d.hellos.Refusal("appfw: " + reason); refusal != nil {
		_, _ = d.in.Deliver([][]byte{refusal})
	}
	if !errors.Is(err, ErrAbort) {
		d.in.Unreachable(netns.Prohibited)
	}
}
