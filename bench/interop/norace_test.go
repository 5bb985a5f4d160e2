//go:build !race

package interop

// raceEnabled says that this test, and so the binary it builds, runs under the
// race detector.
const raceEnabled = false
