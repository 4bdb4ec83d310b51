package ftpparse

import "net/netip"

// Via is the kind of line that announces an endpoint: a command of the client (active
// mode) or a reply of the server (passive mode).
type Via uint8

// The kinds of announcements.
const (
	ViaNone Via = iota
	PORT        // RFC 959 section 4.1.2
	EPRT        // RFC 2428 section 2
	LPRT        // RFC 1639 section 2
	R227        // reply to PASV, RFC 959 section 4.1.2
	R228        // reply to LPSV, RFC 1639 section 3
	R229        // reply to EPSV, RFC 2428 section 3
	// DefaultPort is a transfer command in a session that has never named an endpoint or
	// asked for one. The server connects to the client's end of the control connection
	// (RFC 959 section 3.2). The endpoint is the zero value.
	DefaultPort
)

var viaNames = [...]string{"", "PORT", "EPRT", "LPRT", "227", "228", "229", "default"}

// String returns the verb or the reply code.
func (v Via) String() string {
	if int(v) < len(viaNames) {
		return viaNames[v]
	}
	return ""
}

// Active reports whether the server opens the data connection (PORT, EPRT, LPRT and
// DefaultPort). Otherwise the client does (passive mode).
func (v Via) Active() bool { return v == PORT || v == EPRT || v == LPRT || v == DefaultPort }

// Endpoint reads the endpoint in a line of kind v: a command or a single-line reply,
// from its first byte, without its line end. Blanks around a command's argument are
// allowed. The Reason is "" or why there is no endpoint. The address is invalid if the
// line gives a port alone, as most 229 do.
func (v Via) Endpoint(line []byte) (netip.AddrPort, Reason) {
	if len(line) < len(v.String()) {
		return netip.AddrPort{}, Malformed
	}
	switch v {
	case PORT:
		return parseEndpoint(argument(line), hostPort)
	case EPRT:
		return parseEndpoint(argument(line), extended)
	case LPRT:
		return parseEndpoint(argument(line), longHostPort)
	case R227:
		return parseList(line[3:], hostPort)
	case R228:
		return parseList(line[3:], longHostPort)
	case R229:
		return parseExtendedPassive(line[3:])
	default:
		return netip.AddrPort{}, Malformed
	}
}
