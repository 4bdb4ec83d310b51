package daemon

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestThrough(t *testing.T) {
	errStep, errBody, errUndo := errors.New("step"), errors.New("body"), errors.New("undo")
	tests := []struct {
		name        string
		second      error // of the second of three steps
		body        error
		undo        error // of the second step
		wantActions []string
		wantErrors  []error
	}{
		{
			name:        "all goes well",
			wantActions: []string{"+1", "+2", "+3", "body", "-3", "-2", "-1"},
		},
		{
			name: "the body fails", body: errBody,
			wantActions: []string{"+1", "+2", "+3", "body", "-3", "-2", "-1"},
			wantErrors:  []error{errBody},
		},
		{
			name: "a step fails halfway", second: errStep,
			wantActions: []string{"+1", "+2", "-2", "-1"},
			wantErrors:  []error{errStep},
		},
		{
			name: "an undo fails", body: errBody, undo: errUndo,
			wantActions: []string{"+1", "+2", "+3", "body", "-3", "-2", "-1"},
			wantErrors:  []error{errBody, errUndo},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var actions []string
			act := func(name string, err error) error {
				actions = append(actions, name)
				return err
			}
			steps := []step{
				func() (func() error, error) {
					return func() error { return act("-1", nil) }, act("+1", nil)
				},
				func() (func() error, error) {
					return func() error { return act("-2", tt.undo) }, act("+2", tt.second)
				},
				func() (func() error, error) {
					return func() error { return act("-3", nil) }, act("+3", nil)
				},
			}
			err := through(steps, func() error { return act("body", tt.body) })
			if diff := cmp.Diff(tt.wantActions, actions); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
			if (err != nil) != (tt.wantErrors != nil) {
				t.Errorf("error %v, want %v", err, tt.wantErrors)
			}
			for _, want := range tt.wantErrors {
				if !errors.Is(err, want) {
					t.Errorf("error %v lacks %v", err, want)
				}
			}
		})
	}
}

// TestThroughWithoutUndo makes sure that a step may leave nothing to undo.
func TestThroughWithoutUndo(t *testing.T) {
	done := false
	steps := []step{func() (func() error, error) { return nil, nil }}
	if err := through(steps, func() error { done = true; return nil }); err != nil || !done {
		t.Errorf("error %v, body carried out: %v", err, done)
	}
}
