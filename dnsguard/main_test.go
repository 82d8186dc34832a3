package dnsguard

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain makes a new network namespace as good as a host: "unshare -rn" is where these tests show that they need
// no root and no route, and the loopback is down there.
func TestMain(m *testing.M) {
	if err := upLoopback(); err != nil {
		fmt.Fprintln(os.Stderr, "the loopback is down, and these tests need it:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// upLoopback sets the loopback up where it is not.
func upLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo); err != nil {
		return fmt.Errorf("SIOCGIFFLAGS: %w", err)
	}
	if lo.Uint16()&unix.IFF_UP != 0 {
		return nil
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("SIOCSIFFLAGS: %w", err)
	}
	return nil
}
