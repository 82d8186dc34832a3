package systemd

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"appfw/policy"
)

// systemdAllows is systemd's rule (systemd.resource-control(5)) in the plainest way.
func systemdAllows(u *Unit, a netip.Addr) bool {
	in := func(list []prefix) bool {
		return slices.ContainsFunc(list, func(p prefix) bool { return p.Contains(a) })
	}
	return in(u.allow) || !in(u.deny)
}

// randomUnit makes up directives of which many overlap.
func randomUnit(r *rand.Rand) string {
	var b strings.Builder
	b.WriteString("[Service]\n")
	for range r.IntN(7) {
		b.WriteString([]string{"IPAddressAllow=", "IPAddressDeny="}[r.IntN(2)])
		for n := range r.IntN(4) {
			if n > 0 {
				b.WriteString([]string{" ", "  \\\n\t"}[r.IntN(2)])
			}
			if r.IntN(4) == 0 {
				b.WriteString([]string{"any", "localhost", "link-local", "multicast", "0.0.0.0/0", "::/0", "0.0.0.0/1", "::1", "127.0.0.53"}[r.IntN(9)])
				continue
			}
			a := randomAddr(r)
			fmt.Fprintf(&b, "%s/%d", a, r.IntN(a.BitLen()+1))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// randomAddr makes up an address, of few that share prefixes of many lengths.
func randomAddr(r *rand.Rand) netip.Addr {
	base := []string{"10.0.0.0", "127.0.0.1", "169.254.1.1", "8.8.8.8", "224.0.0.1", "0.0.0.1", "255.255.255.255", "2606:4700::1", "::1", "fe80::1", "fd00::1", "ff02::1",
		"64:ff9b::808:808", "2002:808:808::1", "2606:4700::5efe:808:808", "::ffff:8.8.8.8", "2001::1"}
	at := netip.MustParseAddr(base[r.IntN(len(base))]).AsSlice()
	for range r.IntN(3) {
		bit := r.IntN(8 * len(at))
		at[bit/8] ^= 1 << (bit % 8)
	}
	a, _ := netip.AddrFromSlice(at)
	return a
}

// carried tells of addresses at which appfw is to be as systemd is: no other host
// is meant by them than they say, and appfw carries what is sent there.
func carried(a netip.Addr) bool {
	switch policy.Special(a) {
	case policy.Multicast, policy.Broadcast, policy.ThisHost:
		return false
	}
	return policy.Embedded(a) == a
}

func unitOf(t *testing.T, text string) *Unit {
	t.Helper()
	u, err := Read([]File{{"u", []byte(text)}})
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return u
}

func mustCompile(t *testing.T, text string) *policy.Policy {
	t.Helper()
	lines, err := policy.ReadLines("p", strings.NewReader(text))
	if err == nil {
		var p *policy.Policy
		if p, err = policy.Compile(policy.Config{Lines: lines}); err == nil {
			return p
		}
	}
	t.Fatalf("%s\n%v", text, err)
	return nil
}

// What import makes of a unit means the same, in both directions; and so does the
// drop-in that export makes of that.
func TestSystemdModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		text := randomUnit(r)
		u := unitOf(t, text)
		imported, _, err := u.Policy(validUpstream)
		if err != nil {
			t.Fatalf("seed %d: %s\n%s\n%v", seed, text, imported, err)
		}
		p := mustCompile(t, imported)
		exported, _, err := DropIn(p, false)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		// As a drop-in it has to hold whatever the unit says.
		back, err := Read([]File{{"u", []byte(text)}, {"d", []byte(exported)}})
		if err != nil {
			t.Fatalf("seed %d: %s\n%v", seed, exported, err)
		}
		for range 100 {
			a := randomAddr(r)
			if a.Is4In6() {
				continue // on no wire
			}
			want := systemdAllows(u, a)
			isatap := strings.Contains(a.String(), "5efe") // denied where the inner one is, too
			for _, proto := range []policy.Proto{policy.TCP, policy.UDP, policy.ICMP} {
				flow := policy.Flow{Proto: proto, Addr: a, Port: 443}
				if proto == policy.ICMP {
					flow.Port = 0
				}
				if v := p.Decide(flow); v.Allowed() && !want || v.Allowed() != want && carried(a) && !isatap {
					t.Fatalf("seed %d: %s\n%s\n%s: %v, want %v", seed, text, imported, a, v, want)
				}
			}
			if v := p.DecideFrom(policy.TCP, a, 80); v.Allowed() != want {
				t.Fatalf("seed %d: %s\n%s\nfrom %s: %v, want %v", seed, text, imported, a, v, want)
			}
			if got := systemdAllows(back, a); got && !want || got != want && carried(a) && !isatap {
				t.Fatalf("seed %d: %s\n%s\n%s\n%s: %v, want %v", seed, text, imported, exported, a, got, want)
			}
		}
	}
}
