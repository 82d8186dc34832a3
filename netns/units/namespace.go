package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Namespace lets a service run in a network namespace that appfw serves. Several
// services may share one. Without a policy, the service joins a namespace that is served
// already.
type Namespace struct {
	Options
	Name string // of the namespace; empty is that of the service
	// Publish are ports of the host by which clients come to the namespace, as the
	// command netns of appfw has them: [ADDR:]HOSTPORT:PORT[/udp].
	Publish []string
}

// Errors of a namespace that cannot be had.
var (
	ErrName   = errors.New("no name for a namespace of units")
	ErrServed = errors.New("serves this namespace already, with another policy or other ports")
)

// Namespace is how a service is put into a namespace (NetworkNamespacePath= of
// systemd.exec(5)), with what systemd listens at for it. The error may be [ErrNoPolicy],
// [ErrName], [ErrServed] or an [*OptionError].
func (c Config) Namespace(ctx context.Context, service string, n Namespace) (*Change, error) {
	b, err := c.prepare(ctx, service, n.Options)
	if err != nil {
		return nil, err
	}
	service = b.change.Service
	if n.Name == "" {
		n.Name = instance(service)
	}
	if !regexp.MustCompile(`^[A-Za-z0-9_.@-]{1,100}$`).MatchString(n.Name) || strings.Trim(n.Name, ".") == "" {
		return nil, fmt.Errorf("%.80q is %w", n.Name, ErrName)
	}
	start, err := n.start(&b)
	if err != nil {
		return nil, err
	}
	name := "appfw-netns@" + n.Name
	serving := filepath.Join(c.directory(), name+".service")
	there, err := os.ReadFile(serving)
	isOthers := err == nil && !bytes.HasPrefix(there, []byte(mark+"netns "+service+" "))
	switch {
	case b.policy == "" && (err != nil || len(n.Publish) > 0):
		return nil, ErrNoPolicy
	case b.policy != "" && isOthers && !bytes.Contains(there, []byte("\nExecStart="+start+"\n")):
		return nil, fmt.Errorf("%s %w", serving, ErrServed)
	}
	files := []File{{serving, netnsService}, {filepath.Join(c.directory(), name+".target"), netnsTarget}}
	if b.policy == "" || isOthers {
		files = nil // what serves it is as it was
	}
	for _, socket := range c.toMove(&b, n.Keep) {
		files = append(files, File{c.dropInOf(socket), socketDropIn})
	}
	files = append(files, File{b.change.dropIn, netnsDropIn})
	return c.finish(&b, "netns "+service+" --remove", map[string]any{
		"Name": name, "Namespace": n.Name, "Start": start, "Policy": quoteWords(b.policy), "Files": c.FilesDir(n.Name), "Resolver": c.resolver(&b),
	}, files)
}

// start is the command line of what serves the namespace.
func (n Namespace) start(b *behind) (string, error) {
	words := []string{b.program, "netns", n.Name, "--policy", b.policy}
	for _, p := range n.Publish {
		words = append(words, "--publish", p)
	}
	if n.Log != "" {
		if n.Log != "-" && !filepath.IsAbs(n.Log) {
			return "", &OptionError{"log", n.Log, "units name files by an absolute path"}
		}
		words = append(words, "--log", n.Log)
	}
	if n.Quiet {
		words = append(words, "--quiet")
	}
	return quoteWords(words...), nil
}

// toMove are the socket units of the service that belong into the namespace, as what they
// open would lead out of it, and clients would come past allow-from.
func (c *Config) toMove(b *behind, keep []string) (sockets []string) {
	f := b.facts
	if f == nil {
		return nil
	}
	kept := keepsSockets(keep)
	for _, s := range f.sockets {
		name := s.get("Id")
		if !s.networked() || strings.Contains(kept, keepsSocket(name)) {
			continue
		}
		sockets = append(sockets, name)
		if s.isActive() {
			b.change.sockets = append(b.change.sockets, name)
		}
		b.change.note("%s listens in the namespace from its next start on: clients of the host come to it by --publish alone", name)
	}
	return sockets
}

// resolver are the lines that leave a service its resolver, if it has lists of addresses
// of its own; that these hold besides the policy is noted.
func (c *Config) resolver(b *behind) string {
	const lines = "# So that IPAddressDeny= leaves it its resolver.\nIPAddressAllow=192.0.0.1 fd61:7070:6677::1\n"
	f := b.facts
	if old, _ := os.ReadFile(b.change.dropIn); f == nil || bytes.Contains(old, []byte("\nIPAddressDeny=")) {
		return lines // it may have such a list; what is in force may be that of a proxy
	}
	denies := ""
	for _, p := range append([]properties{f.properties}, f.slices...) {
		if denied := p.words("IPAddressDeny"); len(denied) > 0 {
			slices.Sort(denied) // systemd has no order of its own
			b.change.note("IPAddressDeny=%s of %s holds besides the policy, for clients of published ports as well", strings.Join(denied, " "), p.get("Id"))
			denies = lines
		}
	}
	return denies
}
