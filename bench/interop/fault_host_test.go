package interop

var hostFaults []fault
