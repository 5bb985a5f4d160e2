package control

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"overtap/encap"
)

// Cluster is what this host knows of the cluster that it is in.
type Cluster struct {
	Backend   string            `json:"backend"` // "" = [cluster] is not configured
	Node      string            `json:"node"`    // this host's name
	Problems  []string          `json:"problems"`
	Refused   uint64            `json:"refused"` // messages and records that were not taken
	Members   []ClusterMember   `json:"members"`
	Endpoints []ClusterEndpoint `json:"endpoints"`
	Addresses []ClusterAddress  `json:"addresses"`
}

// ClusterMember is a host of the cluster.
type ClusterMember struct {
	Node      string     `json:"node"`
	VTEP      netip.Addr `json:"vtep"` // its underlay address
	Version   string     `json:"version"`
	Self      bool       `json:"self"`
	Alive     bool       `json:"alive"`
	Networks  int        `json:"networks"`
	Endpoints int        `json:"endpoints"`
	// Synced is when its record was fetched last; absent = never.
	Synced time.Time `json:"synced,omitzero"`
}

// ClusterEndpoint is a container that is attached on some member.
type ClusterEndpoint struct {
	Network   string       `json:"network"` // as this host calls it; "" = it is not in it
	VNI       encap.VNI    `json:"vni"`
	Port      uint16       `json:"port"`
	MAC       encap.MAC    `json:"mac"`
	Addresses []netip.Addr `json:"addresses"`
	Name      string       `json:"name"`
	Node      string       `json:"node"`
	VTEP      netip.Addr   `json:"vtep"`
	Sequence  uint64       `json:"sequence"` // of several claims of a MAC the highest holds
	Holds     bool         `json:"holds"`    // this claim is it
}

// ClusterAddress is an address that this host gave to a container out of the range of a
// network.
type ClusterAddress struct {
	Network string       `json:"network"`
	Range   netip.Prefix `json:"range"`
	Address netip.Addr   `json:"address"`
	Target  string       `json:"target"`
	MAC     encap.MAC    `json:"mac"`
}

func handleCluster(mux *http.ServeMux, d Daemon) {
	mux.HandleFunc("GET "+pathCluster, func(w http.ResponseWriter, _ *http.Request) {
		c, err := d.Cluster()
		c.Problems, c.Members = notNil(c.Problems), notNil(c.Members)
		c.Endpoints, c.Addresses = notNil(c.Endpoints), notNil(c.Addresses)
		answer(w, c, err)
	})
}

// Cluster returns what the daemon knows of its cluster.
func (c *Client) Cluster(ctx context.Context) (Cluster, error) {
	var out Cluster
	err := c.do(ctx, http.MethodGet, pathCluster, nil, &out)
	return out, err
}
