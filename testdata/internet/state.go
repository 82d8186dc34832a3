package internet

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// HostState describes the simulated host's network, a line per thing: links, addresses, routes of all tables,
// rules, nftables rules and kernel settings of its own. Two calls give the same text when nothing has changed between.
func (n *Internet) HostState() string {
	n.t.Helper()
	var text strings.Builder
	err := n.host.do(func() error {
		for _, describe := range []func(*strings.Builder) error{links, routes, rules} {
			if err := describe(&text); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = n.settings(&text)
	}
	if err != nil {
		n.t.Fatal("internet: reading the host's state: ", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ruleset, err := n.Command(ctx, n.Root(), "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		n.t.Fatalf("internet: nft: %v\n%s", err, ruleset)
	}
	return text.String() + string(ruleset)
}

func links(text *strings.Builder) error {
	all, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("links: %w", err)
	}
	for _, link := range all {
		a := link.Attrs()
		fmt.Fprintf(text, "link %d %s %s %s mtu %d %s %s master %d\n",
			a.Index, a.Name, link.Type(), a.HardwareAddr, a.MTU, a.Flags, a.OperState, a.MasterIndex)
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("addresses: %w", err)
		}
		for _, addr := range addrs {
			fmt.Fprintf(text, "address %s %s peer %v scope %d flags %#x\n", a.Name, addr.IPNet, addr.Peer, addr.Scope, addr.Flags)
		}
	}
	return nil
}

func routes(text *strings.Builder) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("routes: %w", err)
		}
		for _, r := range all {
			fmt.Fprintf(text, "route %s type %d protocol %d scope %d metric %d mtu %d\n", r, r.Type, r.Protocol, r.Scope, r.Priority, r.MTU)
		}
	}
	return nil
}

func rules(text *strings.Builder) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := netlink.RuleList(family)
		if err != nil {
			return fmt.Errorf("rules: %w", err)
		}
		for _, r := range all {
			fmt.Fprintf(text, "%s mark %#x in %q out %q goto %d invert %t uids %v\n", r, r.Mark, r.IifName, r.OifName, r.Goto, r.Invert, r.UIDRange)
		}
	}
	return nil
}

// settings describes the kernel settings that the simulated host does not share with the machine: some are there
// for all namespaces, and appear or change with what else the machine does (loading a module, for one). A namespace
// in which nobody does anything tells: where it has the same value, none was set here.
func (n *Internet) settings(text *strings.Builder) error {
	here, err := readSettings(n.host)
	if err != nil {
		return err
	}
	witness, err := n.witness()
	if err != nil {
		return err
	}
	defaults, err := readSettings(witness)
	if err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(here)) {
		if value, ok := defaults[path]; !ok || value != here[path] {
			fmt.Fprintf(text, "%s = %q\n", path, here[path])
		}
	}
	return nil
}

// readSettings returns the values of a space's kernel settings by their paths.
func readSettings(s *space) (values map[string]string, err error) {
	values = map[string]string{}
	err = s.do(func() error {
		return filepath.WalkDir("/proc/sys/net", func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return fmt.Errorf("kernel settings: %w", err)
			}
			if entry.IsDir() || entry.Name() == "nf_conntrack_count" { // not a setting
				return nil
			}
			value, err := os.ReadFile(path)
			if err != nil {
				value = []byte(err.Error()) // some cannot be read, or not before they are set
			}
			values[path] = strings.TrimSpace(string(value))
			return nil
		})
	})
	return values, err
}
