package netns

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Owner names the process that has the socket of a flow from src to dst: no other
// process ever has the same name. It is empty if there is none to be found. proto
// is TCP or UDP.
func (ns *Namespace) Owner(proto uint8, src, dst netip.AddrPort) string {
	inode, err := ns.inode(proto, src, dst)
	if err != nil || inode == 0 {
		return ""
	}
	link := fmt.Sprintf("socket:[%d]", inode) // proc_pid_fd(5)
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		files, _ := os.ReadDir(process + "/fd") // none, of processes that are another's
		for _, f := range files {
			if to, err := os.Readlink(process + "/fd/" + f.Name()); err == nil && to == link {
				return incarnation(process)
			}
		}
	}
	return ""
}

// inode is that of the socket, by sock_diag(7); 0 if there is none.
func (ns *Namespace) inode(proto uint8, src, dst netip.AddrPort) (inode uint32, err error) {
	list := netlink.SocketDiagTCP
	if proto == unix.IPPROTO_UDP {
		list = netlink.SocketDiagUDP
	}
	var sockets []*netlink.Socket
	err = ns.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} { // of both: IPv4 goes by sockets of IPv6, too
			some, err := list(family)
			if err != nil {
				return err
			}
			sockets = append(sockets, some...)
		}
		return nil
	})
	for _, s := range sockets {
		local, _ := netip.AddrFromSlice(s.ID.Source)
		remote, _ := netip.AddrFromSlice(s.ID.Destination)
		local, remote = local.Unmap(), remote.Unmap()
		unbound := proto == unix.IPPROTO_UDP && local.IsUnspecified()
		unconnected := proto == unix.IPPROTO_UDP && s.ID.DestinationPort == 0
		if s.ID.SourcePort == src.Port() && (local == src.Addr() || unbound) &&
			(unconnected || remote == dst.Addr() && s.ID.DestinationPort == dst.Port()) {
			return s.INode, err
		}
	}
	return 0, err
}

// incarnation is the number of a process and when it was started (proc_pid_stat(5)):
// numbers are used again.
func incarnation(process string) string {
	stat, err := os.ReadFile(process + "/stat")
	if err != nil {
		return ""
	}
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // from the third on
	const started = 22 - 3
	if len(fields) <= started {
		return ""
	}
	return process + " " + fields[started]
}
