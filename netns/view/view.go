// Package view is what the program sees of the host: the files by which it resolves
// names, the sockets of other processes, and its environment. In it, appfw alone
// resolves names, and no process of the host resolves, connects or starts programs
// for it:
//
//	g := view.Watch(view.Host{
//		Resolver: netns.Gateway4, // where names are resolved for it
//		Resolv:   []string{"search example.com"},
//		UID:      os.Getuid(),
//		Env:      os.Environ(),
//	}) // looks for the host's sockets from now on
//	g.Show([]string{"/run/user/1000/bus"}) // which it is to see all the same
//	pid, err := ns.Start(netns.Command{Args: args, View: g})
//	g.Run(ctx, ns, events) // until ctx is done: what appears later is covered, too
//
// A socket file of the host can be reached by the program only if it was named, or if
// the program made it: whatever else is a socket that some process listens at is
// covered, wherever it is found and whatever it was called. Found it is by looking, so
// one that appears during the run is reached until the next look, up to a second
// later.
//
// It is no sandbox for files: the program reads and writes what its user may, but for
// these. Nor does it see to networks, of which abstract sockets are a part; that is
// package netns.
package view

import (
	"net/netip"
	"path/filepath"
	"slices"
)

// Host is the host's configuration, as far as a view depends on it.
type Host struct {
	Resolver netip.Addr // where names are resolved for the program
	Resolv   []string   // lines of resolv.conf(5) that hold for it as well: search, options
	Hosts    []byte     // hosts(5); nil if there is none
	Nsswitch []byte     // nsswitch.conf(5); nil if there is none

	Name string       // of the machine (gethostname(2)); "" leads nowhere
	Own  []netip.Addr // the program's own addresses, to which that name leads

	UID   int      // the program's user
	Home  string   // that user's in passwd(5); "" if there is none
	Dir   string   // the program's working directory; "" if it has none of the host's
	Env   []string // the program's environment, some of which names sockets
	Share []string // which sockets of a desktop it is to see, of package variable Share
}

// View is how the program's files differ from the host's.
type View struct {
	UID int // the program's user

	// Files are replaced, read-only, by path. One that the host does not have is
	// left out.
	Files map[string][]byte

	// Private directories are copied at the top level, without sockets: what the
	// host adds to them later stays out of the program's sight.
	Private []string

	// Hidden sockets, and directories of them, are out of the program's sight,
	// but for those that Shown names. Links are not followed: in directories
	// like /tmp anybody can make them.
	Hidden, Shown []string

	// Devices are files, or directories of them, that cannot be opened.
	Devices []string

	// Keep are directories that stay where a file system is covered as it connects
	// to what a path names.
	Keep []string

	// ReadOnly directories, and all that is mounted below, cannot be written.
	ReadOnly []string

	desktop []shared // sockets that only a word shows, or that nothing but their path does
	share   []string // and the words that were said
}

// Of is the view that a program has of this host: resolv.conf(5) and nsswitch.conf(5)
// lead to appfw's resolver, and what would resolve, connect or run programs for it is
// hidden, but for the sockets at the paths in shown.
func Of(h Host, shown []string) View {
	v := View{
		UID:     h.UID,
		Files:   h.NameFiles(),
		Private: []string{"/run", h.ownRun()},
		Hidden:  h.hidden(),
		Keep:    append(h.homes(), h.Dir),
		desktop: append(h.desktop(), h.useful()...), share: h.Share,
	}
	files, dirs := deviceFiles()
	v.Devices = append(files, dirs...)
	for _, path := range shown {
		v.Shown = append(v.Shown, path)
		if to, err := filepath.EvalSymlinks(path); err == nil && to != path {
			v.Shown = append(v.Shown, to)
		}
	}
	for _, s := range v.desktop {
		if s.from == s.at && slices.Contains(h.Share, s.word) {
			v.Shown = append(v.Shown, s.at)
		}
	}
	if h.UID == 0 {
		// Its owner may write there without any capability, and so have the
		// kernel start programs outside (core_pattern, uevent_helper).
		v.ReadOnly = []string{"/proc/sys", "/proc/sysrq-trigger", "/sys"}
	}
	return v
}
