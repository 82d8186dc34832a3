package netns

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setGRO switches generic receive offload on for a veth end, in the calling
// thread's namespace. That gives the end a receive queue and NAPI context of its
// own (kernel commit d3256efd8e8b): without, it shares the CPU's backlog with
// loopback and all other veths, which drops packets when any of them is flooded.
func setGRO(device string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ command, data uint32 }{unix.ETHTOOL_SGRO, 1} // struct ethtool_value
	var request struct {                                          // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}
	copy(request.name[:], device)
	request.data = unsafe.Pointer(&value)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&value)
	if e != 0 {
		return fmt.Errorf("%s: generic receive offload: %w", device, e)
	}
	return nil
}
