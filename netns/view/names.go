package view

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// NameFiles are the files by which programs resolve names, by path, as a program in
// the view sees them. Those that the host does not have are missing, but for
// resolv.conf.
func (h Host) NameFiles() map[string][]byte {
	files := map[string][]byte{"/etc/resolv.conf": h.resolvConf()}
	if h.Hosts != nil {
		files["/etc/hosts"] = h.localHosts()
	}
	if h.Nsswitch != nil {
		files["/etc/nsswitch.conf"] = nsswitch(h.Nsswitch)
	}
	return files
}

func (h Host) resolvConf() []byte {
	lines := append([]string{"# appfw answers here, for the names that its policy allows.", "nameserver " + h.Resolver.String()}, h.Resolv...)
	return []byte(strings.Join(lines, "\n") + "\n")
}

// localHosts keeps of hosts(5) the names of the loopback, as they stand, and has the
// machine's own name lead to the program's own address, at which its servers answer, as
// on the host. All others go by the resolver, which knows the file, too: what the program
// looked up there by itself, no rule for names would see.
func (h Host) localHosts() []byte {
	var kept strings.Builder
	localhost, own := false, h.Name == ""
	for line := range strings.Lines(string(h.Hosts)) {
		text, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		a, err := netip.ParseAddr(fields[0])
		names := fields[1:]
		isOwn := slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, h.Name) })
		switch {
		case err != nil:
			continue
		case a.IsLoopback():
			localhost = localhost || slices.Contains(names, "localhost")
		case isOwn && h.own(a) != "":
			fields[0] = h.own(a)
		default:
			continue
		}
		own = own || isOwn
		kept.WriteString(strings.Join(fields, " ") + "\n")
	}
	if !own && h.Name != "localhost" && h.own(netip.IPv4Unspecified()) != "" { // it is in the DNS, or known by nss-myhostname(8)
		short, _, _ := strings.Cut(h.Name, ".")
		names := slices.Compact([]string{h.Name, short})
		kept.WriteString(h.own(netip.IPv4Unspecified()) + " " + strings.Join(names, " ") + "\n")
	}
	if localhost {
		return []byte(kept.String())
	}
	return []byte("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n" + kept.String())
}

// own is the program's own address in the family of another one; "" if it has none.
func (h Host) own(like netip.Addr) string {
	for _, a := range h.Own {
		if a.Is4() == like.Is4() {
			return a.String()
		}
	}
	return ""
}

// nsswitch has names looked up in /etc/hosts and by DNS only, and leaves other
// databases as they are (nsswitch.conf(5)).
func nsswitch(host []byte) []byte {
	var b strings.Builder
	for line := range strings.Lines(string(host)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "hosts:") {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	b.WriteString("hosts: files dns\n")
	return []byte(b.String())
}

// ReadFile reads a regular file; anything else (a FIFO would wait) is an error.
func ReadFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	return io.ReadAll(f)
}
