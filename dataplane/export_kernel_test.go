package dataplane

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// RefuseSegments has the kernel refuse UDP_SEGMENT on every sending socket:
// without checksums it says EINVAL (udp_send_skb).
func (e *Engine) RefuseSegments() error {
	pool := e.edges.(*hostEdges).sources
	for _, fd := range append(pool.df, pool.frag...) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
			return err
		}
	}
	return nil
}

// RefuseRoute notes that the route to the peer refuses UDP_SEGMENT, as one does
// whose packets IPsec transforms.
func (e *Engine) RefuseRoute(peer netip.Addr) {
	e.edges.(*hostEdges).sources.refuse(peer, unix.EIO)
}

// TapGrants has the kernel grant a TAP less: the first so many of the offload
// sets that are asked for are not.
func TapGrants(less int) (restore func()) {
	was := offloadSteps
	offloadSteps = offloadSteps[less:]
	return func() { offloadSteps = was }
}

// UplinkByFeature lets superframes leave by devices with another feature than
// that of cutting tunnels, so that the stack cuts them. The engines of the test
// must be made after it and closed before the function it returns is called.
func UplinkByFeature(name string) (restore func()) {
	was := tunnelFeature
	tunnelFeature = name
	return func() { tunnelFeature = was }
}

// DetachUplink takes the program off the uplink.
func (e *Engine) DetachUplink() error { return e.edges.(*hostEdges).up.ingress.Close() }

// UplinkAllocs is how often sending a superframe allocates: one that is
// refused, to the loopback address.
func (e *Engine) UplinkAllocs(w *Whole) float64 {
	worker := &e.edges.(*hostEdges).up.workers[0]
	return testing.AllocsPerRun(100, func() {
		worker.takes(w.To.Addr())
		worker.send(w, 1)
	})
}

// OpenQueues opens a device of this host, with the program that deals its flows
// to its queues or without.
func OpenQueues(s DeviceSpec, steer bool) ([]Device, error) {
	if !steer {
		return openTap(s, false)
	}
	return (&hostEdges{steering: newSteering()}).OpenDevice(s)
}

// OpenHostEdges opens this host's edges, to be given to Options.
func OpenHostEdges(o Options) (Edges, error) { return newHostEdges(o, 1) }
