package daemon

import "errors"

// A step brings up one part of the daemon and returns how to take it down again, nil
// if there is nothing to take down. A step that fails may have come halfway: its undo
// counts all the same.
type step func() (undo func() error, err error)

// through carries the steps out in their order, then body, and then undoes the steps
// in reverse order. If a step fails, those before it are undone. This is the only way
// out, and each error on it is part of the one returned.
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
