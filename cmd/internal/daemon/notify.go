package daemon

import (
	"context"
	"fmt"
	"log/slog"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// notifyReloading notifies systemd that the configuration is being read again, until
// READY=1.
func notifyReloading(log *slog.Logger) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		log.Debug("reading the monotonic clock", "err", err)
	}
	notify(log, fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// notify sends systemd the state of the service (sd_notify(3)), when it was
// started by systemd with Type=notify. It is never worth stopping for.
func notify(log *slog.Logger, state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.Warn("cannot notify systemd", "state", state, "err", err)
	}
}

// watchdog notifies systemd that the daemon runs, twice in the time that its unit
// gives it (WatchdogSec=), for as long as every thread of the path comes round.
func (d *daemon) watchdog(ctx context.Context) error {
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		if err != nil {
			d.Log.Warn("the unit's watchdog is not understood: it gets no answer", "err", err)
		}
		return nil
	}
	hangs := false
	for sleep(ctx, every/2) {
		alive := d.alive()
		if alive {
			notify(d.Log, "WATCHDOG=1")
		} else if !hangs {
			d.Log.Error("a thread of the path hangs: the watchdog gets no answer")
		}
		hangs = !alive
	}
	return nil
}

// alive reports whether the engine's threads come round. It does not wait for a
// reload, which may take long.
func (d *daemon) alive() bool { return d.engine.get().Alive() }
