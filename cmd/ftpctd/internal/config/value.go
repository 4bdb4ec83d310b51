package config

import (
	"fmt"
	"log/slog"
	"math"
	"math/bits"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ftpctd/cmd/ftpctd/internal/firewall"
	"ftpctd/conntrack"
	"ftpctd/nfq"
)

// A kind is a set of values: how they are written in the file, and what they mean.
type kind[T any] struct {
	// want describes the values that are accepted.
	want string
	// parse returns the meaning of a TOML value, or else what is wrong with it.
	parse func(v any) (x T, problem string)
}

// typeOf is the problem of a value of the wrong type.
func typeOf(v any) string {
	switch v.(type) {
	case string:
		return "is a string"
	case int64:
		return "is an integer"
	case float64:
		return "is a floating-point number"
	case bool:
		return "is a boolean"
	case []any:
		return "is a list"
	case map[string]any:
		return "is a table"
	default:
		return "is a date or time"
	}
}

// ofString makes a kind of values that the file has as strings.
func ofString[T any](want string, parse func(s string) (x T, problem string)) kind[T] {
	return kind[T]{want: want, parse: func(v any) (x T, problem string) {
		s, ok := v.(string)
		if !ok {
			return x, typeOf(v)
		}
		return parse(s)
	}}
}

// optional adds the empty string to a kind, for the zero value.
func optional[T any](k kind[T]) kind[T] {
	return kind[T]{want: k.want + `, or ""`, parse: func(v any) (x T, problem string) {
		if v == "" {
			return x, ""
		}
		return k.parse(v)
	}}
}

// A word is a value of a kind that has few.
type word[T any] struct {
	text  string
	value T
}

func oneOf[T any](list ...word[T]) kind[T] {
	texts := make([]string, len(list))
	for i, w := range list {
		texts[i] = w.text
	}
	return ofString(strings.Join(texts, ", "), func(s string) (x T, problem string) {
		i := slices.Index(texts, s)
		if i < 0 {
			return x, strconv.Quote(s) + " is unknown"
		}
		return list[i].value, ""
	})
}

// words is oneOf for values that are words themselves.
func words[T ~string](values ...T) kind[T] {
	list := make([]word[T], len(values))
	for i, v := range values {
		list[i] = word[T]{string(v), v}
	}
	return oneOf(list...)
}

// Kinds that have few values.
var (
	admitModes      = words(AdmitAuto, AdmitExpect, AdmitEntry, AdmitHelper)
	addressPolicies = oneOf(
		word[conntrack.AddressPolicy]{"peer", conntrack.AddressPeer},
		word[conntrack.AddressPolicy]{"strict", conntrack.AddressStrict},
		word[conntrack.AddressPolicy]{"reply", conntrack.AddressReply},
	)
	antiSpoofModes = oneOf(
		word[firewall.AntiSpoof]{"strict", firewall.AntiSpoofStrict},
		word[firewall.AntiSpoof]{"loose", firewall.AntiSpoofLoose},
		word[firewall.AntiSpoof]{"off", firewall.AntiSpoofOff},
	)
	drivers = words(nfq.DriverNetlink, nfq.DriverGoNFQueue)
	levels  = oneOf(
		word[slog.Level]{"debug", slog.LevelDebug},
		word[slog.Level]{"info", slog.LevelInfo},
		word[slog.Level]{"warn", slog.LevelWarn},
		word[slog.Level]{"error", slog.LevelError},
	)
	boolean = kind[bool]{want: "true, false", parse: func(v any) (bool, string) {
		b, ok := v.(bool)
		if !ok {
			return false, typeOf(v)
		}
		return b, ""
	}}
)

// integer is the numbers from lowest to highest.
func integer[T ~int | ~uint16 | ~uint32](lowest, highest int64) kind[T] {
	return kind[T]{want: fmt.Sprintf("%d to %d", lowest, highest), parse: func(v any) (T, string) {
		n, ok := v.(int64)
		switch {
		case !ok:
			return 0, typeOf(v)
		case n < lowest || n > highest:
			return 0, fmt.Sprintf("%d is out of range", n)
		}
		return T(n), ""
	}}
}

// maxExpected is NF_CT_EXPECT_MAX_CNT of nf_conntrack_expect.h.
const maxExpected = 255

var singleBit = kind[uint32]{want: "0, or a single bit such as 0x100, up to 0x80000000", parse: func(v any) (uint32, string) {
	n, ok := v.(int64)
	switch {
	case !ok:
		return 0, typeOf(v)
	case n < 0 || n > math.MaxUint32 || bits.OnesCount64(uint64(n)) > 1:
		return 0, fmt.Sprintf("%#x is not a single bit of 32", n)
	}
	return uint32(n), ""
}}

