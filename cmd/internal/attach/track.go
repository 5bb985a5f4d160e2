package attach

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Track returns the networks' attachments as List does, and those that have
// ended since the call before: their containers died, or someone deleted a
// device. What an attachment was is remembered from when it was first seen, since
// of one that ended nothing can be read any more. Detach ends one in its own
// right; that is not reported here.
func (a *Attacher) Track(networks []Network) (now, ended []Attachment, err error) {
	a.mu.Lock()
	known := maps.Clone(a.seen)
	a.mu.Unlock()
	all, there, err := a.find(networks, known)
	if err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range all {
		if a.changing[f.index] {
			continue // attach or detach knows what comes of it
		}
		now = append(now, f.Attachment)
		// One that was made meanwhile is known better than it was when it was read.
		if _, old := a.seen[f.index]; !old {
			a.seen[f.index] = f.Attachment
		}
	}
	for index, was := range known {
		// One that Detach removed meanwhile is in a.seen no more.
		if _, still := a.seen[index]; still && !there[index] && !a.changing[index] {
			ended = append(ended, was)
			delete(a.seen, index)
		}
	}
	sortAttachments(now)
	sortAttachments(ended)
	return now, ended, nil
}

// change has Track take no notice of a veth until the returned function is called:
// with the attachment that it is the host's end of by then, or nil.
func (a *Attacher) change(index int) (done func(*Attachment)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changing[index] = true
	return func(m *Attachment) {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.changing, index)
		delete(a.seen, index)
		if m != nil {
			a.seen[index] = *m
		}
	}
}

// Again is the command that attaches a container again as it was. Routes by a
// gateway are not known, nor a name that only another host's shell takes.
func (m Attachment) Again() string {
	words := []string{"overtap", "attach", m.Network, m.Target}
	for _, p := range m.Addresses {
		words = append(words, "--address", p.String())
	}
	if m.MAC != 0 {
		words = append(words, "--mac", m.MAC.String())
	}
	if m.IfName != "" {
		words = append(words, "--ifname", m.IfName)
	}
	for i, w := range words {
		words[i] = quoted(w)
	}
	return strings.Join(words, " ")
}

// quoted is a word as a shell takes it for one.
func quoted(w string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:@+", r)
	}
	if w != "" && !strings.ContainsFunc(w, func(r rune) bool { return !plain(r) }) {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

func sortAttachments(all []Attachment) {
	slices.SortStableFunc(all, func(x, y Attachment) int {
		for _, c := range []int{
			strings.Compare(x.Network, y.Network), strings.Compare(x.Target, y.Target), strings.Compare(x.IfName, y.IfName),
		} {
			if c != 0 {
				return c
			}
		}
		return 0
	})
}

// String names a container for a sentence.
func (m Attachment) String() string {
	if m.IfName == "" {
		return "container " + m.Target
	}
	return fmt.Sprintf("container %s (%s)", m.Target, m.IfName)
}
