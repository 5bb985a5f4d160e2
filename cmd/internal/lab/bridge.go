package lab

// bridgeLab has no tunnel: what the bridge does by itself, and what overtap sees
// of it. Overtap makes the bridge and gives the host its addresses there.
func bridgeLab() *Topology {
	v := blue(
		`mtu    = 1500 # nothing is wrapped: no room is needed for it`,
		`# The host's own addresses, on the bridge.`,
		`addresses = ["198.51.100.254/24", "2001:db8:1::fe/64"]`,
	)
	v.noPeer = true
	a := v.host("a")
	a.bridge = false
	return &Topology{
		Name:    "bridge",
		Summary: "one host, its containers joined by a bridge alone",
		hosts:   []host{a},
		mtu:     int(underlayMTU),
		containers: []container{
			{name: "a1", host: "a", v4: prefix("198.51.100.1/24"), v6: prefix("2001:db8:1::1/64")},
			{name: "a2", host: "a", v4: prefix("198.51.100.2/24"), v6: prefix("2001:db8:1::2/64")},
		},
		pings: [][2]string{{"a", "a1"}, {"a1", "a2"}, {"a2", "a1"}},
		words: [][2]string{vxlanWords[0],
			{"VXLAN", "Ethernet frames inside UDP packets, to other hosts: here are none,"},
			{"", "so overtap drops what the bridge floods (vxlan_no_remote)"}},
		tries: []suggestion{
			{why: "which port the bridge found each MAC behind", program: "bridge", member: "a", command: "bridge fdb show br br0 dynamic"},
			{why: "what overtap in host a counted", member: "a", command: "overtap stats"},
		},
	}
}
