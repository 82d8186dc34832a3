// Package view is what the program sees of the host: the files by which it resolves
// names, the sockets of other processes, and its environment. In it, appfw alone
// resolves names, and no process of the host resolves, connects or starts programs
// for it:
//
//	v := view.Of(view.Host{
//		Resolver: netns.Gateway4, // where names are resolved for it
//		Resolv:   []string{"search example.com"},
//		UID:      os.Getuid(),
//		Env:      os.Environ(),
//	}, []string{"/run/user/1000/bus"}) // which it is to see all the same
//	pid, err := ns.Start(netns.Command{Args: args, View: v})
//
// It is no sandbox for files: the program reads and writes what its user may, but for
// these. Nor does it see to networks, of which abstract sockets are a part; that is
// package netns.
package view

import (
	"fmt"
	"net/netip"
	"path/filepath"
)

// Host is the host's configuration, as far as a view depends on it.
type Host struct {
	Resolver netip.Addr // where names are resolved for the program
	Resolv   []string   // lines of resolv.conf(5) that hold for it as well: search, options
	Hosts    []byte     // hosts(5); nil if there is none
	Nsswitch []byte     // nsswitch.conf(5); nil if there is none

	UID  int      // the program's user
	Home string   // that user's in passwd(5); "" if there is none
	Env  []string // the program's environment, some of which names sockets
}

// View is how the program's files differ from the host's.
type View struct {
	// Files are replaced, read-only, by path. One that the host does not have is
	// left out.
	Files map[string][]byte

	// Private directories are copied at the top level: what the host adds to
	// them later stays out of the program's sight. A socket that is hidden in one
	// stays hidden when its daemon makes it anew.
	Private []string

	// Hidden sockets, and directories of them, are out of the program's sight,
	// but for those that Shown names. Links are not followed: in directories
	// like /tmp anybody can make them.
	Hidden, Shown []string

	// ReadOnly directories, and all that is mounted below, cannot be written.
	ReadOnly []string
}

// Of is the view that a program has of this host: resolv.conf(5) and nsswitch.conf(5)
// lead to appfw's resolver, and sockets by which another process would resolve,
// connect or run programs for it are hidden, but for those at the paths in shown.
func Of(h Host, shown []string) View {
	runtimeDir := fmt.Sprintf("/run/user/%d", h.UID)
	v := View{
		Files:   h.NameFiles(),
		Private: []string{"/run", runtimeDir},
		Hidden:  h.sockets(runtimeDir),
		Shown:   shown,
	}
	if h.UID == 0 {
		// Its owner may write there without any capability, and so have the
		// kernel start programs outside (core_pattern, uevent_helper).
		v.ReadOnly = []string{"/proc/sys", "/proc/sysrq-trigger", "/sys"}
		return v
	}
	// ssh(1) wants these files to be root's or its user's, and with one
	// user mapped, root's seem to be nobody's. Copies are the user's.
	config, _ := filepath.Glob("/etc/ssh/ssh_config.d/*.conf")
	for _, name := range config {
		if content, err := ReadFile(name); err == nil {
			v.Files[name] = content
		}
	}
	return v
}
