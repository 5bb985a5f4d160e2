// Package config reads overtap's configuration: a TOML file that is accepted, or
// refused with every mistake named by file, line and key.
//
// A file becomes a Config in three steps, one file of this package each:
//
//  1. The TOML parser checks the syntax and yields the values; scan.go walks
//     the same text once more and finds the line of each key, which the parser
//     does not report. node.go joins the two in one tree.
//  2. bind.go fills the structs of raw.go from the tree: unknown keys and wrong
//     types are found here.
//  3. check.go, sections.go, vxlan.go and those beside them fill in defaults and make
//     typed values: of a network the engine's own Network, with what this host needs
//     beside it. They check formats and what only this host must keep apart. What the
//     engine would refuse it checks itself (dataplane.Desired.Check): desired.go finds
//     the keys that its problems belong to.
//
// No step stops at the first mistake; only broken syntax hides what follows it.
//
// A Config in turn becomes what the engine must forward by in desired.go, and what
// the host must look like in host.go. Nothing outside this package knows of TOML.
//
// A new key of a network is a field of dataplane.Network, a line in raw.go and one in
// vxlan.go, and its lines in config.example.toml. reference_test.go makes
// docs/configuration.md of the schema, of what the checks want, and of the comments of
// config.example.toml.
package config

//go:generate go test -run ^TestReference$ . -update
