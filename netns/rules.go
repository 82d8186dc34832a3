package netns

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

const (
	// queueNumber is the NFQUEUE of a namespace. Queues are per namespace.
	queueNumber = 0

	// markTake on a packet: the process accepted it, TPROXY shall take it in.
	markTake = 0x61
	// markOwn on a packet: one of appfw's sockets in the app's namespace sent it. On a
	// socket: it is appfw's, and what it receives has been judged.
	markOwn = 0x62
)

// tableName is the name of the nftables tables.
const tableName = "appfw"

// Chain priorities in prerouting (linux/netfilter_ipv4.h): the kernel
// reassembles fragments at -400, appfw judges at -150 and takes in at -149.
var (
	beforeDefragment = nftables.ChainPriorityRef(-450)
	gatePriority     = nftables.ChainPriorityRef(-150)
	takePriority     = nftables.ChainPriorityRef(-149)
)

// family is what differs between IPv4 and IPv6 in a rule.
type family struct {
	table    nftables.TableFamily
	proto    byte
	source   *expr.Payload
	app      netip.Addr
	loopback netip.Prefix
	dest     *expr.Payload
	fragment []expr.Any
	icmp     byte
	// unreachable is the ICMP error by which the app's kernel says that a
	// socket is gone; noise are messages the kernel sends on its own.
	unreachable byte
	noise       []byte
}

var ipv4Family = family{
	table:    nftables.TableFamilyIPv4,
	proto:    unix.NFPROTO_IPV4,
	source:   &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
	dest:     &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
	app:      App4,
	loopback: netip.MustParsePrefix("127.0.0.0/8"),
	fragment: []expr.Any{ // MF set or offset not 0 (RFC 791)
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 2},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0x3f, 0xff}, Xor: []byte{0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}},
	},
	icmp:        unix.IPPROTO_ICMP,
	unreachable: 3,
}

var ipv6Family = family{
	table:    nftables.TableFamilyIPv6,
	proto:    unix.NFPROTO_IPV6,
	source:   &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16},
	dest:     &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16},
	app:      App6,
	loopback: netip.MustParsePrefix("::1/128"),
	fragment: []expr.Any{
		&expr.Exthdr{DestRegister: 1, Type: unix.IPPROTO_FRAGMENT, Len: 1, Flags: unix.NFT_EXTHDR_F_PRESENT},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	},
	icmp:        unix.IPPROTO_ICMPV6,
	unreachable: 1,
	// MLDv1 reports and done, router and neighbour solicitations and
	// advertisements, MLDv2 reports: link-local housekeeping that leads nowhere.
	noise: []byte{131, 132, 133, 134, 135, 136, 143},
}

// ruleset writes the rules of one namespace.
type ruleset struct {
	conn   *nftables.Conn
	native bool // the kernel has nft's queue expression, not only xt's target
}

// gateway judges what comes over the veth. Every packet that belongs to no
// socket of appfw's waits in the queue; nothing is forwarded. So does a segment for which
// no socket is found: when the last segment of a handshake and the first data are
// processed at the same time, the kernel has a moment in which the connection is in no
// table (inet_ehash_insert, before Linux 6.19), and would reset it. See [Gate.Run].
func (r ruleset) gateway(f family) {
	table := r.conn.AddTable(&nftables.Table{Family: f.table, Name: tableName})
	drop := nftables.ChainPolicyDrop

	early := r.chain(table, "fragments", nftables.ChainHookPrerouting, beforeDefragment, nil)
	r.rule(early, f.fragment, r.queue())

	gate := r.chain(table, "gate", nftables.ChainHookPrerouting, gatePriority, &drop)
	r.rule(gate, iifname(expr.CmpOpNeq, gatewayDevice), verdict(expr.VerdictDrop)) // what the gateway sends to itself
	for _, kind := range f.noise {
		r.rule(gate, l4proto(f.icmp), byteAt(0, kind), verdict(expr.VerdictDrop))
	}
	r.rule(gate, f.source, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: f.app.AsSlice()}, r.queue())
	r.rule(gate, l4proto(unix.IPPROTO_UDP), port(53), verdict(expr.VerdictAccept))
	r.rule(gate, l4proto(unix.IPPROTO_TCP), port(53), verdict(expr.VerdictAccept))
	r.rule(gate, l4proto(unix.IPPROTO_TCP), notSYN, socket(expr.SocketKeyTransparent, 1), verdict(expr.VerdictAccept))
	r.rule(gate, l4proto(unix.IPPROTO_UDP), socket(expr.SocketKeyMark, markOwn), verdict(expr.VerdictAccept))
	r.rule(gate, l4proto(f.icmp), byteAt(0, f.unreachable), verdict(expr.VerdictAccept))
	r.rule(gate, r.queue())

	r.take(table, f)
	r.chain(table, "nothing", nftables.ChainHookForward, nftables.ChainPriorityFilter, &drop)
}

