package route

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownNamespace has the test run in a network namespace of its own, with a device d0
// whose address is 192.0.2.1/24 and 2001:db8::1/64. It takes root. The namespace ends
// with the test's thread.
func ownNamespace(t *testing.T) (device netlink.Link) {
	t.Helper()
	runtime.LockOSThread()
	switch err := unix.Unshare(unix.CLONE_NEWNET); {
	case errors.Is(err, unix.EPERM):
		runtime.UnlockOSThread()
		t.Skip("a network namespace of its own takes root")
	case err != nil:
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	must(err)
	must(netlink.LinkSetUp(lo))
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "d0"}, PeerName: "d1"}))
	for _, name := range []string{"d1", "d0"} {
		device, err = netlink.LinkByName(name)
		must(err)
		must(netlink.LinkSetUp(device))
	}
	// A host that forwards has the anycast address of its routers (RFC 4291, 2.6.1).
	must(os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	for _, a := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		address, err := netlink.ParseAddr(a)
		must(err)
		address.Flags = unix.IFA_F_NODAD
		must(netlink.AddrAdd(device, address))
	}
	// IPv6 takes the address when the kernel has seen that the device carries.
	for deadline := time.Now().Add(10 * time.Second); ask(netip.MustParseAddr("2001:db8::")) != Anycast; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the device does not come up")
		}
	}
	return device
}

// add adds a route of a kind to a prefix.
func add(t *testing.T, kind int, prefix, via string, device netlink.Link) {
	t.Helper()
	dst, err := netlink.ParseIPNet(prefix)
	if err != nil {
		t.Fatal(err)
	}
	r := &netlink.Route{Dst: dst, Type: kind}
	if via != "" {
		r.Gw = netip.MustParseAddr(via).AsSlice()
	}
	if device != nil {
		r.LinkIndex = device.Attrs().Index
	}
	switch kind {
	case unix.RTN_LOCAL:
		r.Table, r.Scope = unix.RT_TABLE_LOCAL, unix.RT_SCOPE_HOST
	case unix.RTN_BROADCAST:
		r.Table, r.Scope = unix.RT_TABLE_LOCAL, unix.RT_SCOPE_LINK
	}
	if err := netlink.RouteAdd(r); err != nil {
		t.Fatal(prefix, err)
	}
}

func TestKind(t *testing.T) {
	d0 := ownNamespace(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	add(t, unix.RTN_LOCAL, "198.51.100.0/24", "", lo) // "AnyIP": all of a prefix is this host
	add(t, unix.RTN_LOCAL, "2001:db8:a::/64", "", lo)
	add(t, unix.RTN_UNICAST, "203.0.113.0/24", "192.0.2.254", d0)
	add(t, unix.RTN_UNICAST, "2001:db8:b::/64", "2001:db8::fe", d0)
	add(t, unix.RTN_UNREACHABLE, "203.0.113.16/28", "", nil)
	add(t, unix.RTN_BLACKHOLE, "203.0.113.32/28", "", nil)
	add(t, unix.RTN_PROHIBIT, "203.0.113.48/28", "", nil)
	add(t, unix.RTN_UNREACHABLE, "2001:db8:b::10/124", "", nil)
	add(t, unix.RTN_BLACKHOLE, "2001:db8:b::20/124", "", nil)
	add(t, unix.RTN_PROHIBIT, "2001:db8:b::30/124", "", nil)
	add(t, unix.RTN_BROADCAST, "203.0.113.255/32", "", d0)

	add(t, unix.RTN_UNICAST, "0.0.0.0/0", "192.0.2.254", d0) // of IPv4 alone

	table := New()
	defer table.Close()
	for _, c := range []struct {
		addr string
		want Kind
	}{
		// The whole of 127.0.0.0/8 is this host, though the kernel connects from 127.0.0.1.
		{"127.0.0.1", Local}, {"127.0.0.2", Local}, {"127.255.255.254", Local}, {"::1", Local},
		{"192.0.2.1", Local}, {"2001:db8::1", Local}, {"::ffff:192.0.2.1", Local}, {"2001:db8::1%d0", Local},
		{"198.51.100.1", Local}, {"198.51.100.77", Local}, {"2001:db8:a::77", Local},
		{"192.0.2.200", Unicast}, {"2001:db8::200", Unicast},
		{"203.0.113.1", Unicast}, {"2001:db8:b::1", Unicast},
		{"192.0.2.255", Broadcast}, {"255.255.255.255", Broadcast}, {"203.0.113.255", Broadcast},
		{"224.0.0.1", Multicast}, {"239.1.2.3", Multicast}, {"ff02::1", Multicast}, {"ff0e::1", Multicast},
		{"2001:db8::", Anycast},
		{"203.0.113.17", Unreachable}, {"203.0.113.33", Unreachable}, {"203.0.113.49", Unreachable},
		{"2001:db8:b::11", Unreachable}, {"2001:db8:b::21", Unreachable}, {"2001:db8:b::31", Unreachable},
		{"11.0.0.1", Unicast}, {"2001:4860::1", Unreachable},
	} {
		a := netip.MustParseAddr(c.addr)
		for range 2 { // the second time, it is remembered
			if got := table.Kind(a); got != c.want {
				t.Errorf("%s: %s, not %s", a, got, c.want)
			}
		}
		if got := table.Known(a); got != c.want {
			t.Errorf("%s: %s is remembered, not %s", a, got, c.want)
		}
	}
	if got := table.Known(netip.MustParseAddr("192.0.2.77")); got != Unknown {
		t.Errorf("%s is remembered of what was not asked", got)
	}
}

// What was remembered is forgotten whenever a route, an address or a device changes.
func TestChanges(t *testing.T) {
	d0 := ownNamespace(t)
	table := New()
	defer table.Close()
	becomes := func(addr string, want Kind) {
		t.Helper()
		a := netip.MustParseAddr(addr)
		for deadline := time.Now().Add(10 * time.Second); table.Kind(a) != want; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%s is still %s, not %s", addr, table.Kind(a), want)
			}
		}
	}
	becomes("203.0.113.1", Unreachable)
	add(t, unix.RTN_UNICAST, "203.0.113.0/24", "192.0.2.254", d0)
	becomes("203.0.113.1", Unicast)

	becomes("192.0.2.9", Unicast)
	address, err := netlink.ParseAddr("192.0.2.9/32")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(d0, address); err != nil {
		t.Fatal(err)
	}
	becomes("192.0.2.9", Local)
	if err := netlink.AddrDel(d0, address); err != nil {
		t.Fatal(err)
	}
	becomes("192.0.2.9", Unicast)

	becomes("2001:db8::9", Unicast)
	rule := netlink.NewRule()
	rule.Family, rule.Type, rule.Priority = unix.AF_INET6, unix.RTN_PROHIBIT, 1
	if err := netlink.RuleAdd(rule); err != nil {
		t.Fatal(err)
	}
	becomes("2001:db8::9", Unreachable)

	if err := netlink.LinkSetDown(d0); err != nil {
		t.Fatal(err)
	}
	becomes("192.0.2.9", Unreachable)
}

