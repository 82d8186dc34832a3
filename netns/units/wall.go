package units

import (
	"fmt"
	"slices"
	"strings"
)

// A wall is what keeps a service from leaving: it may be root and hostile, and is kept
// by settings of systemd.exec(5). Each of these only takes away: whatever the unit says
// itself holds as well. They hold for services of ordinary users, too, who may find a
// way to be root; only what these need not lose is kept.
//
// What the host does later for files that the service writes is not walled off, but for
// those that run programs by themselves (cron, units).

// kept are names that may be taken out of the wall, and what the service can do then.
// Names of capabilities that are not here have the cost of "".
var kept = map[string]string{
	"":                        "what keeps it in is weaker by that",
	"CAP_NET_ADMIN":           "it can change the network that it is in, and its filters",
	"CAP_NET_RAW":             "it can send packets that no filter of sockets sees",
	"CAP_SYS_ADMIN":           "it can leave, by mounts and namespaces",
	"CAP_SYS_PTRACE":          "it can have any process of the host work for it",
	"CAP_SYS_MODULE":          "it can load code into the kernel",
	"ProtectControlGroups":    "as root it can leave its control group, and what systemd denies to that",
	"ProtectKernelTunables":   "as root it can have the kernel start programs outside, as by core_pattern",
	"ProtectKernelModules":    "it sees the kernel's modules",
	"PrivateDevices":          "it reaches devices: disks, modems, the hypervisor",
	"SystemCallArchitectures": "by 32-bit system calls it can have sockets of all families, as to the hypervisor (AF_VSOCK)",
	"RestrictNamespaces":      "as root it can have the kernel start programs outside, by a /proc of its own",
	"AF_PACKET":               "it can send packets that no filter of sockets sees",
	"AF_VSOCK":                "it reaches the hypervisor",
	"ptrace":                  "it can have other processes of its user work for it",
	"io_uring_setup":          "it can have sockets of all families, as to the hypervisor (AF_VSOCK)",
	"setns":                   "it can enter containers of its user",
	"open_by_handle_at":       "as root it can open files that are covered",
	"/proc":                   "it can write into other processes of its user, and have them work for it",
	"/run/dbus":               "as root it can have systemd start programs outside; others may resolve names for it",
	"/run/systemd/private":    "as root it can have systemd start programs outside",
	"/run/user":               "it can have the managers of users start programs outside",
	"/etc":                    "as root it can have programs started outside: units, cron, ld.so.preload",
	"/usr":                    "as root it can change the programs of the host",
	"/run/systemd":            "as root it can write units that are started outside",
	"/run/systemd/resolve":    "the host's resolver resolves names for it",
	keepSetuid:                "programs of it can become other users, and all can have sockets of all families, as to the hypervisor (AF_VSOCK), and trace processes of their user",
}

// keepSetuid is the name by which all goes that sets no_new_privs for services of
// ordinary users (systemd.exec(5), NoNewPrivileges=): all that filters system calls.
const keepSetuid = "setuid"

// capabilities are those by which root leaves.
var capabilities = []string{
	"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_BOOT", "CAP_MKNOD",
	"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE",
}

// families are those that systemd knows, but for AF_UNIX, AF_NETLINK and IP, and
// AF_ALG, which is no network. Some know no namespaces (AF_VSOCK), and some have the
// kernel send for them (AF_RXRPC, AF_RDS).
var families = strings.Fields(`AF_APPLETALK AF_ATMPVC AF_ATMSVC AF_AX25 AF_BLUETOOTH AF_BRIDGE AF_CAIF AF_CAN AF_ECONET AF_IB
	AF_IEEE802154 AF_IPX AF_IRDA AF_ISDN AF_IUCV AF_KCM AF_KEY AF_LLC AF_MPLS AF_NETBEUI AF_NETROM AF_NFC AF_PACKET AF_PHONET
	AF_PPPOX AF_QIPCRTR AF_RDS AF_ROSE AF_RXRPC AF_SMC AF_SNA AF_TIPC AF_VSOCK AF_WANPIPE AF_X25 AF_XDP`)

// calls are system calls that no capability of the above is needed for, with their
// errors. io_uring makes sockets past the filter of families.
var calls = []string{
	"ptrace:EPERM", "process_vm_writev:EPERM", "pidfd_getfd:EPERM", "setns:EPERM", "open_by_handle_at:EPERM", "io_uring_setup:ENOSYS",
}

