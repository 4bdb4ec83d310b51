package doctor

import (
	"context"
	"encoding/json"

	"ftpctd/cmd/ftpctd/internal/config"
)

// Status is the outcome of a check.
type Status string

// The statuses.
const (
	OK   Status = "OK"
	Warn Status = "WARN" // works, but not as well as it could, or not for everyone
	Fail Status = "FAIL" // does not work
)

// Result is the result of a check.
type Result struct {
	Status Status
	// Detail is the finding, in words.
	Detail string
	// Fix is a command, or another action, that improves the status. It is empty if
	// there is nothing to fix.
	Fix string
}

// Check examines one thing.
type Check interface {
	// Name is the name of the check, in kebab-case.
	Name() string
	// Run runs the check.
	Run(ctx context.Context) Result
}

// Checks returns all checks for a daemon with the configuration cfg, in the
// order in which they build on each other.
func Checks(h Host, cfg config.Config) []Check {
	return []Check{
		check{"capabilities", func(context.Context) Result { return checkCapabilities(h) }},
		check{"kernel-config", func(context.Context) Result { return checkKernelConfig(h, cfg) }},
		check{"kernel-modules", func(context.Context) Result { return checkKernelModules(h, cfg) }},
		check{"packet-queue", func(context.Context) Result { return checkPacketQueue(h) }},
		check{"queue-rule", func(context.Context) Result { return checkQueueRule(h, cfg) }},
		check{"ctnetlink", func(context.Context) Result { return checkCtnetlink(h) }},
		check{"own-helper", func(context.Context) Result { return checkOwnHelper(h, cfg) }},
		check{"carrier-helper", func(context.Context) Result { return checkCarrier(h, cfg) }},
		check{"admission", func(context.Context) Result { return checkAdmission(h, cfg) }},
		check{"round-trip", func(ctx context.Context) Result { return checkRoundTrip(ctx, h, cfg) }},
		check{"queue-owner", func(context.Context) Result { return checkQueueOwner(h, cfg) }},
		check{"kept-away", func(context.Context) Result { return checkKeptAway(h, cfg) }},
		check{"kernel-ftp-helper", func(context.Context) Result { return checkKernelHelper(h, cfg) }},
		check{"related-rule", func(context.Context) Result { return checkRelatedRule(h) }},
		check{"expectation-table", func(context.Context) Result { return checkExpectationTable(h) }},
		check{"connection-table", func(context.Context) Result { return checkConnectionTable(h) }},
		check{"ftps", func(context.Context) Result { return checkFTPS(h, cfg) }},
	}
}

// check is a Check made of a function.
type check struct {
	name string
	run  func(context.Context) Result
}

// Name implements Check.
func (c check) Name() string { return c.name }

// Run implements Check.
func (c check) Run(ctx context.Context) Result { return c.run(ctx) }

// AppendJSON appends the result of a check as a JSON object: check, status, found and
// fix, which is absent if there is nothing to fix.
func AppendJSON(b []byte, name string, r Result) ([]byte, error) {
	object, err := json.Marshal(struct {
		Check  string `json:"check"`
		Status Status `json:"status"`
		Detail string `json:"found"`
		Fix    string `json:"fix,omitempty"`
	}{name, r.Status, r.Detail, r.Fix})
	return append(b, object...), err
}
