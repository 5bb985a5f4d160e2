package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"time"

	"overtap/bench/netlab"
	"overtap/dataplane"
)

const (
	churnPause = 800 * time.Millisecond
	// movePause keeps a MAC below the moves that would freeze it: 5 in 180 s.
	movePause = 50 * time.Second
	// moveGrace is how long on a busy machine what was sent before a move may still be
	// on its way, and an answer after it on its way to where the container was.
	moveGrace = 2 * time.Second
	// denyLimit is how long a busy daemon has to count what it dropped.
	denyLimit = 5 * time.Second
)

// churn changes one thing after another.
type churn struct {
	world   *world
	options options
	report  *report
	probes  []*probe

	random *rand.Rand
	at     int // where the mover is
	moved  time.Time
}

// run goes on until the time is up. What has begun ends.
func (c *churn) run(end context.Context) {
	c.random = rand.New(rand.NewPCG(c.options.seed, 0))
	c.moved = time.Now()
	deeds := []struct {
		name string
		do   func(context.Context, *node) error
	}{
		{"reload", c.reload},
		{"refused reload", c.refused},
		{"entry added and removed", c.entry},
		{"flush", c.flush},
		{"attach and detach", c.visit},
		{"metrics read", c.scrape},
		{"guest asked", c.ask},
	}
	ctx := context.WithoutCancel(end)
	for pause(end, churnPause) {
		n := c.world.nodes[c.random.IntN(len(c.world.nodes))]
		d := deeds[c.random.IntN(len(deeds))]
		name, do := d.name, d.do
		if time.Since(c.moved) >= min(movePause, c.options.time/3) {
			name, do = "move", func(ctx context.Context, _ *node) error { return c.move(ctx) }
		}
		err := do(ctx, n)
		c.report.add(func() { c.report.count(name) })
		if err != nil {
			err = fmt.Errorf("on host %s: %w", n.Host.Name(), err)
		}
		c.report.failed(name, err)
	}
}

// reload makes the configuration another: with the guest or without it, with the
// second network or without, another TTL.
func (c *churn) reload(ctx context.Context, n *node) error {
	w := n.want
	switch c.random.IntN(3) {
	case 0:
		w.guest = !w.guest
	case 1:
		w.red = !w.red
	default:
		w.ttl = 32 + c.random.IntN(64)
	}
	return n.apply(ctx, w)
}

// refused offers a configuration that is wrong.
func (c *churn) refused(ctx context.Context, n *node) error {
	good := n.toml(n.Socket(), n.want)
	bad := strings.Replace(good, "ttl = ", "ttl = 9", 1)
	if c.random.IntN(2) == 0 {
		bad = good + "[[vxlan]]\nname = \"blue\"\n"
	}
	if err := os.WriteFile(n.Config(), []byte(bad), 0o600); err != nil {
		return err
	}
	_, err := n.Verb(ctx, "reload")
	if werr := os.WriteFile(n.Config(), []byte(good), 0o600); werr != nil {
		return werr
	}
	if err == nil {
		return errors.New("a configuration that is wrong was taken")
	}
	return nil
}

// entry binds a MAC to a peer and releases it.
func (c *churn) entry(ctx context.Context, n *node) error {
	mac := fmt.Sprintf("02:00:5e:00:53:%02x", c.random.IntN(256))
	if _, err := n.Verb(ctx, "fdb", "add", "--network", "blue", mac, c.world.sites[2].Underlay.String()); err != nil {
		return err
	}
	_, err := n.Verb(ctx, "fdb", "del", "--network", "blue", mac)
	return err
}

func (c *churn) flush(ctx context.Context, n *node) error {
	_, err := n.Verb(ctx, "fdb", "flush")
	return err
}

// visit attaches a container, has it speak across, and takes it off.
func (c *churn) visit(ctx context.Context, n *node) error {
	if err := c.world.attach(ctx, n, c.world.visitor, visitorIP); err != nil {
		return err
	}
	err := reaches(c.world.visitor, c.world.sites[2].IPv4)
	return errors.Join(err, c.world.detach(ctx, n, c.world.visitor))
}

func (c *churn) scrape(_ context.Context, n *node) error {
	_, err := n.scrape()
	return err
}

// ask has the guest's container speak to the node's: it is heard when the guest is a
// peer, else each frame is dropped by that name.
func (c *churn) ask(ctx context.Context, n *node) error {
	const asked = 3
	denied := func() (uint64, error) {
		s, err := n.stats(ctx)
		return dropsOf(s)[dataplane.DropPeerNotAdmitted], err
	}
	before, err := denied()
	if err != nil {
		return err
	}
	from := c.world.sites[guest].Container
	if n.want.guest {
		return reaches(from, n.site.IPv4)
	}
	// Known beforehand, so that what it sends is no question for the MAC alone.
	if err := from.AddNeighbor(netlab.ContainerDev, n.site.IPv4, n.site.MAC); err != nil {
		return err
	}
	got, err := netlab.Ping(from, n.site.IPv4, netlab.PingOptions{Count: asked, Timeout: 50 * time.Millisecond})
	if err := errors.Join(err, from.DeleteNeighbor(netlab.ContainerDev, n.site.IPv4)); err != nil {
		return err
	}
	after := before
	for deadline := time.Now().Add(denyLimit); after < before+asked && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if after, err = denied(); err != nil {
			return err
		}
	}
	if got.Received != 0 || after < before+asked {
		return fmt.Errorf("a peer that was removed sent %d frames: %d were answered, %d dropped as %s",
			asked, got.Received, after-before, dataplane.DropPeerNotAdmitted)
	}
	return nil
}

// move takes the container from one node to the other. What is sent to it meanwhile
// may be lost.
func (c *churn) move(ctx context.Context) error {
	from, to := c.world.nodes[c.at], c.world.nodes[1-c.at]
	start := time.Now()
	if err := c.world.detach(ctx, from, c.world.mover); err != nil {
		return err
	}
	if err := c.world.attach(ctx, to, c.world.mover, moverIP); err != nil {
		return err
	}
	end := time.Now()
	for _, p := range c.probes {
		if strings.HasSuffix(p.name, "mover") {
			p.excuse(start.Add(-moveGrace), end.Add(moveGrace))
		}
	}
	c.report.add(func() { c.report.moving = append(c.report.moving, end.Sub(start)) })
	c.at, c.moved = 1-c.at, end
	return nil
}

// reaches wants a ping to be answered, once the ARP before it is through.
func reaches(from *netlab.Host, dst netip.Addr) error {
	got, err := netlab.Ping(from, dst, netlab.PingOptions{Timeout: 5 * time.Second})
	if err == nil && got.Received != got.Sent {
		err = fmt.Errorf("%s does not reach %v: %v", from.Name(), dst, got)
	}
	return err
}
