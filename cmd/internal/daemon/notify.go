package daemon

import (
	"log/slog"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// notify tells systemd how the service stands (sd_notify(3)), when it was
// started by systemd with Type=notify. It is never worth stopping for.
func notify(log *slog.Logger, state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.Warn("cannot notify systemd", "state", state, "err", err)
	}
}
