package lab

// attachLab has containers that begin as empty namespaces, as a container engine
// makes them without a network, and are joined by `overtap attach`.
func attachLab() *Topology {
	t := &Topology{
		Name:    "attach",
		Summary: "two hosts, containers joined by `overtap attach`",
		hosts:   []host{blue().host("a"), blue().host("b")},
		mtu:     vxlanMTU,
		containers: []container{
			{name: "a1", host: "a", join: attached, v4: prefix("198.51.100.1/24"), v6: prefix("2001:db8:1::1/64")},
			{name: "b1", host: "b", join: attached, v4: prefix("198.51.100.2/24"), v6: prefix("2001:db8:1::2/64")},
		},
		pings: [][2]string{{"b1", "a1"}, {"a1", "b1"}},
		words: vxlanWords,
		tries: append([]suggestion{
			{why: "what is attached to overtap in host a", member: "a", command: "overtap status"},
			{why: "take the container off", member: "a", command: "overtap detach " + labNetwork + " ot-attach-a1"},
		}, vxlanTries...),
	}
	for i := range t.hosts {
		t.hosts[i].bridge = false // overtap makes it
	}
	return t
}
