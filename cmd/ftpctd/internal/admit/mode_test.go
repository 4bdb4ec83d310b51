package admit

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"ftpctd/cmd/ftpctd/internal/config"
	"ftpctd/conntrack/ctnetlink"
)

// fakeHelpers is a kernel that has everything but what there is an error for.
type fakeHelpers struct {
	ownErr, carrierErr, entryErr, registerErr error

	helpers       []ctnetlink.Helper // what is registered already
	registered    ctnetlink.HelperConfig
	registrations int
	deleted       string
}

func (f *fakeHelpers) Helpers() ([]ctnetlink.Helper, error) { return f.helpers, f.ownErr }
func (f *fakeHelpers) ProbeHelper(string) error             { return f.carrierErr }
func (f *fakeHelpers) ProbeEntry() error                    { return f.entryErr }

func (f *fakeHelpers) RegisterHelper(c ctnetlink.HelperConfig) error {
	f.registered = c
	f.registrations++
	return f.registerErr
}

func (f *fakeHelpers) DeleteHelper(name string) error {
	f.deleted = name
	return nil
}

func TestPrepare(t *testing.T) {
	none := unix.EOPNOTSUPP
	own := []ctnetlink.Helper{{HelperConfig: ctnetlink.HelperConfig{Name: "ftpctd"}}}
	enabled := []ctnetlink.Helper{{HelperConfig: ctnetlink.HelperConfig{Name: "ftpctd"}, Enabled: true}}
	others := []ctnetlink.Helper{{HelperConfig: ctnetlink.HelperConfig{Name: "ftp"}}}
	tests := []struct {
		name        string
		kernel      fakeHelpers
		admit       config.Admit
		unmanaged   bool // firewall.manage = false
		want        Admission
		wantErr     string
		wantErrs    []error
		wantDeleted string // by Prepare
	}{
		{name: "auto", admit: config.AdmitAuto, want: Admission{Mode: config.AdmitExpect, Helper: "sane"}},
		{name: "auto, no user-space helpers", admit: config.AdmitAuto, kernel: fakeHelpers{ownErr: none}, want: Admission{Mode: config.AdmitExpect, Helper: "sane"}},
		{name: "auto, no carrier", admit: config.AdmitAuto, kernel: fakeHelpers{carrierErr: none}, want: Admission{Mode: config.AdmitEntry}},
		{name: "auto, nothing works", admit: config.AdmitAuto, kernel: fakeHelpers{carrierErr: none, entryErr: unix.EPERM}, wantErr: "conntrack entries cannot be created", wantErrs: []error{none, unix.EPERM}},
		{name: "auto, a killed daemon's helper", admit: config.AdmitAuto, kernel: fakeHelpers{helpers: own}, want: Admission{Mode: config.AdmitExpect, Helper: "sane"}, wantDeleted: "ftpctd"},
		{name: "auto, another program's helper", admit: config.AdmitAuto, kernel: fakeHelpers{helpers: others}, want: Admission{Mode: config.AdmitExpect, Helper: "sane"}},
		{name: "auto, another program's helper of the same name", admit: config.AdmitAuto, kernel: fakeHelpers{helpers: enabled}, want: Admission{Mode: config.AdmitExpect, Helper: "sane"}},
		{name: "expect", admit: config.AdmitExpect, want: Admission{Mode: config.AdmitExpect, Helper: "sane"}},
		{name: "expect, no carrier", admit: config.AdmitExpect, kernel: fakeHelpers{carrierErr: none}, wantErr: `helper.carrier = "sane"`, wantErrs: []error{none}},
		{name: "entry", admit: config.AdmitEntry, want: Admission{Mode: config.AdmitEntry}},
		{name: "entry, a killed daemon's helper", admit: config.AdmitEntry, kernel: fakeHelpers{helpers: own}, want: Admission{Mode: config.AdmitEntry}, wantDeleted: "ftpctd"},
		{name: "entry, no table", admit: config.AdmitEntry, unmanaged: true, wantErr: "firewall.manage = true"},
		{name: "helper", admit: config.AdmitHelper, want: Admission{Mode: config.AdmitHelper, Helper: "ftpctd"}},
		{name: "helper, not supported", admit: config.AdmitHelper, kernel: fakeHelpers{ownErr: none}, wantErr: "user-space helpers", wantErrs: []error{none}},
		{name: "helper, the name is taken", admit: config.AdmitHelper, kernel: fakeHelpers{registerErr: unix.EBUSY}, wantErr: unix.EBUSY.Error(), wantErrs: []error{unix.EBUSY}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config.Default()
			cfg.Admit, cfg.Firewall.Manage = tt.admit, !tt.unmanaged
			got, err := Prepare(&tt.kernel, cfg)
			if tt.kernel.deleted != tt.wantDeleted {
				t.Errorf("deleted the helper %q, want %q", tt.kernel.deleted, tt.wantDeleted)
			}
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error %v, want one with %q", err, tt.wantErr)
				}
				for _, want := range tt.wantErrs {
					if !errors.Is(err, want) {
						t.Errorf("error %v, want %v in it", err, want)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(Admission{}, "Why")); diff != "" {
				t.Errorf("admission (-want +got):\n%s", diff)
			}
			if got.Why == "" {
				t.Error("it does not say why")
			}
			own := got.Mode == config.AdmitHelper
			if registered := tt.kernel.registered.MaxExpected == cfg.Helper.MaxExpected; registered != own {
				t.Errorf("registered %+v", tt.kernel.registered)
			}
			tt.kernel.deleted = ""
			if err := got.Close(&tt.kernel); err != nil || (tt.kernel.deleted == cfg.Helper.Name) != own {
				t.Errorf("Close deleted %q, %v", tt.kernel.deleted, err)
			}
		})
	}
}

