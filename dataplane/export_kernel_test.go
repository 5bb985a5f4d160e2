package dataplane

import "overtap/dataplane/netio/linux"

// Kernel returns what tests change of the engine's backend, which is this host's.
func (e *Engine) Kernel() linux.Hooks { return linux.Hooks{Backend: e.backend.(*linux.Backend)} }
