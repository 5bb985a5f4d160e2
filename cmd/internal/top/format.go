package top

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"overtap/cmd/internal/printable"
)

// siWidth is how wide what si returns can be.
const siWidth = 5

// si writes a number in three digits and a prefix, at most siWidth wide.
func si(v float64) string {
	switch {
	case v != v:
		return "-"
	case v <= 0:
		return "0"
	case v < 0.05:
		return "<0.1"
	case v < 9.95:
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
	}
	prefix := 0
	for v >= 999.5 && prefix < len(prefixes)-1 {
		v /= 1000
		prefix++
	}
	digits := 0
	switch {
	case v >= 999.5:
		return ">999" + prefixes[prefix]
	case prefix > 0 && v < 9.995:
		digits = 2
	case prefix > 0 && v < 99.95:
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + prefixes[prefix]
}

var prefixes = []string{"", "k", "M", "G", "T", "P", "E"}

// count writes a number exactly as long as that is short.
func count(v float64) string {
	if v < 1e7 {
		return strconv.FormatFloat(math.Trunc(v), 'f', 0, 64)
	}
	return si(v)
}

// percent writes a share.
func percent(v float64) string {
	if v != v {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", min(v, 9.99)*100)
}

// age writes a time in its two largest units.
func age(d time.Duration) string {
	s := int(d / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
}

// clean escapes what would move the cursor, or is no text.
func clean(s string) string { return printable.String(s) }
