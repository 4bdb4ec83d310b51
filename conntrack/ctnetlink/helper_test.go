package ctnetlink

import (
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
	"ftpctd/conntrack"
)

// registry does what net/netfilter/nfnetlink_cthelper.c does with one name.
type registry struct {
	helpers map[uint16]*registered // by family
	builtin unix.Errno             // the answer if the kernel has a helper of the name; else 0
	absent  unix.Errno             // the answer to every message; else 0
}

type registered struct {
	cfg   HelperConfig
	shape bool      // differs in what cannot be changed
	until time.Time // in use by rules until then
}

func (r *registry) dial(t *testing.T) *Conn {
	c := &Conn{nl: nltest.Dial(func(req []netlink.Message) ([]netlink.Message, error) {
		if len(req) == 0 {
			return nil, errors.New("nobody asked")
		}
		return nltest.Error(int(r.answer(t, req[0])), req)
	})}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (r *registry) answer(t *testing.T, m netlink.Message) unix.Errno {
	if r.absent != 0 {
		return r.absent
	}
	h, err := parseHelper(m.Data)
	if err != nil || h.Name != "ftpctd" || h.Protocol != unix.IPPROTO_TCP {
		t.Errorf("asked for %+v, error %v", h, err)
	}
	old := r.helpers[h.Family]
	switch uint16(m.Header.Type) {
	case msgHelperNew:
		switch {
		case old == nil && r.builtin != 0:
			return r.builtin
		case old == nil:
			r.helpers[h.Family] = &registered{cfg: h.HelperConfig}
		case old.shape:
			return unix.EBUSY
		default:
			old.cfg = h.HelperConfig
		}
	case msgHelperDelete:
		switch {
		case old == nil:
			return unix.ENOENT
		case time.Now().Before(old.until):
			return unix.EBUSY
		}
		delete(r.helpers, h.Family)
	}
	return 0
}

var ftpctd = HelperConfig{Name: "ftpctd", MaxExpected: 8, Timeout: 30 * time.Second}

func TestRegisterHelper(t *testing.T) {
	forever := time.Now().Add(1000 * time.Hour) // which is after synctest's clock, too
	tests := []struct {
		name     string
		cfg      HelperConfig
		kernel   registry
		err      unix.Errno
		noHelper bool // ErrNoCTHelper
		invalid  bool
	}{
		{name: "new", cfg: ftpctd},
		{name: "left by a killed daemon", cfg: ftpctd, kernel: registry{helpers: map[uint16]*registered{unix.AF_INET: {}, unix.AF_INET6: {}}}},
		{name: "one family left", cfg: ftpctd, kernel: registry{helpers: map[uint16]*registered{unix.AF_INET6: {}}}},
		{name: "in use elsewhere", cfg: ftpctd, kernel: registry{helpers: map[uint16]*registered{unix.AF_INET: {until: forever}}}},
		{name: "of another shape", cfg: ftpctd, kernel: registry{helpers: map[uint16]*registered{unix.AF_INET: {shape: true}, unix.AF_INET6: {shape: true}}}},
		{name: "of another shape and in use", cfg: ftpctd, kernel: registry{helpers: map[uint16]*registered{unix.AF_INET: {shape: true, until: forever}}}, err: unix.EBUSY},
		{name: "of another shape and in use for IPv6 alone", cfg: ftpctd, kernel: registry{helpers: map[uint16]*registered{unix.AF_INET6: {shape: true, until: forever}}}, err: unix.EBUSY},
		{name: "the kernel's", cfg: ftpctd, kernel: registry{builtin: unix.EBUSY}, err: unix.EBUSY},
		{name: "the kernel's, before 6.12", cfg: ftpctd, kernel: registry{builtin: unix.EEXIST}, err: unix.EEXIST},
		{name: "no such subsystem", cfg: ftpctd, kernel: registry{absent: unix.EINVAL}, err: unix.EINVAL, noHelper: true},
		{name: "in a user namespace", cfg: ftpctd, kernel: registry{absent: unix.EPERM}, err: unix.EPERM, noHelper: true},
		{name: "no memory", cfg: ftpctd, kernel: registry{absent: unix.ENOMEM}, err: unix.ENOMEM},
		{name: "no name", cfg: HelperConfig{"", 8, time.Minute}, invalid: true},
		{name: "name of 16 bytes", cfg: HelperConfig{"0123456789abcdef", 8, time.Minute}, invalid: true},
		{name: "name with a NUL", cfg: HelperConfig{"ftp\x00", 8, time.Minute}, invalid: true},
		{name: "no expectations", cfg: HelperConfig{"ftpctd", 0, time.Minute}, invalid: true},
		{name: "too many expectations", cfg: HelperConfig{"ftpctd", 256, time.Minute}, invalid: true},
		{name: "no time", cfg: HelperConfig{"ftpctd", 8, time.Second - 1}, invalid: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kernel := tt.kernel
			if kernel.helpers == nil {
				kernel.helpers = make(map[uint16]*registered)
			}
			before := slices.Sorted(maps.Keys(kernel.helpers))
			var err error
			synctest.Test(t, func(t *testing.T) { err = kernel.dial(t).RegisterHelper(tt.cfg) })
			if errors.Is(err, ErrNoCTHelper) != tt.noHelper {
				t.Errorf("error %v, is ErrNoCTHelper: %t", err, !tt.noHelper)
			}
			e, ok := errors.AsType[*Error](err)
			switch {
			case tt.invalid:
				if !ok || e.Op != OpRegister || e.Err == nil {
					t.Errorf("error %v, want an *Error", err)
				}
			case tt.err != 0:
				if !errors.Is(err, tt.err) || !ok || e.Helper != "ftpctd" {
					t.Errorf("error %v, want an *Error of %v", err, tt.err)
				}
				if diff := cmp.Diff(before, slices.Sorted(maps.Keys(kernel.helpers))); diff != "" {
					t.Errorf("families with a helper (-want +got):\n%s", diff)
				}
			default:
				if err != nil {
					t.Fatal(err)
				}
				for _, family := range families {
					if h := kernel.helpers[family]; h == nil || h.cfg.MaxExpected != 8 || h.cfg.Timeout != 30*time.Second {
						t.Errorf("family %d: registered %+v, want %+v", family, h, ftpctd)
					}
				}
			}
		})
	}
}