// loopback judges what the app sends to its own loopback where no socket of its
// own receives it.
func (r ruleset) loopback(f family) {
	table := r.conn.AddTable(&nftables.Table{Family: f.table, Name: tableName})
	gate := r.chain(table, "gate", nftables.ChainHookPrerouting, gatePriority, nil)
	accept := verdict(expr.VerdictAccept)
	r.rule(gate, iifname(expr.CmpOpNeq, "lo"), accept)
	r.rule(gate, f.dest, mask(f.loopback), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: f.loopback.Addr().AsSlice()}, accept)
	r.rule(gate, mark(markOwn), accept)
	r.rule(gate, l4proto(unix.IPPROTO_TCP), socket(expr.SocketKeyTransparent, 0), accept)
	r.rule(gate, l4proto(unix.IPPROTO_TCP), notSYN, socket(expr.SocketKeyTransparent, 1), accept)
	r.rule(gate, l4proto(unix.IPPROTO_TCP), r.queue())
	r.rule(gate, l4proto(unix.IPPROTO_UDP), socket(expr.SocketKeyTransparent, 0), accept)
	r.rule(gate, l4proto(unix.IPPROTO_UDP), socket(expr.SocketKeyMark, markOwn), accept)
	r.rule(gate, l4proto(unix.IPPROTO_UDP), r.queue())
	r.take(table, f)
}

// take hands the SYNs that the process accepted to its listener, whatever
// address they are for (Documentation/networking/tproxy.rst).
func (r ruleset) take(table *nftables.Table, f family) {
	take := r.chain(table, "take", nftables.ChainHookPrerouting, takePriority, nil)
	r.rule(take, mark(markTake), l4proto(unix.IPPROTO_TCP),
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, intakePort)},
		&expr.TProxy{Family: f.proto, TableFamily: f.proto, RegPort: 1})
}

func (r ruleset) chain(t *nftables.Table, name string, hook *nftables.ChainHook, p *nftables.ChainPriority, policy *nftables.ChainPolicy) *nftables.Chain {
	return r.conn.AddChain(&nftables.Chain{Table: t, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: p, Policy: policy})
}

// rule adds a rule of the given parts, each an expression or a list of them.
func (r ruleset) rule(c *nftables.Chain, parts ...any) {
	var exprs []expr.Any
	for _, p := range parts {
		switch p := p.(type) {
		case []expr.Any:
			exprs = append(exprs, p...)
		case expr.Any:
			exprs = append(exprs, p)
		}
	}
	r.conn.AddRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: exprs})
}

// queue holds a packet for the process. Without a process it is dropped: the
// bypass flag is not set.
func (r ruleset) queue() []expr.Any {
	if r.native {
		return []expr.Any{&expr.Queue{Num: queueNumber, Total: 1}}
	}
	// struct xt_NFQ_info_v3: u16 queuenum, queues_total, flags, in host order.
	info := make(xt.Unknown, 0, 6)
	for _, v := range []uint16{queueNumber, 1, 0} {
		info = binary.NativeEndian.AppendUint16(info, v)
	}
	return []expr.Any{&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}}
}

func l4proto(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

// port matches the destination port of TCP and UDP.
func port(p uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, p)},
	}
}

// byteAt matches one byte of the transport header.
func byteAt(offset uint32, value byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}},
	}
}

// notSYN matches TCP segments that open no connection (RFC 9293, 3.1).
var notSYN = []expr.Any{
	&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
	&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x12}, Xor: []byte{0}},
	&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0x02}},
}

// socket matches if a socket receives the packet and its key has the value.
func socket(key expr.SocketKey, value uint32) []expr.Any {
	data := []byte{byte(value)}
	if key == expr.SocketKeyMark {
		data = binary.NativeEndian.AppendUint32(nil, value)
	}
	return []expr.Any{
		&expr.Socket{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
	}
}

func mark(value uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, value)},
	}
}

func mask(p netip.Prefix) *expr.Bitwise {
	n := p.Addr().BitLen()
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(n / 8), Mask: net.CIDRMask(p.Bits(), n), Xor: make([]byte, n/8)}
}

func verdict(v expr.VerdictKind) *expr.Verdict { return &expr.Verdict{Kind: v} }

// iifname compares the name of the device that the packet came by.
func iifname(op expr.CmpOp, name string) []expr.Any {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: b},
	}
}

// install writes rules to the namespace in one transaction: with nft's queue
// expression, or with the xt target that does the same (kernels without
// CONFIG_NFT_QUEUE have it through CONFIG_NFT_COMPAT).
func (ns *Namespace) install(ipv6 bool, write func(ruleset, family)) error {
	var failures []error
	for _, native := range queueKinds() {
		conn, err := ns.nftables()
		if err != nil {
			return err
		}
		r := ruleset{conn: conn, native: native}
		write(r, ipv4Family)
		if ipv6 {
			write(r, ipv6Family)
		}
		err = conn.Flush()
		_ = conn.CloseLasting()
		if err == nil {
			return nil
		}
		failures = append(failures, err)
	}
	return fmt.Errorf("install nftables rules: %w (and: %w)", failures[0], failures[1])
}

// nftables opens a connection to the nftables of the namespace. It is for other
// threads than the namespace's: for each message the library waits for a goroutine of
// its own, and one that is locked to its thread changes threads for that, twice.
func (ns *Namespace) nftables() (conn *nftables.Conn, err error) {
	err = ns.Do(func() error {
		conn, err = nftables.New(nftables.AsLasting())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return conn, nil
}

// queueKinds says in which order to try: native or not. A transaction that
// fails costs ten milliseconds and more (the kernel looks for a module, and
// waits for a grace period), so the likelier comes first: the expression where
// its module is loaded, else the target.
func queueKinds() []bool {
	_, err := os.Stat("/sys/module/nft_queue")
	loaded := err == nil
	return []bool{loaded, !loaded}
}
