package netns

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Feature is something of the kernel's that was tried.
type Feature struct {
	Name string
	Err  error  // nil: it is there
	Fix  string // what to do about it
}

// Features tries, in the namespace, the parts of nftables that the gates need,
// one at a time.
func Features(ns *Namespace) []Feature {
	queue := func(native bool) func(ruleset) []expr.Any {
		return func(r ruleset) []expr.Any { r.native = native; return r.queue() }
	}
	try := func(e func(ruleset) []expr.Any) error {
		conn, err := ns.nftables()
		if err != nil {
			return err
		}
		defer func() { _ = conn.CloseLasting() }()
		r := ruleset{conn: conn}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "probe"})
		chain := r.chain(table, "probe", nftables.ChainHookPrerouting, gatePriority, nil)
		r.rule(chain, e(r))
		if err := conn.Flush(); err != nil {
			return err
		}
		conn.DelTable(table)
		return conn.Flush()
	}
	list := []Feature{
		{"nftables", try(func(ruleset) []expr.Any { return l4proto(unix.IPPROTO_TCP) }),
			"the kernel needs CONFIG_NF_TABLES: sudo modprobe nf_tables"},
		{"nftables: socket", try(func(ruleset) []expr.Any { return socket(expr.SocketKeyMark, markOwn) }),
			"the kernel needs CONFIG_NFT_SOCKET (Linux 5.13 and later): sudo modprobe nft_socket"},
		{"nftables: tproxy", try(func(ruleset) []expr.Any {
			return append(l4proto(unix.IPPROTO_TCP),
				&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, intakePort)},
				&expr.TProxy{Family: unix.NFPROTO_IPV4, TableFamily: unix.NFPROTO_IPV4, RegPort: 1})
		}), "the kernel needs CONFIG_NFT_TPROXY: sudo modprobe nft_tproxy"},
	}
	native := try(queue(true))
	if native == nil {
		return append(list, Feature{Name: "nftables: queue"})
	}
	compat := try(queue(false))
	if compat != nil {
		compat = fmt.Errorf("queue: %w; xt NFQUEUE: %w", native, compat)
	}
	return append(list, Feature{"nftables: queue, by xt_NFQUEUE", compat,
		"the kernel needs CONFIG_NFT_QUEUE, or CONFIG_NFT_COMPAT and CONFIG_NETFILTER_XT_TARGET_NFQUEUE: sudo modprobe nft_queue"})
}
