// Package docs holds the documents that the program has in it.
package docs

import _ "embed"

// Configuration is the reference of the configuration, of which overtap.toml(5) is made.
//
//go:embed configuration.md
var Configuration string
