package daemon

import "errors"

// A step brings up one part of the daemon and returns how to take it down, nil if there
// is nothing to take down. A step that fails halfway returns both.
type step func() (undo func() error, err error)

// through carries out the steps in order, then body, and then undoes the steps in
// reverse order. If a step fails, the steps up to it are undone. This is the only way
// out: the error joins all errors on it.
func through(steps []step, body func() error) (err error) {
	for _, s := range steps {
		undo, failed := s()
		if undo != nil {
			defer func() { err = errors.Join(err, undo()) }()
		}
		if failed != nil {
			return failed
		}
	}
	return body()
}
