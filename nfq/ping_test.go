package nfq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/bench/lab/labtest"
	"ftpctd/nfq/packet"
)

// long is more than an answer takes, short less than a test that waits for none
// may last.
const (
	long  = 10 * time.Second
	short = 20 * time.Millisecond
)

func ping(t *testing.T, q *Queue, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return q.Ping(ctx)
}

// TestPing makes sure that a queue answers as long as its handler returns.
func TestPing(t *testing.T) {
	labtest.EnterNetns(t)
	inHandler, leave := make(chan struct{}), make(chan struct{})
	q, stop := start(t, Config{}, handler{packet: func(*packet.Packet) Verdict {
		inHandler <- struct{}{}
		<-leave
		return Verdict{}
	}})
	install(t)
	for range 3 {
		if err := ping(t, q, long); err != nil {
			t.Errorf("idle: %v", err)
		}
	}

	client, server := connect(t, "127.0.0.1")
	write(t, client, "USER x\r\n")
	<-inHandler
	if err := ping(t, q, short); !errors.Is(err, errStuck) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("in a handler: error %v, want %v and %v", err, errStuck, context.DeadlineExceeded)
	}
	leave <- struct{}{}
	read(t, server, 8)
	if err := ping(t, q, long); err != nil {
		t.Errorf("after the handler: %v", err)
	}

	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := ping(t, q, long); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after the end: error %v, want %v", err, os.ErrClosed)
	}
}

// TestPingProgress makes sure that a loop counts as going on where the answer is
// lost but packets are handled.
func TestPingProgress(t *testing.T) {
	for _, packets := range []int{0, 1} {
		t.Run(fmt.Sprint(packets, " packets"), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			q := newQueue(Config{})
			q.handler = handler{}
			q.driver = sender(func([]byte) error {
				for range packets {
					q.handle(1, nil, nil)
				}
				cancel()
				return nil
			})
			if err := q.Ping(ctx); errors.Is(err, errStuck) != (packets == 0) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestPingLostQueue checks that a working receive loop is not enough: the kernel must
// have the queue.
func TestPingLostQueue(t *testing.T) {
	labtest.EnterNetns(t)
	q, _ := start(t, Config{}, handler{})
	if err := q.send(appendUnbind(nil, q.num)); err != nil {
		t.Fatal(err)
	}
	if err := ping(t, q, long); !errors.Is(err, unix.ENODEV) {
		t.Errorf("error %v, want %v", err, unix.ENODEV)
	}
}
