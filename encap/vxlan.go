package encap

// VXLANHeaderLen is the length of the VXLAN header in bytes.
const VXLANHeaderLen = 8