// TestInstall has daemons in other network namespaces delete the helper before
// rules keep it: one family, or one after the other.
func TestInstall(t *testing.T) {
	own, cfg := Admission{Mode: config.AdmitHelper, Helper: "ftpctd"}, config.Default()
	carrier := Admission{Mode: config.AdmitExpect, Helper: "sane"}
	gone := unix.ENOENT
	tests := []struct {
		name        string
		admission   Admission
		answers     []error // of one installation after the other
		registerErr error
		want        error
		registered  int
	}{
		{name: "at once", admission: own, answers: []error{nil}},
		{name: "the helper went away", admission: own, answers: []error{gone, nil}, registered: 1},
		{name: "it went away a family at a time", admission: own, answers: []error{gone, gone, nil}, registered: 2},
		{name: "it stays away", admission: own, answers: []error{gone, gone, gone}, want: gone, registered: 2},
		{name: "it is gone", admission: own, answers: []error{gone}, registerErr: unix.EBUSY, want: unix.EBUSY, registered: 1},
		{name: "something else", admission: own, answers: []error{unix.EPERM}, want: unix.EPERM},
		{name: "the kernel's helper", admission: carrier, answers: []error{gone}, want: gone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kernel := &fakeHelpers{registerErr: tt.registerErr}
			answers := tt.answers
			err := tt.admission.Install(kernel, cfg, func() error {
				if len(answers) == 0 {
					t.Fatal("too many installations")
				}
				answer := answers[0]
				answers = answers[1:]
				return answer
			})
			if !errors.Is(err, tt.want) || len(answers) != 0 {
				t.Errorf("error %v with %d installations left, want error %v and none", err, len(answers), tt.want)
			}
			if kernel.registrations != tt.registered {
				t.Errorf("registered %d times, want %d", kernel.registrations, tt.registered)
			}
			if tt.registered > 0 && kernel.registered.Name != cfg.Helper.Name {
				t.Errorf("registered %+v", kernel.registered)
			}
		})
	}
}
