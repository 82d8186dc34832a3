package view

import (
	"path/filepath"
	"strings"
)

// device is a pattern of names below /dev, and where such devices lead. A name that
// ends in a slash is a directory.
type device struct{ pattern, leads string }

// devices lead out of a network namespace for whoever may open them, without any
// capability. /dev/net/tun does not: its interfaces are the opener's namespace's, and
// ask for CAP_NET_ADMIN there; neither do /dev/ppp (the same) and /dev/vhost-net, which
// wants such an interface.
var devices = []device{
	{"vhost-vsock", "the host's vsock services, as a guest"},
	{"vmci", "the hypervisor"}, {"vboxguest", "the hypervisor"}, {"vboxuser", "the hypervisor"}, {"xen/", "other guests"},
	{"vport[0-9]*", "the hypervisor"},
	{"tap[0-9]*", "the network of a macvtap"},
	{"infiniband/", "RDMA networks, which network namespaces do not divide"},
	{"vfio/", "network cards by themselves"}, {"uio[0-9]*", "network cards by themselves"}, {"iommu", "network cards by themselves"},
	{"cdc-wdm*", "modems"}, {"wwan*", "modems"}, {"ttyUSB*", "modems"}, {"ttyACM*", "modems"}, {"ttyHS*", "modems"},
	{"ttyS[0-9]*", "serial lines"}, {"ttyAMA[0-9]*", "serial lines"}, {"rfcomm*", "Bluetooth"}, {"vhci", "Bluetooth"},
	{"capi20*", "ISDN"}, {"bus/usb/", "network devices and modems by themselves"}, {"fw[0-9]*", "FireWire"},
	{"mei[0-9]*", "the management engine, which has a network"}, {"ipmi[0-9]*", "the management controller, which has a network"},
	{"uinput", "the keyboard of others' terminals"}, {"uhid", "the keyboard of others' terminals"},
}

// deviceFiles are those that there are.
func deviceFiles() (files, dirs []string) {
	names, _ := readNames("/dev")
	for _, d := range devices {
		if dir, ok := strings.CutSuffix(d.pattern, "/"); ok {
			if isDirectory(filepath.Join("/dev", dir)) {
				dirs = append(dirs, filepath.Join("/dev", dir))
			}
			continue
		}
		for _, name := range names {
			if ok, _ := filepath.Match(d.pattern, name); ok {
				files = append(files, filepath.Join("/dev", name))
			}
		}
	}
	return files, dirs
}