// hidden are sockets of the host that start programs, resolve or connect for others.
var hidden = []string{
	"/run/dbus", "/run/systemd/private", "/run/systemd/io.systemd.Manager", "/run/systemd/machine", "/run/systemd/resolve", "/run/user", "/run/initctl", "/run/udev/control",
	"/run/nscd", "/run/avahi-daemon", "/run/rpcbind.sock", "/run/cups", "/run/tor",
	"/run/docker.sock", "/run/docker", "/run/podman", "/run/containerd", "/run/crio", "/run/libvirt",
	"/run/snapd.socket", "/run/snapd-snap.socket", "/run/lxd.socket", "/var/lib/lxd/unix.socket", "/var/snap/lxd",
}

// readOnly are files from which the host starts programs by itself; and /proc, where
// the memory of other processes can be written (proc_pid_mem(5)).
var readOnly = []string{"/proc", "/etc", "/usr", "/boot", "/efi", "/run/systemd", "/run/udev", "/var/spool/cron", "/var/spool/at"}

// optional stands before a path that need not be there, and is meant as the service has
// it (RootDirectory=).
const optional = "-+"

// wall is one with things left out.
type wall struct {
	keep  []string // names of kept, capabilities, families, calls, paths
	own   []string // paths of appfw's own, which the service may not change
	other []string // names that are known, and are not of settings
}

// unknown is an error if a name that is to be kept means nothing.
func (w *wall) unknown() error {
	for _, name := range w.keep {
		_, isKept := kept[name]
		known := isKept && name != "" || slices.Contains(capabilities, name) || slices.Contains(families, name) || slices.Contains(hidden, name) ||
			slices.Contains(readOnly, name) || slices.Contains(w.other, name) ||
			slices.ContainsFunc(calls, func(c string) bool { return callName(c) == name })
		if !known {
			return &OptionError{"keep", name, "it is nothing that is taken from services; see --dry-run"}
		}
	}
	return nil
}

func (w *wall) keeps(name string) bool { return slices.Contains(w.keep, name) }

// costs are what the service can do by what is kept.
func (w *wall) costs() (notes []string) {
	for _, name := range w.keep {
		cost, known := kept[name]
		switch {
		case cost == "" && strings.HasPrefix(name, "/"):
			cost = "it reaches what is there"
		case slices.Contains(w.other, name):
			cost = "what is passed to the service leads past appfw"
		case !known || cost == "":
			cost = kept[""]
		}
		notes = append(notes, fmt.Sprintf("--keep %s: %s", name, cost))
	}
	return notes
}

func callName(call string) string {
	name, _, _ := strings.Cut(call, ":")
	return name
}

// rest are the words of a list but for those that are kept, each with something before it.
func (w *wall) rest(list []string, before string) (words []string) {
	for _, word := range list {
		if !w.keeps(callName(word)) {
			words = append(words, before+word)
		}
	}
	return words
}

// text is the wall as lines of a drop-in.
func (w *wall) text() string {
	var b strings.Builder
	list := func(key string, words []string) {
		if len(words) > 0 {
			fmt.Fprintf(&b, "%s=%s\n", key, strings.Join(words, " "))
		}
	}
	setting := func(key, value string) {
		if !w.keeps(key) {
			fmt.Fprintf(&b, "%s=%s\n", key, value)
		}
	}
	b.WriteString("# By these, others would resolve for it, or let it out.\n")
	list("InaccessiblePaths", w.rest(hidden, optional))
	b.WriteString("# These run by themselves, or are appfw's; and /proc is other processes' memory.\n")
	list("ReadOnlyPaths", w.rest(slices.Concat(readOnly, w.own), optional))
	b.WriteString("# What else root leaves by. To leave something out: --keep NAME.\n")
	setting("ProtectControlGroups", "yes")
	inverted := func(key string, list []string) {
		if words := w.rest(list, ""); len(words) > 0 {
			fmt.Fprintf(&b, "%s=~%s\n", key, strings.Join(words, " "))
		}
	}
	inverted("CapabilityBoundingSet", capabilities)
	if w.keeps(keepSetuid) { // what is left of the settings below without a filter of system calls
		list("ReadOnlyPaths", []string{optional + "/sys"})
		setting("DevicePolicy", "closed")
		return b.String()
	}
	setting("ProtectKernelTunables", "yes")
	setting("ProtectKernelModules", "yes")
	setting("PrivateDevices", "yes")
	inverted("RestrictAddressFamilies", families)
	setting("RestrictNamespaces", "~user") // root of one mounts a /proc in which the kernel's settings can be written
	inverted("SystemCallFilter", calls)
	if !w.keeps("SystemCallArchitectures") {
		b.WriteString("SystemCallArchitectures=\nSystemCallArchitectures=native\n")
	}
	return b.String()
}
