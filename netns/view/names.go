package view

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// NameFiles are the files by which programs resolve names, by path, as a program in
// the view sees them. Those that the host does not have are missing, but for
// resolv.conf.
func (h Host) NameFiles() map[string][]byte {
	files := map[string][]byte{"/etc/resolv.conf": h.resolvConf()}
	if h.Hosts != nil {
		files["/etc/hosts"] = localHosts(h.Hosts)
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

// localHosts keeps of hosts(5) the names of the loopback. All others go by the
// resolver, which knows the file, too: what the program looked up there by itself,
// no rule for names would see.
func localHosts(hosts []byte) []byte {
	local := []byte("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for line := range strings.Lines(string(hosts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if a, err := netip.ParseAddr(fields[0]); err == nil && a.IsLoopback() {
			local = append(local, strings.TrimSuffix(line, "\n")+"\n"...)
		}
	}
	return local
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
