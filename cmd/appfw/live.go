package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/policy"
	"appfw/proxy"
)

// loaded is a policy with all that its lines name.
type loaded struct {
	rules     *policy.Policy
	hosts     map[policy.Name][]netip.Addr
	resolvers *dnsguard.Resolvers
	chains    map[string]*proxy.Chain
	files     []string // that were read
	stamps    string   // of them, as of before
}

// load reads the policy that the flags make. host is the host's own
// configuration; what the lines say goes before it.
func (p *policyFlags) load(host hostConfig) (*loaded, error) {
	l := new(loaded)
	var err error
	l.rules, err = policy.Compile(policy.Config{Lines: p.lines, Open: func(name string) (io.ReadCloser, error) {
		l.reads(name)
		return os.Open(name)
	}})
	if err != nil {
		return nil, err
	}
	l.resolvers = &dnsguard.Resolvers{Host: host.servers}
	for _, line := range l.rules.DNS {
		server, err := dnsguard.ParseServer(line.Arg)
		if err != nil {
			return nil, &policy.SyntaxError{Pos: line.Pos, Msg: err.Error()}
		}
		l.resolvers.Servers = append(l.resolvers.Servers, server)
	}
	l.chains = make(map[string]*proxy.Chain)
	for name, lines := range l.rules.Upstreams {
		chain := proxy.NewChain()
		for _, line := range lines {
			if err := chain.Append(line.Arg); err != nil {
				return nil, &policy.SyntaxError{Pos: line.Pos, Msg: err.Error()}
			}
		}
		l.chains[name] = chain
	}
	l.hosts = make(map[policy.Name][]netip.Addr)
	for name, addrs := range host.hosts {
		l.hosts[name] = addrs
	}
	for _, line := range l.rules.Hosts {
		l.reads(line.Arg)
		f, err := os.Open(line.Arg)
		if err != nil {
			return nil, &policy.SyntaxError{Pos: line.Pos, Word: line.Arg, Msg: fmt.Sprintf("cannot open it: %v", err)}
		}
		hosts, err := dnsguard.ReadHosts(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", line.Arg, err)
		}
		for name, addrs := range hosts {
			l.hosts[name] = addrs
		}
	}
	return l, nil
}

// synthetic makes the addresses that stand for names. They stay those of the first
// policy: the app has some.
func (l *loaded) synthetic() *dnsguard.Synthetic {
	return &dnsguard.Synthetic{V4: l.rules.SyntheticV4, V6: l.rules.SyntheticV6}
}

// reads records that a file is about to be read.
func (l *loaded) reads(name string) {
	l.files = append(l.files, name)
	l.stamps += stamps([]string{name})
}

// live is the policy in force. It is read anew while the app runs, when its
// files change or on a signal.
type live struct {
	flags  policyFlags
	host   hostConfig
	report *reporter
	check  func(*loaded) error // says what cannot be in force; may be nil
	theirs writers             // which of its files those who are judged by it could change
	come   bool                // there are clients to be judged by allow-from
	hidden bool                // there are sockets hidden, which allow-unix may show
	proxy  *proxy.Proxy        // that judges by it

	current atomic.Pointer[loaded]
}

// open reads the policy and makes the proxy that judges by it. What the policy
// says goes into the configuration of that.
func (l *live) open(c proxy.Config) (first *loaded, err error) {
	if first, err = l.load(); err != nil {
		return nil, err
	}
	l.current.Store(first)
	c.Pins = new(dnsguard.Pins)
	c.Guard = dnsguard.New(dnsguard.Config{
		Policy: l.policy, Upstream: l, Pins: c.Pins, Hosts: l.hosts, Zone: l.zone, Now: time.Now, Log: l.report.question,
		Synthetic: first.synthetic(),
	})
	c.Policy, c.Chain, c.Now, c.Log = l.policy, l.chain, time.Now, l.report.event
	l.proxy = proxy.New(c)
	l.note(first.rules)
	return first, nil
}