func TestDeleteHelper(t *testing.T) {
	both := func(until time.Duration) map[uint16]*registered {
		h := registered{until: time.Now().Add(until)}
		return map[uint16]*registered{unix.AF_INET: &h, unix.AF_INET6: &h}
	}
	tests := []struct {
		name   string
		inUse  time.Duration
		absent unix.Errno
		left   int
		err    unix.Errno
	}{
		{name: "nobody uses it", inUse: 0},
		{name: "rules that go away", inUse: 100 * time.Millisecond},
		{name: "rules of another namespace", inUse: time.Hour, left: 2},
		{name: "no such helper", absent: unix.ENOENT, left: 2},
		{name: "no such subsystem", absent: unix.EINVAL, left: 2, err: unix.EINVAL},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kernel := registry{helpers: both(tt.inUse), absent: tt.absent}
				began := time.Now()
				err := kernel.dial(t).DeleteHelper("ftpctd")
				if tt.err == 0 && err != nil || tt.err != 0 && !errors.Is(err, tt.err) {
					t.Errorf("error %v, want %v", err, tt.err)
				}
				if len(kernel.helpers) != tt.left {
					t.Errorf("%d are left, want %d", len(kernel.helpers), tt.left)
				}
				if d := time.Since(began); d > releaseWait+releaseEvery {
					t.Errorf("it took %v", d)
				}
			})
		})
	}
}

// TestParseHelper reads what Linux lists.
func TestParseHelper(t *testing.T) {
	skipBigEndian(t)
	const whole = `
00 00 0000
0b00 0100 66747063746400 00
0800 0300 00000000                   # NFCTH_QUEUE_NUM
1400 0200                            # NFCTH_TUPLE, without NLA_F_NESTED
  0600 0100 0002 0000
  0500 0200 06 000000
2c00 0400
  0800 0100 00000001
  2000 0200
    0b00 0100 66747063746400 00
    0800 0200 00000008
    0800 0300 0000001e
0800 0500 00000000
0800 0600 00000000`
	got, err := parseHelper(labtest.ParseHex(t, whole))
	if err != nil {
		t.Fatal(err)
	}
	want := Helper{HelperConfig: ftpctd, Family: unix.AF_INET, Protocol: unix.IPPROTO_TCP}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("helper (-want +got):\n%s", diff)
	}
	enabled := strings.TrimSuffix(whole, "0") + "1"
	if got, err := parseHelper(labtest.ParseHex(t, enabled)); err != nil || !got.Enabled {
		t.Errorf("helper %+v, %v, want one that is enabled", got, err)
	}
	for _, cut := range []int{0, 3, 6, 30, 62} {
		if _, err := parseHelper(labtest.ParseHex(t, whole)[:cut]); err == nil {
			t.Errorf("no error for the first %d bytes", cut)
		}
	}
}

// ownHelpers returns those of the listed helpers that have the name.
func ownHelpers(t *testing.T, c *Conn, name string) []Helper {
	t.Helper()
	all, err := c.Helpers()
	if err != nil {
		t.Fatal(err)
	}
	var own []Helper
	for _, h := range all {
		if h.Name == name {
			own = append(own, h)
		}
	}
	return own
}

