// Package tenants is who may use a proxy that serves many: users with passwords, each
// judged by the policy of all or by one of their own. Files of users and policies are read
// anew; what belongs to users who are gone is cut. How clients say who they are is package
// explicit's matter.
//
//	t := tenants.New(tenants.Config{Lines: lines, Users: "/etc/appfw/users", Host: host, Journal: j, Routes: routes})
//	all, err := t.Open(ctx)
//	s := explicit.New(explicit.Config{Proxy: all.Proxy, Admit: t.Admit})
package tenants

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"appfw/policy"
	"appfw/policy/source"
	"appfw/proxy"
	"appfw/proxy/decide"
	"appfw/proxy/explicit"
	"appfw/proxy/inforce"
	"appfw/proxy/journal"
)

// Config is what Tenants are made of.
type Config struct {
	Lines   []policy.Line    // the policy of all who have none of their own
	Users   string           // the file of users; "": nobody needs to be one
	Option  string           // by which it was given, for errors
	Host    inforce.Host     // the zero value: it has no resolvers, and no names
	Journal *journal.Journal // needed
	Own     []netip.AddrPort // where appfw itself listens; nil: nowhere
	Routes  proxy.Routes     // needed
}

// Tenants are those who use a proxy. Make them with New. Reload is for one goroutine, Admit
// for any.
type Tenants struct {
	Config

	work    sync.WaitGroup     // watches of policies
	tenants map[string]*tenant // by policy file; that of Lines is ""
	users   atomic.Pointer[map[string]member]
}

// New makes Tenants, of whom nothing is read yet.
func New(c Config) *Tenants { return &Tenants{Config: c, tenants: make(map[string]*tenant)} }

// Open reads the policies and the users. It returns the policy of all; those that there are
// are watched until ctx ends.
func (s *Tenants) Open(ctx context.Context) (*inforce.Policy, error) {
	all, err := s.tenant(ctx, "")
	if err != nil {
		return nil, err
	}
	if s.Users != "" {
		err = s.readUsers(ctx)
	}
	return all.Policy, err
}

// Wait waits until nothing is watched any more.
func (s *Tenants) Wait() { s.work.Wait() }

// tenant is a policy with those who use it.
type tenant struct {
	*inforce.Policy
	asked chan struct{} // to read the policy anew
}

// tenant is the one of a policy file; it is made if there is none yet.
func (s *Tenants) tenant(ctx context.Context, file string) (*tenant, error) {
	if t := s.tenants[file]; t != nil {
		return t, nil
	}
	lines := s.Lines
	if file != "" {
		lines = []policy.Line{{Word: "policy", Arg: file, Pos: policy.Pos{File: s.Users}}}
	}
	p, err := inforce.Open(inforce.Config{
		Source: source.Source{Lines: lines}, Host: s.Host, Journal: s.Journal, Check: s.check, Clients: true,
	}, proxy.Config{Own: s.Own, Shared: true, Routes: s.Routes})
	if err != nil {
		return nil, err
	}
	t := &tenant{p, make(chan struct{}, 1)}
	s.tenants[file] = t
	s.work.Go(func() { t.Watch(ctx, t.asked) })
	return t, nil
}

// check refuses policies that cannot be served.
func (s *Tenants) check(l *inforce.Loaded) error {
	if l.Policy.Settings().Isolate == policy.IsolateProcess {
		return errors.New("isolate process: a client's processes are not known to a proxy; by isolate destination hosts are kept apart, and clients by the credentials that they give")
	}
	for _, chain := range l.Chains {
		for _, at := range chain.First() {
			if s.listens(at) {
				return fmt.Errorf("the upstream %s is where appfw itself listens", chain)
			}
		}
	}
	return nil
}

// listens tells whether appfw itself listens at an address.
func (s *Tenants) listens(at netip.AddrPort) bool {
	return slices.ContainsFunc(s.Own, func(l netip.AddrPort) bool { return decide.Hears(l, at, s.Routes.Kind(at.Addr())) })
}

// Reload reads all files anew.
func (s *Tenants) Reload(ctx context.Context) {
	if s.Users != "" {
		if err := s.readUsers(ctx); err != nil {
			s.Journal.Reloaded("the users stay as they were: " + inforce.FirstMistake(err))
		} else {
			for _, t := range s.tenants {
				t.Proxy.Recheck() // cuts those of users who are gone
			}
			s.Journal.Reloaded("the users were read anew")
		}
	}
	for _, t := range s.tenants {
		if s.Users != "" && len(t.Current().Files()) == 0 {
			continue // it is all on the command line, and something has been said
		}
		select {
		case t.asked <- struct{}{}:
		default: // it has been asked
		}
	}
}

// member is one who may use the proxy, with what decides on the flows.
type member struct {
	explicit.User
	proxy *proxy.Proxy
}

// readUsers reads the users and their policies. With a mistake in them, those
// that there are stay.
func (s *Tenants) readUsers(ctx context.Context) error {
	f, err := os.Open(s.Users)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Option, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", s.Option, err)
	}
	if info.Mode().Perm()&0o027 != 0 {
		return fmt.Errorf("%s: others can read the passwords in %s (chmod 600 %s)", s.Option, s.Users, s.Users)
	}
	users, err := explicit.ParseUsers(s.Users, f)
	if err != nil {
		return err
	}
	known := make(map[string]member)
	for name, u := range users {
		t, err := s.tenant(ctx, u.Policy)
		if err != nil {
			return fmt.Errorf("the policy of %s (%s:%d): %w", name, s.Users, u.Line, err)
		}
		if before := s.users.Load(); before != nil {
			u.Keep((*before)[name].User)
		}
		known[name] = member{u, t.Proxy}
	}
	s.users.Store(&known)
	return nil
}

// Admit is what decides on the flows of a user; nil if there is none with the
// password.
func (s *Tenants) Admit(name, password string) *proxy.Proxy {
	users := *s.users.Load()
	u, known := users[name]
	if !known {
		for _, u = range users { // that it takes as long tells nothing of who there is
			break
		}
	}
	if !u.Is(password) || !known {
		return nil
	}
	return u.proxy
}
