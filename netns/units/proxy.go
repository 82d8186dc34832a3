package units

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Proxy lets a service reach nothing but a proxy, which starts when the service
// connects.
type Proxy struct {
	Options
	// Listen is where the proxy listens, ADDRESS:PORT of the loopback. Empty is
	// 127.100.x.y:1080, x and y by the name of the service.
	Listen string
}

// Proxy is how a service is put behind a proxy: IPAddressDeny= of
// systemd.resource-control(5), and the variables by which programs find a proxy.
// That systemd keeps IPAddressDeny= is tried before anything is written.
// The error may be [ErrNoPolicy] or an [*OptionError].
func (c Config) Proxy(ctx context.Context, service string, p Proxy) (*Change, error) {
	b, err := c.prepare(ctx, service, p.Options)
	if err != nil {
		return nil, err
	}
	if b.policy == "" {
		return nil, ErrNoPolicy
	}
	service = b.change.Service
	at, err := p.listen(service)
	if err != nil {
		return nil, err
	}
	if f := b.facts; f != nil {
		if err := f.checkSockets("", keepsSockets(p.Keep)); err != nil {
			return nil, err
		}
	}
	if b.Admits != nil && !b.Admits(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port()) {
		return nil, fmt.Errorf("the policy lets the service itself not come to its proxy (allow-from localhost:%d would)", at.Port())
	}
	words := []string{b.program, "serve", "--policy", b.policy}
	logs, err := p.log(&words)
	if err != nil {
		return nil, err
	}
	secrets, reload, err := c.secrets(&b)
	if err != nil {
		return nil, err
	}
	name := "appfw-serve@" + instance(service)
	if err := c.free(ctx, at, name+".socket"); err != nil {
		return nil, err
	}
	b.change.program = b.program
	return c.finish(&b, "proxy "+service+" --remove", map[string]any{
		"Service": service, "Name": name, "At": at, "Addr": at.Addr(), "Start": quoteWords(words...),
		"Secrets": secrets + logs, "Reload": reload,
	}, []File{
		{filepath.Join(c.directory(), name+".socket"), serveSocket},
		{filepath.Join(c.directory(), name+".service"), serveService},
		{b.change.dropIn, proxyDropIn},
	})
}

// finish makes the change of what is written: of these files, by the values and what all
// such changes have.
func (c *Config) finish(b *behind, undo string, values map[string]any, files []File) (*Change, error) {
	values["Undo"], values["Program"] = undo, quoteWords(b.program)
	values["Wall"] = keepsSockets(b.wall.keep) + b.wall.text()
	values["Check"] = checkName
	check, err := render(map[string]any{"Undo": "proxy|netns UNIT --remove, for each", "Program": quoteWords(b.program), "Mounts": quotePath(b.program)},
		[]File{{filepath.Join(c.directory(), checkName+".service"), checkService}})
	if err != nil {
		return nil, err
	}
	written, err := render(values, files)
	b.change.Write = append(check, written...)
	b.change.Remove = b.change.obsolete()
	return b.change, err
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
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if !at.Addr().IsLoopback() {
		return wrong("others than this host could use it")
	}
	if a := at.Addr(); a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || a == netip.IPv6Loopback() {
		return wrong("the service would reach all that listens at this address; give the proxy one of its own, as 127.100.90.50:1080")
	}
	return at, nil
}

// free is an error if something else than the socket unit listens where it is to.
func (c *Config) free(ctx context.Context, at netip.AddrPort, socket string) error {
	if !c.here() {
		return nil
	}
	if p, err := c.shown(ctx, socket); err != nil || p.isActive() && slices.ContainsFunc(p["Listen"], func(l string) bool { return strings.HasPrefix(l, at.String()+" ") }) {
		return err
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if errors.Is(err, unix.EADDRINUSE) {
		return &OptionError{"listen", at.String(), fmt.Sprintf("something listens there, or at port %d of all addresses (ss -ltnp 'sport = %[1]d' shows it): give another port, as --listen %s", at.Port(), netip.AddrPortFrom(at.Addr(), at.Port()+1))}
	}
	if err != nil {
		return &OptionError{"listen", at.String(), err.Error()}
	}
	return l.Close()
}

// log adds the flags of what is recorded, and returns what the unit needs for it.
func (p Proxy) log(words *[]string) (lines string, err error) {
	if p.Quiet {
		*words = append(*words, "--quiet")
	}
	if p.Log == "" {
		return "", nil
	}
	*words = append(*words, "--log", p.Log)
	if p.Log == "-" {
		return "", nil
	}
	dir := filepath.Dir(filepath.Clean(p.Log))
	if !regexp.MustCompile(`^/var/log/appfw[A-Za-z0-9_.@-]*$`).MatchString(dir) {
		return "", &OptionError{"log", p.Log, "the proxy runs as a user of its own, who has a directory of that name in /var/log, as /var/log/appfw-backup/log.json"}
	}
	return "LogsDirectory=" + filepath.Base(dir) + "\nLogsDirectoryMode=0750\n", nil
}

// secrets are the lines by which the proxy's unit reads a policy that its user may not:
// systemd passes it the files (LoadCredential= of systemd.exec(5)), where they are. What is
// passed is so as of the start: so what is reloaded is seen where process 1 sees it, and to
// reload is to start anew, after this command has ended, which would be ended by it.
func (c *Config) secrets(b *behind) (lines, reload string, err error) {
	check := quoteWords(b.program, "systemd", PolicyCommand, b.policy)
	reload = "ExecReload=" + check + "\nExecReload=/bin/kill -HUP $MAINPID\n"
	var closed []string // directories
	secret := false
	for _, name := range b.Files {
		if dir := unseen(name); dir != "" && c.here() {
			return "", "", fmt.Errorf("the proxy does not see %s, as it has no %s; keep it in /etc/appfw", name, dir)
		}
		info, err := os.Stat(name)
		if err != nil || !c.here() {
			continue // it is told when it is read
		}
		secret = secret || info.Mode().Perm()&0o004 == 0
		for dir := filepath.Dir(name); dir != "/"; dir = filepath.Dir(dir) {
			if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
				secret = true
				if !slices.Contains(closed, dir) {
					closed = append(closed, dir)
				}
			}
		}
	}
	if !secret {
		return "", reload, nil
	}
	var text strings.Builder
	unit := "appfw-serve@" + instance(b.change.Service) + ".service"
	slices.Sort(closed)
	for i, dir := range closed {
		if i == 0 || !isBelow(dir, closed[i-1]) {
			fmt.Fprintf(&text, "TemporaryFileSystem=%s:ro\n", quotePath(dir))
		}
	}
	for i, name := range b.Files {
		if strings.ContainsAny(name, ":\n") {
			return "", "", fmt.Errorf("the proxy runs as a user of its own, who may not read %q, and systemd cannot pass a file of that name", name)
		}
		fmt.Fprintf(&text, "LoadCredential=policy%d:%s\n", i, quotePath(name))
		fmt.Fprintf(&text, "BindReadOnlyPaths=%s\n", quotePath(fmt.Sprintf("/run/credentials/%s/policy%d:%s", unit, i, name)))
	}
	return text.String(), "ExecReload=+/usr/bin/nsenter --mount --target 1 -- " + check + "\n" +
		"ExecReload=+/usr/bin/systemd-run --quiet --collect --on-active=100ms --timer-property=AccuracySec=1ms /bin/systemctl restart %n\n", nil
}
