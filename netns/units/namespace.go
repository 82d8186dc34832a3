package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Namespace lets a service run in a network namespace that appfw serves. Several
// services may share one.
type Namespace struct {
	Name string // of the namespace; empty is that of the service
	// Policy is a file. Without one, the service joins a namespace that is served
	// already.
	Policy string
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
// systemd.exec(5)). The error may be [ErrNoPolicy], [ErrName], [ErrServed] or an
// [*OptionError].
func (c Config) Namespace(ctx context.Context, service string, n Namespace) (*Change, error) {
	change, policy, _, err := c.prepare(ctx, service, n.Policy)
	if err != nil {
		return nil, err
	}
	if n.Name == "" {
		n.Name = instance(change.Service)
	}
	if !regexp.MustCompile(`^[A-Za-z0-9_.@-]{1,100}$`).MatchString(n.Name) || strings.Trim(n.Name, ".") == "" {
		return nil, fmt.Errorf("%.80q is %w", n.Name, ErrName)
	}
	program, err := c.program(change)
	if err != nil {
		return nil, err
	}
	words := []string{program, "netns", n.Name, "--policy", policy}
	for _, p := range n.Publish {
		words = append(words, "--publish", p)
	}
	start := quoteWords(words...)
	name := "appfw-netns@" + n.Name
	serving := filepath.Join(c.directory(), name+".service")
	there, err := os.ReadFile(serving)
	isOthers := err == nil && !bytes.HasPrefix(there, []byte(mark+"netns "+change.Service+" "))
	switch {
	case policy == "" && (err != nil || len(n.Publish) > 0):
		return nil, ErrNoPolicy
	case policy != "" && isOthers && !bytes.Contains(there, []byte("\nExecStart="+start+"\n")):
		return nil, fmt.Errorf("%s %w", serving, ErrServed)
	}
	files := []File{
		{serving, netnsService},
		{filepath.Join(c.directory(), name+".target"), netnsTarget},
		{change.dropIn, netnsDropIn},
	}
	if policy == "" || isOthers {
		files = files[2:] // what serves it is as it was
	}
	change.Write, err = render(map[string]any{
		"Undo": "netns " + change.Service + " --remove", "Name": name, "Namespace": n.Name, "Start": start, "Files": c.FilesDir(n.Name),
	}, files)
	change.Remove = change.obsolete()
	return change, err
}
