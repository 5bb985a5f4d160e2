package dataplane

// EachFDB calls f with a copy of each forwarding entry of the named network, or
// of all for "", in no order: for who wants few entries of a table of many. The
// entry is f's until f returns. f may not call the engine.
func (e *Engine) EachFDB(network string, f func(*FDBEntry)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	networks, err := e.named(network)
	if err != nil {
		return err
	}
	var out FDBEntry
	for _, n := range networks {
		for entry := range n.table.All() {
			out = n.fdbEntry(entry)
			f(&out)
		}
	}
	return nil
}