// note tells of lines that do nothing here.
func (l *live) note(rules *policy.Policy) {
	var notes []string
	if !l.come && len(rules.ClientRules()) > 0 {
		notes = append(notes, "allow-from and deny-from do nothing, as no port is published (--publish)")
	}
	if !l.hidden && len(rules.Shown) > 0 {
		notes = append(notes, "allow-unix does nothing: only appfw run hides sockets")
	}
	if rules.Isolate != "" && len(rules.Upstreams) == 0 {
		notes = append(notes, "isolate does nothing without an upstream")
	}
	for _, name := range slices.Sorted(maps.Keys(rules.Upstreams)) {
		if name != policy.Default && !slices.ContainsFunc(rules.Rules(), func(r *policy.Rule) bool { return r.Via() == name }) {
			notes = append(notes, fmt.Sprintf("nothing goes out by the upstream %s, as no allow says via=%[1]s", name))
		}
	}
	for _, text := range notes {
		l.report.note(text)
	}
}

func (l *live) load() (*loaded, error) {
	next, err := l.flags.load(l.host)
	if err == nil && l.check != nil {
		err = l.check(next)
	}
	return next, err
}

func (l *live) policy() *policy.Policy              { return l.current.Load().rules }
func (l *live) hosts() map[policy.Name][]netip.Addr { return l.current.Load().hosts }
func (l *live) zone(n policy.Name) bool             { return l.current.Load().resolvers.Zone(n) }

func (l *live) chain(name string) *proxy.Chain { return l.current.Load().chains[name] }

// Exchange implements [dnsguard.Exchanger].
func (l *live) Exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	return l.current.Load().resolvers.Exchange(ctx, q)
}

// settle is how long files have to stay the same before they are read, also on a
// signal: what is being written may lack the half that denies.
const settle = time.Second

// watch reads the policy anew whenever one of its files has changed, and when
// asked, until ctx ends. Files that the app can change are read only once.
func (l *live) watch(ctx context.Context, asked <-chan struct{}) {
	loaded := l.current.Load()
	files, read := loaded.files, loaded.stamps
	last := read
	wanted, told := false, false // told: it was said that what changes is not read
	tick := time.NewTicker(settle)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-asked:
			if !wanted { // however often it is asked
				wanted = true
				last = stamps(files)
				tick.Reset(settle)
			}
			continue
		case <-ctx.Done():
			return
		}
		now := stamps(files)
		path, theirs := writable(files, l.theirs)
		switch {
		case now != last: // not settled
		case len(files) == 0 && wanted:
			l.report.reloaded("there is no file to read the policy anew from; it is all on the command line")
			wanted = false
		case theirs && (wanted || now != read && !told):
			why := "the program itself could change " + path
			if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
				why = path + " is not there"
			}
			l.report.reloaded("the policy was not read anew: " + why)
			wanted, told = false, true
		case !theirs && (wanted || now != read):
			l.reload()
			wanted = false
			if next := l.current.Load(); next != loaded {
				loaded, files, read = next, next.files, next.stamps
				now = stamps(files)
			} else {
				read = now // there is a mistake in it
			}
		}
		last = now
	}
}

// reload reads the policy anew. With a mistake in it, the old one stays.
func (l *live) reload() {
	old := l.current.Load()
	l.host.refresh()
	next, err := l.load()
	if err == nil && next.rules.OpenByDefault() && !old.rules.OpenByDefault() {
		err = errors.New("without an allow, all would be allowed that no rule denies; write default allow if that is meant")
	}
	if err == nil && next.rules.OpenToAll() && !old.rules.OpenToAll() {
		err = errors.New("without an allow-from, all could come to published ports that no rule denies; write allow-from any if that is meant")
	}
	if err != nil {
		l.report.reloaded("the policy stays as it was: " + firstMistake(err))
		return
	}
	same := func(a, b []policy.Line) bool {
		return slices.EqualFunc(a, b, func(a, b policy.Line) bool { return a.Arg == b.Arg })
	}
	if same(next.rules.DNS, old.rules.DNS) {
		next.resolvers = old.resolvers // with their connections
	}
	for name, chain := range old.chains {
		if same(next.rules.Upstreams[name], old.rules.Upstreams[name]) {
			next.chains[name] = chain // with its credentials
		}
	}
	l.current.Store(next)
	l.proxy.Guard.Forget()
	l.proxy.Recheck()
	l.report.reloaded("the policy was read anew")
	l.note(next.rules)
}

