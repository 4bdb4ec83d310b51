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

// fakeHelpers answers the questions of Choose.
type fakeHelpers struct {
	noOwn, noCarrier, noEntry, noRegister error
	registered                            ctnetlink.HelperConfig
	registrations                         int
	deleted                               string
}

func (f *fakeHelpers) Helpers() ([]ctnetlink.Helper, error) { return nil, f.noOwn }
func (f *fakeHelpers) ProbeHelper(string) error             { return f.noCarrier }
func (f *fakeHelpers) ProbeEntry() error                    { return f.noEntry }

func (f *fakeHelpers) RegisterHelper(c ctnetlink.HelperConfig) error {
	f.registered = c
	f.registrations++
	return f.noRegister
}

func (f *fakeHelpers) DeleteHelper(name string) error {
	f.deleted = name
	return nil
}

func TestPrepare(t *testing.T) {
	none := unix.EOPNOTSUPP
	tests := []struct {
		name    string
		kernel  fakeHelpers
		cfg     func(*config.Config)
		want    Admission
		wantErr string
	}{
		{name: "own helper", want: Admission{Mode: config.AdmitExpect, Helper: "ftpctd", Own: true}},
		{name: "own helper is expect", cfg: func(c *config.Config) { c.Admit = config.AdmitExpect }, want: Admission{Mode: config.AdmitExpect, Helper: "ftpctd", Own: true}},
		{name: "carrier", kernel: fakeHelpers{noOwn: none}, want: Admission{Mode: config.AdmitExpect, Helper: "sane"}},
		{name: "the name is taken", kernel: fakeHelpers{noRegister: unix.EBUSY}, want: Admission{Mode: config.AdmitExpect, Helper: "sane"}},
		{name: "no helper at all", kernel: fakeHelpers{noOwn: none, noCarrier: none}, want: Admission{Mode: config.AdmitEntry}},
		{name: "no helper, but asked for", kernel: fakeHelpers{noOwn: none, noCarrier: none}, cfg: func(c *config.Config) { c.Admit = config.AdmitExpect }, wantErr: `helper.carrier = "sane"`},
		{name: "entry asked for", cfg: func(c *config.Config) { c.Admit = config.AdmitEntry }, want: Admission{Mode: config.AdmitEntry}},
		{name: "entry without a table", cfg: func(c *config.Config) { c.Admit = config.AdmitEntry; c.Firewall.Manage = false }, wantErr: "firewall.manage = true"},
		{name: "nothing works", kernel: fakeHelpers{noOwn: none, noCarrier: none, noEntry: none}, wantErr: "entries cannot be made"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config.Default()
			if tt.cfg != nil {
				tt.cfg(&cfg)
			}
			got, err := Prepare(&tt.kernel, cfg)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error %v, want one with %q", err, tt.wantErr)
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
			if got.Own && tt.kernel.registered.MaxExpected != cfg.Helper.MaxExpected {
				t.Errorf("registered %+v", tt.kernel.registered)
			}
			if err := got.Close(&tt.kernel); err != nil || (tt.kernel.deleted == cfg.Helper.Name) != got.Own {
				t.Errorf("deleted %q, %v", tt.kernel.deleted, err)
			}
		})
	}
}

func TestPrepareSaysWhatFailed(t *testing.T) {
	kernel := &fakeHelpers{noRegister: unix.EINVAL, noCarrier: unix.EOPNOTSUPP, noEntry: unix.EPERM}
	_, err := Prepare(kernel, config.Default())
	if !errors.Is(err, unix.EINVAL) || !errors.Is(err, unix.EPERM) {
		t.Errorf("error %v, want every cause", err)
	}
}

// TestInstall has daemons in other network namespaces delete the helper before
// rules keep it: one family, or one after the other.
func TestInstall(t *testing.T) {
	own, cfg := Admission{Mode: config.AdmitExpect, Helper: "ftpctd", Own: true}, config.Default()
	carrier := Admission{Mode: config.AdmitExpect, Helper: "sane"}
	gone := unix.ENOENT
	tests := []struct {
		name       string
		admission  Admission
		answers    []error // of one installation after the other
		noRegister error
		want       error
		registered int
	}{
		{name: "at once", admission: own, answers: []error{nil}},
		{name: "the helper went away", admission: own, answers: []error{gone, nil}, registered: 1},
		{name: "it went away a family at a time", admission: own, answers: []error{gone, gone, nil}, registered: 2},
		{name: "it stays away", admission: own, answers: []error{gone, gone, gone}, want: gone, registered: 2},
		{name: "it is gone", admission: own, answers: []error{gone}, noRegister: unix.EBUSY, want: unix.EBUSY, registered: 1},
		{name: "something else", admission: own, answers: []error{unix.EPERM}, want: unix.EPERM},
		{name: "the kernel's helper", admission: carrier, answers: []error{gone}, want: gone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kernel := &fakeHelpers{noRegister: tt.noRegister}
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
