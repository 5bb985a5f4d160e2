package dataplane

import "golang.org/x/sys/unix"

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
