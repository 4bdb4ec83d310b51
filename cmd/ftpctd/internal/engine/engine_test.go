package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ftpctd/conntrack"
	"ftpctd/nfq"
)

// fakeKernel is an Admitter whose messages are lines of text. answer, if set,
// is asked for the outcome of each insertion that waits for one.
type fakeKernel struct {
	mu     sync.Mutex
	calls  []string
	answer func(try int) error
	tries  int
}

func (k *fakeKernel) AppendExpect(b []byte, seq uint32, x *conntrack.Expectation) ([]byte, error) {
	return fmt.Appendf(b, "expect#%d %s;", seq, x.Tuple.Dst), nil
}

func (k *fakeKernel) AppendDelete(b []byte, _ uint32, x *conntrack.Expectation) []byte {
	return fmt.Appendf(b, "delete %s;", x.Tuple.Dst)
}

func (k *fakeKernel) Expect(x *conntrack.Expectation) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tries++
	if k.answer != nil {
		if err := k.answer(k.tries); err != nil {
			return err
		}
	}
	k.calls = append(k.calls, "expect "+x.Tuple.Dst.String())
	return nil
}

func (k *fakeKernel) Delete(x *conntrack.Expectation) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls = append(k.calls, "delete "+x.Tuple.Dst.String())
	return unix.ENOENT
}

func (k *fakeKernel) Explain(_ *conntrack.Expectation, err error) error { return err }

// bench is an engine with a fake kernel and what comes out of it.
type bench struct {
	*Engine
	kernel   *fakeKernel
	log      strings.Builder
	accepted []uint32
	id       uint32
}

var server = netip.MustParseAddrPort("198.51.100.20:21")

func newBench() *bench {
	b := &bench{kernel: &fakeKernel{}}
	policy := conntrack.Policy{
		MinPort: 1024, Active: true,
		ActivePorts: conntrack.PortRange{Min: 1024, Max: 65535}, PassivePorts: conntrack.PortRange{Min: 1024, Max: 65535},
	}
	log := slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	b.Engine = New(Config{
		Tracker: conntrack.Config{
			Ports: []uint16{21}, Policy: policy, Connections: 16, MaxExpected: 8, Timeout: 30 * time.Second,
		},
		Kernel: b.kernel,
		Accept: func(id uint32, _ []byte) error {
			b.accepted = append(b.accepted, id)
			return nil
		},
		Log: log,
	})
	return b
}

// announce has a client, whose connection is picked up in the middle, announce
// port 5000 of its server.
func (b *bench) announce(client string) nfq.Verdict {
	c := netip.MustParseAddrPort(client)
	b.id++
	b.Packet(&nfq.Packet{ID: b.id, Src: c, Dst: server, Seq: 1, Flags: nfq.ACK, Payload: []byte("PASV\r\n")})
	b.id++
	return b.Packet(&nfq.Packet{ID: b.id, Src: server, Dst: c, Seq: 1, Ack: 7, Flags: nfq.ACK, Payload: []byte("227 (198,51,100,20,19,136)\r\n")})
}

func TestPacketLeavesWithItsExpectation(t *testing.T) {
	b := newBench()
	v := b.announce("192.0.2.10:40000")
	if got, want := string(v.Before), "expect#2 198.51.100.20:5000;"; got != want || v.Hold {
		t.Errorf("verdict %q, hold %v, want %q at once", got, v.Hold, want)
	}
	v = b.Packet(&nfq.Packet{Src: server, Dst: netip.MustParseAddrPort("192.0.2.10:40000"), Flags: nfq.RST, Seq: 29})
	if got, want := string(v.Before), "delete 198.51.100.20:5000;"; got != want {
		t.Errorf("at the end %q, want %q", got, want)
	}
	b.Close()
}

