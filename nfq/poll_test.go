package nfq

import (
	"testing"
	"time"

	"ftpctd/bench/lab/labtest"
)

// TestBusyPoll holds that packets pass while the loop polls, that the loop goes to
// sleep when none come any more, and that closing ends it in both states.
func TestBusyPoll(t *testing.T) {
	for _, tt := range []struct {
		name   string
		asleep bool
	}{{"closed while it polls", false}, {"closed in its sleep", true}} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.EnterNetns(t)
			const poll = 10 * time.Millisecond
			q, _ := start(t, Config{BusyPoll: poll}, handler{})
			install(t)
			client, server := connect(t, "127.0.0.1")
			for range 20 {
				write(t, client, "x")
				read(t, server, 1)
			}
			if tt.asleep {
				time.Sleep(3 * maxCredit * poll)
				write(t, client, "x")
				read(t, server, 1)
				time.Sleep(2 * poll)
			}
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			q.driver.(*socket).loop.Wait()
		})
	}
}
