package config

// bridgePorts checks the further devices that a network's bridge takes in. A
// device joins one bridge only, so that no two networks name the same.
func (c *checker) bridgePorts(raw *rawVXLAN, v *VXLAN, names *names) []string {
	var out []string
	for _, l := range raw.Ports.v {
		name := c.ifname(l)
		switch {
		case name == "":
		case name == v.Device || name == v.Bridge:
			c.fail(l.at, "is the network's own TAP or bridge; want another device")
		case name == names.underlay:
			c.fail(l.at, "is underlay.device, whose sockets receive nothing once it is the port of a bridge; "+
				"want another device, or underlay.device left out")
		case name == "lo":
			c.fail(l.at, "is the loopback device, which no bridge takes; want another device")
		default:
			if unique(c, names.ports, name, l.at) {
				out = append(out, name)
			}
		}
	}
	if len(raw.Ports.v) > 0 && raw.Bridge.v == "" {
		c.fail(raw.Ports.at, "has no bridge to join; want bridge set too")
	}
	if raw.PortsTake.v && len(raw.Ports.v) == 0 {
		c.fail(raw.PortsTake.at, "has no ports whose addresses to move; want ports set too")
	}
	return out
}

// portDevices checks, once all devices are known, that no port has the name of
// a TAP, a TUN or a bridge.
func (c *checker) portDevices(raw *rawConfig, names *names) {
	for port, at := range names.ports {
		if d, ok := names.devices[port]; ok && port != names.underlay {
			c.fail(at, "is a TAP's or TUN's name already, by %s on line %d; want another device", d.path(), d.line)
		}
	}
	for i := range raw.VXLAN {
		b := raw.VXLAN[i].Bridge
		if p, ok := names.ports[b.v]; ok && b.v != "" {
			c.fail(b.at, "is a port already, by %s on line %d; want another", p.path(), p.line)
		}
	}
}
