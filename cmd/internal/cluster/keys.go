package cluster

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
)

// maxKeys bounds a key file.
const maxKeys = 16

// ReadKeys reads a key file: a base64 key of 16, 24 or 32 bytes (AES-128, 192 or 256)
// a line; empty lines and those that begin with # are left out. The first key is for
// sending, all are for receiving.
func ReadKeys(path string) ([][]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's key: %w; make one with `openssl rand -base64 32 > %s`, mode 0600, the same on every host", err, path)
	}
	var keys [][]byte
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s:%d: is not base64; want a key as `openssl rand -base64 32` makes it", path, i+1)
		case len(key) != 16 && len(key) != 24 && len(key) != 32:
			return nil, fmt.Errorf("%s:%d: is a key of %d bytes; want 16, 24 or 32, as `openssl rand -base64 32` makes", path, i+1, len(key))
		case len(keys) == maxKeys:
			return nil, fmt.Errorf("%s:%d: is one key too many; want at most %d", path, i+1, maxKeys)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New(path + " holds no key; make one with `openssl rand -base64 32`")
	}
	return keys, nil
}