// TestOwnHelper registers, changes and deletes a helper, if the kernel supports that.
// Helpers are global, so it has a name that nothing else uses.
func TestOwnHelper(t *testing.T) {
	labtest.EnterNetns(t)
	c := openConn(t)
	if _, err := c.Helpers(); errors.Is(err, ErrNoCTHelper) {
		labtest.UnmetKernel(t, err.Error())
	}
	cfg := HelperConfig{Name: "ftpctd-test", MaxExpected: 3, Timeout: 20 * time.Second}
	t.Cleanup(func() {
		if err := c.DeleteHelper(cfg.Name); err != nil {
			t.Error(err)
		}
	})
	listed := func(want HelperConfig) {
		t.Helper()
		got := ownHelpers(t, c, want.Name)
		if len(got) == 2 && got[0].Family != unix.AF_INET {
			got[0], got[1] = got[1], got[0]
		}
		both := []Helper{
			{HelperConfig: want, Family: unix.AF_INET, Protocol: unix.IPPROTO_TCP},
			{HelperConfig: want, Family: unix.AF_INET6, Protocol: unix.IPPROTO_TCP},
		}
		if diff := cmp.Diff(both, got); diff != "" {
			t.Errorf("helpers (-want +got):\n%s", diff)
		}
	}
	if err := c.DeleteHelper(cfg.Name); err != nil {
		t.Fatalf("delete what is not there: %v", err)
	}
	wantErrno(t, c.ProbeHelper(cfg.Name), unix.EOPNOTSUPP)
	if err := c.RegisterHelper(cfg); err != nil {
		t.Fatal(err)
	}
	listed(cfg)
	if err := c.ProbeHelper(cfg.Name); err != nil {
		t.Error(err)
	}
	cfg.MaxExpected, cfg.Timeout = 5, time.Minute
	if err := c.RegisterHelper(cfg); err != nil {
		t.Fatal(err)
	}
	listed(cfg)

	// One with private data must be replaced.
	if err := c.DeleteHelper(cfg.Name); err != nil {
		t.Fatal(err)
	}
	other := appendHelper(nil, cfg, unix.AF_INET)
	other[len(other)-9] = 24 // NFCTH_PRIV_DATA_LEN, ahead of NFCTH_STATUS
	if _, err := c.execute(other, netlink.Acknowledge); err != nil {
		t.Fatal(err)
	}
	if err := c.RegisterHelper(cfg); err != nil {
		t.Fatal(err)
	}
	listed(cfg)

	remove, err := assignHelper(t, cfg.Name)
	if err != nil {
		t.Fatal(err)
	}
	related := countRelated(t)
	master := tuple(dial(t, labtest.ListenNetns(t, "127.0.0.1:21")))
	data := labtest.ListenNetns(t, "127.0.0.1:0")
	x := &conntrack.Expectation{Master: master, Tuple: conntrack.Tuple{Src: master.Src, Dst: data.Addr().(*net.TCPAddr).AddrPort()}}
	if err := c.Expect(x); err != nil {
		t.Fatal(err)
	}
	expected, err := c.Expectations()
	if err != nil || len(expected) != 1 || expected[0].Helper != cfg.Name || expected[0].Timeout > cfg.Timeout || expected[0].Timeout < cfg.Timeout/2 {
		t.Errorf("expectations %+v (error %v), want one of %s for %v", expected, err, cfg.Name, cfg.Timeout)
	}
	dial(t, data)
	if n := related(); n != 1 {
		t.Errorf("%d RELATED packets, want 1", n)
	}

	if err := c.DeleteHelper(cfg.Name); err != nil {
		t.Fatal(err)
	}
	if n := len(ownHelpers(t, c, cfg.Name)); n != 2 && n != 0 { // 0: Linux 7.x
		t.Errorf("%d helpers are left while a rule uses them, want 2", n)
	}
	remove()
	if err := c.DeleteHelper(cfg.Name); err != nil {
		t.Fatal(err)
	}
	if n := len(ownHelpers(t, c, cfg.Name)); n != 0 {
		t.Errorf("%d helpers are left, want none", n)
	}
	if name := helperOf(t, c, master); name != "" {
		t.Errorf("helper %q, want a connection that has lost its helper", name)
	}

	builtin := cfg
	builtin.Name = "sane"
	if c.ProbeHelper(builtin.Name) == nil {
		err := c.RegisterHelper(builtin)
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) {
			t.Errorf("error %v for the name of a helper of the kernel, want EBUSY or EEXIST", err)
		}
	}
}

// TestNoOwnHelper holds that a kernel without user-space helpers says so, where
// that is the case.
func TestNoOwnHelper(t *testing.T) {
	labtest.EnterNetns(t)
	c := openConn(t)
	_, err := c.Helpers()
	if err == nil {
		t.Skip("the kernel has user-space helpers")
	}
	for name, err := range map[string]error{"list": err, "register": c.RegisterHelper(ftpctd), "delete": c.DeleteHelper("ftpctd")} {
		if !errors.Is(err, ErrNoCTHelper) {
			t.Errorf("%s: error %v, want ErrNoCTHelper", name, err)
		}
	}
}

func TestProbe(t *testing.T) {
	labtest.EnterNetns(t)
	assignSane(t) // or skip
	c := openConn(t)
	if err := c.ProbeEntry(); err != nil {
		t.Error(err)
	}
	if err := c.ProbeHelper("sane"); err != nil {
		t.Error(err)
	}
	err := c.ProbeHelper("nosuch")
	wantErrno(t, err, unix.EOPNOTSUPP)
	if !strings.Contains(err.Error(), `helper "nosuch"`) {
		t.Errorf("%v does not name the helper", err)
	}
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		_, err := c.Lookup(testNetTuple(addr)) // which the probe must not leave
		wantErrno(t, err, unix.ENOENT)
	}
}
