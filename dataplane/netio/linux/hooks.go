package linux

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux/uplink"
)

// Hooks let the tests of an engine see, and change, what the kernel is asked for.
type Hooks struct{ *Backend }

// RefuseRuns has the kernel refuse UDP_SEGMENT on every sending socket, or take it
// again: without checksums it returns EINVAL (udp_send_skb).
func (h Hooks) RefuseRuns(on bool) error {
	value := 0
	if on {
		value = 1
	}
	for _, fd := range slices.Concat(h.sources.df, h.sources.frag) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, value); err != nil {
			return err
		}
	}
	return nil
}

// NoteRefusal notes that the route to the peer refuses UDP_SEGMENT, as one does whose
// packets IPsec transforms.
func (h Hooks) NoteRefusal(peer netip.Addr, errno unix.Errno) { h.sources.refuse(peer, errno) }

// SetTime replaces the time of refusals.
func (h Hooks) SetTime(now func() time.Time) { h.sources.now = now }

// VacateReserved does what New does with source ports that were handed over.
func (h Hooks) VacateReserved() error { return h.sources.vacateReserved(h.Backend) }

// AllSourcePorts lists the source ports of both kinds of sockets.
func (h Hooks) AllSourcePorts() (all []uint16) {
	for i := range h.sources.ports {
		all = append(all, uint16(h.sources.ports[i].Load()))
	}
	return all
}

// DetachUplink takes the program off the Uplink.
func (h Hooks) DetachUplink() error { return h.up.Detach() }

// SendUnsegmented sends by the uplink of the first worker, from port 1.
func (h Hooks) SendUnsegmented(u *netio.Unsegmented) bool {
	w := &h.up.Workers[0]
	return w.Takes(u.To.Addr()) && w.Send(u, 1)
}

// OpenQueues opens a device, with the program that deals its flows to its queues or
// without.
func OpenQueues(s netio.DeviceSpec, steer bool) ([]netio.Device, error) {
	if !steer {
		return openTap(s, false)
	}
	return (&Backend{steering: newSteering()}).OpenDevice(s)
}

// TapGrants has the kernel grant a TAP less: the first so many of the offload sets
// that are asked for are left out until restore is called.
func TapGrants(less int) (restore func()) {
	was := offloadSteps
	offloadSteps = offloadSteps[less:]
	return func() { offloadSteps = was }
}

// UplinkByFeature lets GSO packets leave by devices with another feature than tunnel
// segmentation, so that the stack segments them. The backends of the test must be
// opened after it and closed before restore is called.
func UplinkByFeature(name string) (restore func()) {
	was := uplink.TunnelFeature
	uplink.TunnelFeature = name
	return func() { uplink.TunnelFeature = was }
}
