//go:build !amd64 || purego

package encap

func sum(b []byte, initial uint64) uint64 {
	return sumGeneric(b, initial)
}