// After Close, what is asked is asked of the kernel each time.
func TestClosed(t *testing.T) {
	var asked atomic.Int32
	table := New()
	table.ask = func(netip.Addr) Kind { asked.Add(1); return Unicast }
	a := netip.MustParseAddr("192.0.2.1")
	table.Close()
	table.Close()
	for range 3 {
		if got := table.Kind(a); got != Unicast {
			t.Error(got)
		}
	}
	if asked.Load() != 3 || table.Known(a) != Unknown {
		t.Errorf("asked %d times; %s is remembered", asked.Load(), table.Known(a))
	}
}

// counting is a Table that hears of changes only from its test, and what it asked.
func counting(watch bool, kind func(netip.Addr) Kind) (*Table, *int) {
	asked := new(int)
	return &Table{
		kept: make(map[netip.Addr]Kind), watch: watch, done: make(chan struct{}),
		ask: func(a netip.Addr) Kind { *asked++; return kind(a) },
	}, asked
}

// Without netlink, nothing is remembered, as no change would be heard of; and what the
// kernel cannot be asked is unknown, and asked again.
func TestWithoutNetlink(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		watch bool
		kind  Kind
		asked int // of 3
	}{
		{true, Unicast, 1}, {true, Unknown, 3}, {false, Unicast, 3}, {false, Unknown, 3},
	} {
		table, asked := counting(c.watch, func(netip.Addr) Kind { return c.kind })
		for range 3 {
			if got := table.Kind(a); got != c.kind {
				t.Errorf("%+v: %s", c, got)
			}
		}
		if *asked != c.asked {
			t.Errorf("%+v: asked %d times", c, *asked)
		}
	}
}

// An answer that a change has overtaken is not remembered.
func TestChangedMeanwhile(t *testing.T) {
	var table *Table
	table, asked := counting(true, func(netip.Addr) Kind { table.forget(true); return Unicast })
	a := netip.MustParseAddr("192.0.2.1")
	for range 2 {
		if got := table.Kind(a); got != Unicast {
			t.Error(got)
		}
	}
	if *asked != 2 {
		t.Errorf("asked %d times", *asked)
	}
}

// The addresses that are remembered are bounded.
func TestBounded(t *testing.T) {
	table, _ := counting(true, func(netip.Addr) Kind { return Unicast })
	for a := range maxKept + 10 {
		table.Kind(netip.AddrFrom4([4]byte{10, 0, byte(a >> 8), byte(a)}))
	}
	if n := len(table.kept); n != 10 {
		t.Errorf("%d are remembered", n)
	}
}