var (
	port     = integer[uint16](1, math.MaxUint16)
	portList = kind[[]uint16]{want: "a list of ports from 1 to 65535, each once", parse: parsePorts}
)

func parsePorts(v any) ([]uint16, string) {
	list, ok := v.([]any)
	switch {
	case !ok:
		return nil, typeOf(v)
	case len(list) == 0:
		return nil, "is empty"
	}
	ports := make([]uint16, 0, len(list))
	for _, v := range list {
		if _, ok := v.(int64); !ok {
			return nil, "an element " + typeOf(v)
		}
		p, problem := port.parse(v)
		if problem != "" {
			return nil, problem
		}
		if slices.Contains(ports, p) {
			return nil, fmt.Sprintf("duplicate port %d", p)
		}
		ports = append(ports, p)
	}
	return ports, ""
}

var portRange = ofString(`two ports from 1 to 65535 and a hyphen, such as "30000-30999", or one port`,
	func(s string) (conntrack.PortRange, string) {
		first, last, isRange := strings.Cut(s, "-")
		if !isRange {
			last = first
		}
		low, lowOK := parsePort(first)
		high, highOK := parsePort(last)
		switch {
		case !lowOK || !highOK:
			return conntrack.PortRange{}, strconv.Quote(s) + " is not a range of ports"
		case low > high:
			return conntrack.PortRange{}, strconv.Quote(s) + ": start is greater than end"
		}
		return conntrack.PortRange{Min: low, Max: high}, ""
	})

// parsePort parses a port in decimal. Unlike strconv it accepts no sign.
func parsePort(s string) (port uint16, ok bool) {
	if strings.HasPrefix(s, "+") {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}

// maxHelperName is the length of a helper's name: NF_CT_HELPER_NAME_LEN of
// nf_conntrack_helper.h less the closing NUL.
const maxHelperName = 15

var helperName = ofString("1 to 15 letters, digits, '-', '_' or '.'", func(s string) (string, string) {
	switch {
	case s == "":
		return "", "is empty"
	case len(s) > maxHelperName:
		return "", fmt.Sprintf("%q is %d bytes long", s, len(s))
	case strings.ContainsFunc(s, func(r rune) bool { return !plain(r) && r != '.' }):
		return "", strconv.Quote(s) + " has a character that is not allowed"
	}
	return s, ""
})

var carrier = ofString(CarrierSANE, func(s string) (string, string) {
	switch s {
	case CarrierSANE:
		return s, ""
	case "":
		return "", "is empty"
	default:
		return "", strconv.Quote(s) + " inspects the connections itself, and may open ports for its own protocol"
	}
})

// duration is the durations from lowest to highest.
func duration(lowest, highest time.Duration, want string) kind[time.Duration] {
	return ofString(want, func(s string) (time.Duration, string) {
		d, err := time.ParseDuration(s)
		switch {
		case err != nil:
			return 0, strconv.Quote(s) + " is not a duration"
		case d < lowest || d > highest:
			return 0, strconv.Quote(s) + " is out of range"
		}
		return d, ""
	})
}

var (
	busyPoll = duration(0, 10*time.Millisecond, `a duration from "0s" to "10ms", such as "200us"`)
	timeout  = wholeSeconds(duration(time.Second, time.Hour, `whole seconds from "1s" to "1h", such as "300s"`))
)

// wholeSeconds limits a kind to the unit in which the kernel counts the timeout of an
// expectation.
func wholeSeconds(k kind[time.Duration]) kind[time.Duration] {
	return kind[time.Duration]{want: k.want, parse: func(v any) (time.Duration, string) {
		d, problem := k.parse(v)
		if problem == "" && d%time.Second != 0 {
			return 0, fmt.Sprintf("%q is not a whole number of seconds", v)
		}
		return d, problem
	}}
}

var listenAddress = ofString(`an address and a port, such as "127.0.0.1:9621" or "[::1]:9621"`, func(s string) (string, string) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", strconv.Quote(s) + " is not an address and a port"
	}
	if net.ParseIP(host) == nil {
		return "", strconv.Quote(host) + " is not an IP address"
	}
	if _, ok := parsePort(port); !ok {
		return "", strconv.Quote(port) + " is not a port"
	}
	return s, ""
})

// maxSocketPath is the length of a unix socket's path: sun_path of unix(7) less
// the closing NUL.
const maxSocketPath = 107

var socketPath = ofString("an absolute path of at most 107 bytes", func(s string) (string, string) {
	switch {
	case s == "":
		return "", "is empty"
	case !filepath.IsAbs(s):
		return "", strconv.Quote(s) + " is a relative path"
	case len(s) > maxSocketPath:
		return "", fmt.Sprintf("is %d bytes long", len(s))
	case strings.ContainsRune(s, 0):
		return "", strconv.Quote(s) + " has a NUL"
	}
	return s, ""
})
