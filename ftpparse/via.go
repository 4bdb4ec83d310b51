package ftpparse

// Via is the line that announced an endpoint: a command of the client (active
// mode) or a reply of the server (passive mode).
type Via uint8

// The announcing lines.
const (
	ViaNone Via = iota
	PORT        // RFC 959 section 4.1.2
	EPRT        // RFC 2428 section 2
	LPRT        // RFC 1639 section 2
	R227        // reply to PASV, RFC 959 section 4.1.2
	R228        // reply to LPSV, RFC 1639 section 3
	R229        // reply to EPSV, RFC 2428 section 3
)

var viaNames = [...]string{"", "PORT", "EPRT", "LPRT", "227", "228", "229"}

// String returns the verb or the reply code.
func (v Via) String() string {
	if int(v) < len(viaNames) {
		return viaNames[v]
	}
	return ""
}

// Active reports whether the server is to open the data connection: PORT, EPRT
// and LPRT. Otherwise the client opens it (passive mode).
func (v Via) Active() bool { return v == PORT || v == EPRT || v == LPRT }
