package fdb

// Room returns how many entries Put has room for beside a full complement of
// learned ones.
func (t *Table) Room() int { return 3*len(t.slots)/4 - t.max }
