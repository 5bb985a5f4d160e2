package lab

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"overtap/bench/netlab"
)

// addContainers makes those that come to their host that way.
func (t *Topology) addContainers(l *netlab.Lab, by join) error {
	for _, c := range t.containers {
		if c.join != by {
			continue
		}
		h, err := l.Host(c.host)
		if err != nil {
			return err
		}
		in, err := t.addContainer(l, h, c)
		if err != nil {
			return err
		}
		for _, r := range c.routes {
			if err := in.AddRoute(r.to, r.via, netlab.ContainerDev); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Topology) addContainer(l *netlab.Lab, h *netlab.Host, c container) (*netlab.Host, error) {
	switch c.join {
	case onLAN:
		return t.addMachine(l, h, c)
	case attached:
		return t.attach(l, h, c)
	}
	return h.AddContainer(netlab.ContainerSpec{
		Name: c.name, Bridge: netlab.SiteBridge, Addrs: c.addrs(), MAC: c.mac(), MTU: t.mtu,
	})
}

// addMachine makes a machine on the LAN of the host's second NIC.
func (t *Topology) addMachine(l *netlab.Lab, h *netlab.Host, c container) (*netlab.Host, error) {
	m, err := l.AddHost(c.name)
	if err != nil {
		return nil, err
	}
	if err := netlab.AddVeth(h, t.host(c.host).lan, m, netlab.ContainerDev, t.mtu); err != nil {
		return nil, err
	}
	if err := m.SetMAC(netlab.ContainerDev, c.mac()); err != nil {
		return nil, err
	}
	for _, a := range c.addrs() {
		if err := m.AddAddr(netlab.ContainerDev, a); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// attach makes an empty namespace, which has overtap's own verb join it.
func (t *Topology) attach(l *netlab.Lab, h *netlab.Host, c container) (*netlab.Host, error) {
	in, err := l.AddHost(c.name)
	if err != nil {
		return nil, err
	}
	args := append(attachWords(c, in.Namespace()), "--socket", t.socket(c.host))
	cmd := h.Command(t.binary(), args...)
	cmd.Dir = "/"
	if _, err := cmd.Output(); err != nil {
		// What it says is what it was doing, and why that failed.
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, fmt.Errorf("attach %s: %w", c.name, err)
	}
	return in, nil
}

// attachFixed is how many words stand before the flags of attachWords.
const attachFixed = 3

// attachWords are the words behind `overtap` that attach the container.
func attachWords(c container, namespace string) []string {
	words := []string{"attach", labNetwork, namespace}
	for _, a := range c.addrs() {
		words = append(words, "--address", a.String())
	}
	return words
}
