package units

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// Proxy lets a service reach nothing but a proxy, which starts when the service
// connects.
type Proxy struct {
	Policy string // a file
	// Listen is where the proxy listens, ADDRESS:PORT of the loopback. Empty is
	// 127.100.x.y:1080, x and y by the name of the service.
	Listen string
}

// Proxy is how a service is put behind a proxy: IPAddressDeny= of
// systemd.resource-control(5), and the variables by which programs find a proxy.
// That systemd keeps IPAddressDeny= is tried before anything is written.
// The error may be [ErrNoPolicy] or an [*OptionError].
func (c Config) Proxy(ctx context.Context, service string, p Proxy) (*Change, error) {
	change, policy, files, err := c.prepare(ctx, service, p.Policy)
	if err != nil {
		return nil, err
	}
	if policy == "" {
		return nil, ErrNoPolicy
	}
	at, err := p.listen(change.Service)
	if err != nil {
		return nil, err
	}
	if err := c.readable(files); err != nil {
		return nil, err
	}
	program, err := c.program(change)
	if err != nil {
		return nil, err
	}
	name := "appfw-serve@" + instance(change.Service)
	change.program = program
	change.Write, err = render(map[string]any{
		"Undo": "proxy " + change.Service + " --remove", "Service": change.Service, "Name": name, "At": at, "Addr": at.Addr(),
		"Start": quoteWords(program, "serve", "--policy", policy),
	}, []File{
		{filepath.Join(c.directory(), name+".socket"), serveSocket},
		{filepath.Join(c.directory(), name+".service"), serveService},
		{change.dropIn, proxyDropIn},
	})
	change.Remove = change.obsolete()
	return change, err
}

// listen is where the proxy of a service listens: by itself at an address that no
// other service's has, most likely.
func (p Proxy) listen(service string) (at netip.AddrPort, err error) {
	if p.Listen == "" {
		sum := sha256.Sum256([]byte(service))
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 100, sum[0], sum[1]%254 + 1}), 1080), nil
	}
	wrong := func(msg string) (netip.AddrPort, error) {
		return at, &OptionError{"listen", p.Listen, msg}
	}
	if at, err = netip.ParseAddrPort(p.Listen); err != nil || at.Port() == 0 {
		return wrong("it is not ADDRESS:PORT, as 127.100.90.50:1080")
	}
	if !at.Addr().IsLoopback() {
		return wrong("others than this host could use it")
	}
	if a := at.Addr(); a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || a == netip.IPv6Loopback() {
		return wrong("the service would reach all that listens at this address; give the proxy one of its own, as 127.100.90.50:1080")
	}
	return at, nil
}

// readable is an error if the proxy's unit could not read a file of the policy.
func (c *Config) readable(files []string) error {
	for _, name := range files {
		if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o004 == 0 {
			return fmt.Errorf("the proxy runs as a user of its own, who may not read %s (chmod o+r %s)", name, name)
		}
		if dir := unseen(name); dir != "" && c.here() {
			return fmt.Errorf("the proxy does not see %s, as it has no %s; keep it in /etc/appfw", name, dir)
		}
	}
	return nil
}
