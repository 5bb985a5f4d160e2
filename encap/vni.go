package encap

import "fmt"

// VNI is a VXLAN network identifier: 24 bits, RFC 7348 section 5.
type VNI uint32

// MaxVNI is the largest identifier.
const MaxVNI VNI = 1<<24 - 1

// NewVNI returns n as an identifier, or an error when it has more than 24 bits.
func NewVNI(n int64) (VNI, error) {
	if n < 0 || n > int64(MaxVNI) {
		return 0, fmt.Errorf("VNI %d: want 0 to %d", n, MaxVNI)
	}
	return VNI(n), nil
}
