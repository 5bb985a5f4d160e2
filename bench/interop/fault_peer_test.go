package interop

var peerFaults []fault
