package internet_test

import (
	"testing"

	"appfw/testdata/internet"
)

// Whatever changes on the simulated host changes its state, and nothing else does.
func TestHostState(t *testing.T) {
	n := internet.New(t)
	before := n.HostState()
	for _, c := range []struct{ name, change, undo string }{
		{"link", "ip link add extra type veth peer name other", "ip link del extra"},
		{"address", "ip addr add 10.9.9.9/32 dev eth0", "ip addr del 10.9.9.9/32 dev eth0"},
		{"route", "ip route add 10.9.9.0/24 via 11.1.0.1", "ip route del 10.9.9.0/24"},
		{"table", "ip route add default via 11.1.0.1 table 99", "ip route del default table 99"},
		{"rule", "ip rule add from 10.9.9.9 table 99", "ip rule del from 10.9.9.9 table 99"},
		{"nftables", "nft add table ip extra", "nft delete table ip extra"},
		{"setting", "echo 1 >/proc/sys/net/ipv4/ip_forward", "echo 0 >/proc/sys/net/ipv4/ip_forward"},
		{"setting of a link", "echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_notify", "echo 0 >/proc/sys/net/ipv4/conf/eth0/arp_notify"},
		{"setting with a default", "echo 5 >/proc/sys/net/ipv4/tcp_syn_retries", "echo 6 >/proc/sys/net/ipv4/tcp_syn_retries"},
	} {
		succeed(t, n, n.Root(), "sh", "-ec", c.change)
		if n.HostState() == before {
			t.Errorf("%s: %s changes nothing", c.name, c.change)
		}
		succeed(t, n, n.Root(), "sh", "-ec", c.undo)
		if after := n.HostState(); after != before {
			t.Errorf("%s: after %s:\n%s\nbefore:\n%s", c.name, c.undo, after, before)
		}
	}
	succeed(t, n, n.Ordinary(), "dig", "+tcp", "example.com")
	if after := n.HostState(); after != before {
		t.Errorf("after a connection:\n%s\nbefore:\n%s", after, before)
	}
}
