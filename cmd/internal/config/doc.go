// Package config reads overtap's configuration: a TOML file that is either
// understood whole or refused with every mistake named by file, line and key.
//
// A file becomes a Config in three steps, one file of this package each:
//
//  1. The TOML parser checks the syntax and yields the values; scan.go walks
//     the same text once more and finds the line each key stands on, which the
//     parser does not tell. node.go joins the two in one tree.
//  2. bind.go lays the tree over the structs of raw.go: unknown keys and wrong
//     types are found here.
//  3. check.go, sections.go, vxlan.go and those beside them check ranges, formats and
//     what must agree between keys, fill in defaults and make typed values.
//
// No step stops at the first mistake; only broken syntax hides what follows it.
//
// A Config in turn becomes the engine's plain data in desired.go. Nothing
// outside this package knows of TOML.
//
// docs/configuration.md is made of the schema, of what the checks answer, and of
// the comments of config.example.toml: reference_test.go.
package config

//go:generate go test -run ^TestReference$ . -update
