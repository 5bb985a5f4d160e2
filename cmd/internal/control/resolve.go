package control

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

	"overtap/dataplane"
	"overtap/encap"
)

// Resolved is how this host would address a packet to an inner address.
type Resolved struct {
	Network string         `json:"network"`
	Kind    dataplane.Kind `json:"kind"`
	// Source is this host's own address in the network; invalid = it has none of
	// the family.
	Source    netip.Addr `json:"source,omitzero"`
	SourceMAC encap.MAC  `json:"source_mac"` // of a VXLAN network
	Via       netip.Addr `json:"via,omitzero"`
	// MAC is what the packet is sent to; zero = it is not known here, and asked for.
	MAC   encap.MAC `json:"mac"`
	Known string    `json:"known,omitempty"` // by what the MAC is known
}

func handleResolve(mux *http.ServeMux, d Daemon) {
	mux.HandleFunc("GET "+pathResolve, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		a, err := netip.ParseAddr(q.Get("address"))
		if err != nil {
			refuse(w, http.StatusBadRequest, fmt.Errorf("address %q: want an IP address", q.Get("address")))
			return
		}
		resolved, err := d.Resolve(q.Get("network"), a.Unmap())
		answer(w, resolved, err)
	})
}

// Resolve says how the daemon's host would address a packet to an inner address of
// the named network; "" is the only one.
func (c *Client) Resolve(ctx context.Context, network string, a netip.Addr) (Resolved, error) {
	var r Resolved
	q := url.Values{"network": {network}, "address": {a.String()}}
	err := c.do(ctx, http.MethodGet, pathResolve+"?"+q.Encode(), nil, &r)
	return r, err
}
