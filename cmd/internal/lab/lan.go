package lab

// lanLab puts a second NIC of host a on the network's bridge: the containers of
// both hosts stand on the LAN of a machine that knows nothing of overlays.
func lanLab() *Topology {
	a := blue(`ports  = ["eth1"] # and this one, a second NIC: its LAN is on the network`).host("a")
	a.lan = "eth1"
	return &Topology{
		Name:    "lan",
		Summary: "a NIC on the bridge: the containers are on its LAN",
		hosts:   []host{a, blue().kernelOr("b", vxlanMTU)},
		mtu:     vxlanMTU,
		containers: []container{
			{name: "pc", host: "a", join: onLAN, v4: prefix("198.51.100.50/24"), v6: prefix("2001:db8:1::50/64")},
			{name: "a1", host: "a", v4: prefix("198.51.100.1/24"), v6: prefix("2001:db8:1::1/64")},
			{name: "b1", host: "b", v4: prefix("198.51.100.2/24"), v6: prefix("2001:db8:1::2/64")},
		},
		pings: [][2]string{{"pc", "a1"}, {"b1", "a1"}, {"pc", "b1"}, {"b1", "pc"}},
		words: append([][2]string{
			{"eth1", "a second NIC; with `ports` overtap makes it a port of the bridge"},
			{"pc", "a plain machine on the cable of eth1"},
		}, vxlanWords...),
		tries: vxlanTries,
	}
}
