package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"overtap/bench/netlab"
)

// Peer is who makes the end of the tunnel in host b.
type Peer string

// The peers. AnyPeer is the kernel's vxlan device where this kernel has it, and
// another overtap elsewhere.
const (
	AnyPeer     Peer = ""
	KernelPeer  Peer = "kernel"
	OvertapPeer Peer = "overtap"
)

// ParsePeer reads a peer's name; "" is AnyPeer.
func ParsePeer(s string) (Peer, error) {
	switch p := Peer(s); p {
	case AnyPeer, KernelPeer, OvertapPeer:
		return p, nil
	}
	return "", fmt.Errorf("peer %q: want %s or %s", s, KernelPeer, OvertapPeer)
}

// state is lab.json: what Up did, written as it goes along.
type state struct {
	Peer    Peer      `json:"peer"`
	Since   time.Time `json:"since"`
	Boot    string    `json:"boot"`    // of the machine
	Whole   bool      `json:"whole"`   // Up came to its end
	Daemons []process `json:"daemons"` // that Up started
}

func (t *Topology) writeState(s state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write the lab's state: %w", err)
	}
	// By way of a second file: a crash must not leave half of it.
	tmp := t.file("lab.json.new")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the lab's state: %w", err)
	}
	if err := os.Rename(tmp, t.file("lab.json")); err != nil {
		return fmt.Errorf("write the lab's state: %w", err)
	}
	return nil
}

// readState returns fs.ErrNotExist when there is none of this boot.
func (t *Topology) readState() (s state, err error) {
	b, err := os.ReadFile(t.file("lab.json"))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return state{}, fmt.Errorf("%s: %w", t.file("lab.json"), err)
	}
	if s.Boot != bootID() {
		return state{}, fmt.Errorf("%s is of an earlier boot: %w", t.file("lab.json"), fs.ErrNotExist)
	}
	return s, nil
}

// Condition says how a lab stands.
type Condition string

// The conditions. A damaged lab is neither whole nor gone, as a crash leaves it.
const (
	IsDown    Condition = "down"
	IsUp      Condition = "up"
	IsDamaged Condition = "damaged"
)

// inspect says how the lab stands, with its state when it is up, and what is
// wrong with it when it is damaged.
func (t *Topology) inspect() (c Condition, s state, wrong string, err error) {
	there, err := t.namespaces()
	if err != nil {
		return "", state{}, "", err
	}
	if len(there) == 0 && !t.hasFiles() {
		return IsDown, state{}, "", nil
	}
	s, err = t.readState()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", state{}, "", err
	case err != nil:
		return IsDamaged, state{}, "its state is lost", nil
	case !s.Whole:
		return IsDamaged, s, "it is only half built", nil
	}
	for _, m := range t.members() {
		if !slices.Contains(there, m) {
			return IsDamaged, s, "the namespace of " + m + " is gone", nil
		}
	}
	for _, p := range s.Daemons {
		if !p.alive() {
			return IsDamaged, s, "overtap in host " + p.Host + " is gone", nil
		}
	}
	return IsUp, s, "", nil
}

// namespaces returns the names of the hosts and containers that are there.
func (t *Topology) namespaces() ([]string, error) {
	l, err := netlab.Open(t.Name)
	if errors.Is(err, netlab.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return l.Hosts()
}

// Status is a row of the list of labs.
type Status struct {
	Name      string    `json:"name"`
	Summary   string    `json:"summary"`
	Condition Condition `json:"state"`
	Wrong     string    `json:"wrong,omitempty"` // with a damaged one
	Peer      Peer      `json:"peer,omitempty"`  // of one that is up
	Since     time.Time `json:"since,omitzero"`  // it is up
	Hosts     []Member  `json:"hosts"`           // that are there
}

// Member is a host or container of a lab.
type Member struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"` // as `ip netns exec` takes it
}

// namespace is the name of a member's namespace, as `ip netns exec` takes it.
func (t *Topology) namespace(member string) string { return "ot-" + t.Name + "-" + member }

// List returns how each topology stands.
func List() ([]Status, error) {
	out := make([]Status, 0, len(topologies))
	for _, t := range topologies {
		c, s, wrong, err := t.inspect()
		if err != nil {
			return nil, fmt.Errorf("lab %s: %w", t.Name, err)
		}
		st := Status{Name: t.Name, Summary: t.Summary, Condition: c, Wrong: wrong, Hosts: []Member{}}
		if c == IsUp {
			st.Peer, st.Since = s.Peer, s.Since
		}
		there, err := t.namespaces()
		if err != nil {
			return nil, fmt.Errorf("lab %s: %w", t.Name, err)
		}
		for _, m := range there {
			st.Hosts = append(st.Hosts, Member{m, t.namespace(m)})
		}
		out = append(out, st)
	}
	return out, nil
}

// present returns the topologies of which something is there.
func present() ([]*Topology, error) {
	var out []*Topology
	for _, t := range topologies {
		c, _, _, err := t.inspect()
		if err != nil {
			return nil, fmt.Errorf("lab %s: %w", t.Name, err)
		}
		if c != IsDown {
			out = append(out, t)
		}
	}
	return out, nil
}
