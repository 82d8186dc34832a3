package dnsguard

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"appfw/policy"
)

// ResolvConf is what of resolv.conf(5) matters here.
type ResolvConf struct {
	Servers []netip.AddrPort
	Lines   []string // "search", "domain" and "options", as they stand
	TrustAD bool     // the servers are trusted to say what is authentic: "options trust-ad"
}

// ReadResolvConf reads a resolv.conf. Without a nameserver line it is the one
// on this host, as resolv.conf(5) says.
func ReadResolvConf(r io.Reader) (ResolvConf, error) {
	var c ResolvConf
	s := bufio.NewScanner(r)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(fields[1]); err == nil {
				c.Servers = append(c.Servers, netip.AddrPortFrom(a, 53))
			}
		case "search", "domain", "options":
			c.Lines = append(c.Lines, strings.Join(fields, " "))
			c.TrustAD = c.TrustAD || fields[0] == "options" && slices.Contains(fields[1:], "trust-ad")
		}
	}
	if len(c.Servers) == 0 {
		c.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	}
	return c, s.Err()
}

// ReadHosts reads a hosts(5) file. Lines that are none are passed over, as
// resolvers do.
func ReadHosts(r io.Reader) (map[policy.Name][]netip.Addr, error) {
	hosts := make(map[policy.Name][]netip.Addr)
	lines := bufio.NewReader(r) // of any length
	for {
		line, end := lines.ReadString('\n')
		text, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(text)
		switch {
		case end != nil && end != io.EOF:
			return hosts, end
		case end != nil && len(fields) == 0:
			return hosts, nil
		case len(fields) < 2:
			continue
		}
		a, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, f := range fields[1:] {
			if n, err := policy.ParseName(f); err == nil {
				hosts[n] = append(hosts[n], a.WithZone(""))
			}
		}
	}
}

const (
	// statEvery is how often a file is looked at for changes.
	statEvery = time.Second
	// settled is how old a change must be for the next one to have another
	// time: longer than the tick of any file system's clock.
	settled = 2 * time.Second
	// maxConf is more than a resolv.conf has.
	maxConf = 1 << 20
)

// HostResolvers returns a function that tells what a resolv.conf says: it
// reads it again when it changed, or is another file by now. While there is
// none that can be read, all stays what it was.
func HostResolvers(path string, now func() time.Time) func() ResolvConf {
	var (
		mu     sync.Mutex
		looked time.Time
		read   os.FileInfo // of what was read; nil to read it again
	)
	conf, _ := ReadResolvConf(strings.NewReader(""))
	return func() ResolvConf {
		mu.Lock()
		defer mu.Unlock()
		t := now()
		if !looked.IsZero() && t.Sub(looked) < statEvery {
			return conf
		}
		looked = t
		info, err := os.Stat(path) // follows links: systemd and NetworkManager re-point them
		if err != nil || read != nil && unchanged(info, read) {
			return conf
		}
		c, info, err := readResolvConfAt(path)
		if err != nil {
			return conf
		}
		conf, read = c, info
		if t.Sub(info.ModTime()) < settled {
			read = nil
		}
		return conf
	}
}

// unchanged compares device, inode, size and time.
func unchanged(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// readResolvConfAt reads a regular file; anything else (a FIFO would wait) is
// an error.
func readResolvConfAt(path string) (ResolvConf, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ResolvConf{}, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ResolvConf{}, nil, err
	}
	if !info.Mode().IsRegular() {
		return ResolvConf{}, nil, fmt.Errorf("%s is not a regular file", path)
	}
	c, err := ReadResolvConf(io.LimitReader(f, maxConf))
	return c, info, err
}

// Search are the domains of the search list (resolv.conf(5)).
func (c ResolvConf) Search() (domains []string) {
	for _, line := range c.Lines {
		if fields := strings.Fields(line); fields[0] != "options" {
			domains = fields[1:]
		}
	}
	return domains
}