func TestContestedPacketIsHeld(t *testing.T) {
	tests := []struct {
		name   string
		answer func(try int) error
		held   time.Duration
		calls  []string
		log    string
	}{
		{"the place is free", nil, 0, []string{"expect 198.51.100.20:5000"}, ""},
		{"free after a while", func(try int) error {
			if try < 10 {
				return unix.EEXIST
			}
			return nil
		}, 9 * retryEvery, []string{"expect 198.51.100.20:5000"}, ""},
		{"never free", func(int) error { return unix.EBUSY }, holdFor + retryEvery, nil, "reason=clash"},
		{"refused for another reason", func(int) error { return unix.EMFILE }, 0, nil, "reason=table-full"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				b.kernel.answer = tt.answer
				b.announce("192.0.2.10:40000")
				began := time.Now()
				if v := b.announce("192.0.2.10:40001"); !v.Hold || len(v.Before) != 0 {
					t.Errorf("%+v, want it held", v)
				}
				b.held.Wait()
				if got := time.Since(began); got != tt.held {
					t.Errorf("held for %v, want %v", got, tt.held)
				}
				if diff := cmp.Diff([]uint32{b.id}, b.accepted); diff != "" {
					t.Errorf("released (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.calls, b.kernel.calls); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
				if !strings.Contains(b.log.String(), tt.log) {
					t.Errorf("log lacks %q:\n%s", tt.log, &b.log)
				}
				b.Close()
			})
		})
	}
}

func TestCloseReleasesWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.kernel.answer = func(int) error { return unix.EBUSY }
		b.announce("192.0.2.10:40000")
		b.announce("192.0.2.10:40001")
		began := time.Now()
		b.Close()
		if d := time.Since(began); d > retryEvery {
			t.Errorf("Close took %v", d)
		}
		if len(b.accepted) != 1 {
			t.Errorf("released %v, want the one that was held", b.accepted)
		}
		if diff := cmp.Diff([]string{"delete 198.51.100.20:5000"}, b.kernel.calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

// TestWithdrawnWhileHeld has the control connection end while its expectation
// waits for its place.
func TestWithdrawnWhileHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.kernel.answer = func(try int) error {
			if try < 10 {
				return unix.EEXIST
			}
			return nil
		}
		b.announce("192.0.2.10:40000")
		b.announce("192.0.2.10:40001")
		b.Packet(&nfq.Packet{Src: server, Dst: netip.MustParseAddrPort("192.0.2.10:40001"), Flags: nfq.RST, Seq: 29})
		b.held.Wait()
		if diff := cmp.Diff([]string{"expect 198.51.100.20:5000", "delete 198.51.100.20:5000"}, b.kernel.calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		b.Close()
	})
}

func TestRefused(t *testing.T) {
	tests := []struct {
		name    string
		err     error
		retried bool
		log     string
	}{
		{"no helper", unix.EOPNOTSUPP, false, "reason=no-helper"},
		{"master gone", unix.ENOENT, false, "reason=no-master"},
		{"table full", unix.EMFILE, false, "reason=table-full"},
		{"something else", unix.EINVAL, false, "reason=kernel"},
		{"somebody else's", unix.EEXIST, true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				b.announce("192.0.2.10:40000")
				b.Refused(firstSeq, tt.err)
				b.held.Wait()
				if got := b.kernel.tries > 0; got != tt.retried {
					t.Errorf("tried again %v, want %v", got, tt.retried)
				}
				if !strings.Contains(b.log.String(), tt.log) {
					t.Errorf("log lacks %q:\n%s", tt.log, &b.log)
				}
				if got := b.Stats().Outstanding == 1; got != tt.retried {
					t.Errorf("still expected %v, want %v", got, tt.retried)
				}
				b.Close()
			})
		})
	}
	t.Run("a delete that came too late", func(t *testing.T) {
		b := newBench()
		b.Refused(deleteSeq, unix.ENOENT)
		if b.log.String() != "" {
			t.Errorf("logged %s", &b.log)
		}
	})
	t.Run("not ours", func(t *testing.T) {
		b := newBench()
		b.Refused(77, errors.New("x"))
		if !strings.Contains(b.log.String(), "seq=77") {
			t.Errorf("log %s", &b.log)
		}
	})
}

func TestUnusedExpectationsAreWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		b.announce("192.0.2.10:40000")
		ctx, cancel := context.WithTimeout(t.Context(), 31*time.Second+time.Millisecond)
		defer cancel()
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"delete 198.51.100.20:5000"}, b.kernel.calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}
