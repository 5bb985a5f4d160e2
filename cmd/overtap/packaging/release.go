package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// release is the version that is packaged.
type release struct {
	stamp  string    // of `overtap version`: v and a semantic version
	debian string    // the same as Debian orders it (deb-version(7)), without a revision
	time   time.Time // of its last change
}

var (
	// semantic is https://semver.org's form with the leading v.
	semantic = regexp.MustCompile(`^v(\d+\.\d+\.\d+)(?:-([0-9A-Za-z.-]+))?(?:\+([0-9A-Za-z.-]+))?$`)
	// described is git's form of a commit behind a tag, perhaps changed.
	described = regexp.MustCompile(`^(v.*)-(\d+)-(g[0-9a-f]+)(-dirty)?$`)
)

// newRelease returns the release of that version, or of what git describes when it
// is empty: a tag such as v1.2.3, v1.2.3+4.g0123abc four commits later, and
// v0.0.0-20260102030405-0123abc where there is no tag at all.
func newRelease(ctx context.Context, root, version string) (release, error) {
	at, err := changed(ctx, root)
	if err != nil {
		return release{}, err
	}
	if version == "" {
		if version, err = describe(ctx, root); err != nil {
			return release{}, err
		}
	}
	debian, err := debianVersion(version)
	return release{version, debian, at}, err
}

// debianVersion has a pre-release come before its release, as ~ does in Debian, and
// has no hyphen, which would begin a revision.
func debianVersion(version string) (string, error) {
	m := semantic.FindStringSubmatch(version)
	if m == nil {
		return "", fmt.Errorf("version %q: want v1.2.3, v1.2.3-rc.1 or v1.2.3+build", version)
	}
	debian := m[1]
	if m[2] != "" {
		debian += "~" + m[2]
	}
	if m[3] != "" {
		debian += "+" + m[3]
	}
	return strings.ReplaceAll(debian, "-", "."), nil
}

// describe asks git which version the working tree is.
func describe(ctx context.Context, root string) (string, error) {
	tag, err := output(ctx, root, nil, "git", "describe", "--tags", "--match", "v[0-9]*", "--dirty")
	if err == nil {
		return undescribe(tag), nil
	}
	version, err := output(ctx, root, []string{"TZ=UTC"}, "git", "log", "-1", "--date=format-local:%Y%m%d%H%M%S", "--format=v0.0.0-%cd-%h")
	if err != nil {
		return "", fmt.Errorf("which version this is: %w: name one by -version", err)
	}
	return version, nil
}

// undescribe makes a semantic version of what `git describe` prints, with what is
// beyond the tag as build metadata.
func undescribe(tag string) string {
	m := described.FindStringSubmatch(tag)
	if m == nil {
		return strings.Replace(tag, "-dirty", "+dirty", 1)
	}
	return m[1] + "+" + m[2] + "." + m[3] + strings.Replace(m[4], "-", ".", 1)
}

// changed returns SOURCE_DATE_EPOCH (https://reproducible-builds.org), or the time of
// the last commit.
func changed(ctx context.Context, root string) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		var err error
		if text, err = output(ctx, root, nil, "git", "log", "-1", "--format=%ct"); err != nil {
			return time.Time{}, fmt.Errorf("when the sources were changed: %w: set SOURCE_DATE_EPOCH", err)
		}
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q: want seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
