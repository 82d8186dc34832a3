package units

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Notify tells the service manager something, if there is one (sd_notify(3)).
func Notify(state string) { _, _ = daemon.SdNotify(false, state) }

// NotifyReloading says that files are being read anew; who reads them says when that
// is done, by READY=1.
func NotifyReloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail
	Notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// FeedWatchdog tells the service manager's watchdog, if it wants to know, that all
// is well, until ctx ends: as often as alive returns.
func FeedWatchdog(ctx context.Context, alive func()) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	for {
		alive()
		Notify(daemon.SdNotifyWatchdog)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