// firstMistake is an error in one line.
func firstMistake(err error) string {
	first, _, more := strings.Cut(err.Error(), "\n")
	if more {
		first += " (and others)"
	}
	return first
}

// stamps tells states of files apart.
func stamps(files []string) string {
	var b strings.Builder
	for _, name := range files {
		var st unix.Stat_t
		err := unix.Stat(name, &st)
		fmt.Fprintln(&b, name, err, st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim)
	}
	return b.String()
}

// writers are those who are judged by a policy, and who are not to make it
// themselves.
type writers struct {
	own func(path string, st *unix.Stat_t) bool // whether an entry, be it a link, is theirs; nil: nothing is
	may func(path string) bool                  // whether they may write to a path without that
}

// sameUser are programs that run as this process's user.
var sameUser = writers{own: owned, may: accessible}

// sameNamespace are programs of this process's user namespace, root's of which may
// do with the files of all its users what they like.
var sameNamespace = writers{
	own: func(path string, st *unix.Stat_t) bool { return st.Uid != overflowUID || owned(path, st) },
	may: accessible,
}

// notRoot are all but root. This process is root's, and may be without capabilities.
var notRoot = writers{
	own: func(_ string, st *unix.Stat_t) bool { return st.Uid != 0 },
	may: func(path string) bool {
		var st unix.Stat_t
		return unix.Stat(path, &st) != nil || st.Mode&0o022 != 0
	},
}

// writable tells which of the files, or of the directories that lead to it, some
// could change: their policy is not for themselves to make.
func writable(files []string, some writers) (path string, ok bool) {
	if some.own == nil {
		return "", false
	}
	for _, name := range files {
		if !strings.HasPrefix(name, "/") {
			dir, err := os.Getwd()
			if err != nil {
				return name, true
			}
			name = dir + "/" + name // not cleaned: links come before dots
		}
		if path, ok := writablePath(name, some); ok {
			return path, true
		}
	}
	return "", false
}

// maxLinks is as many symbolic links as the kernel follows (path_resolution(7)).
const maxLinks = 40

// writablePath is writable for an absolute path. It goes along it as the kernel
// does.
func writablePath(path string, some writers) (string, bool) {
	at, links := "/", 0 // at has no links in it
	for rest := strings.Split(path, "/"); len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		var dir, entry unix.Stat_t
		next := filepath.Join(at, part)
		if err := unix.Lstat(at, &dir); err != nil {
			return at, true
		}
		if err := unix.Lstat(next, &entry); err != nil {
			return next, true // whoever makes it decides
		}
		// In a sticky directory (/tmp) others can do nothing to an entry.
		if some.own(at, &dir) || dir.Mode&unix.S_ISVTX == 0 && some.may(at) {
			return at, true
		}
		if some.own(next, &entry) { // be it a link: its owner may make another
			return next, true
		}
		if entry.Mode&unix.S_IFMT != unix.S_IFLNK {
			at = next
			continue
		}
		to, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return next, true
		}
		if strings.HasPrefix(to, "/") {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return at, some.may(at)
}

// accessible tells whether this process may write to a path, or might by another
// one: a file system that is read-only here need not be elsewhere.
func accessible(path string) bool {
	err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
	return err == nil || err == unix.EROFS
}

// overflowUID is whose files seem to be of which the owner is not mapped
// (kernel.overflowuid).
const overflowUID = 65534

// owned tells whether an entry belongs to this process's user, who so can give
// himself the right to write to it. Within a user namespace every user that is
// not mapped seems to be nobody: to nobody, the kernel says whose it is by who
// may open it without a new time of access (open(2), O_NOATIME).
func owned(path string, st *unix.Stat_t) bool {
	if int(st.Uid) != os.Geteuid() {
		return false
	}
	if st.Uid != overflowUID {
		return true
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOATIME|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err != unix.EPERM
}
