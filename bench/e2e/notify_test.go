package main

import (
	"context"
	"net"
	"testing"
)

func TestServiceManager(t *testing.T) {
	m, err := newServiceManager(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	}()
	daemon, err := net.Dial("unixgram", m.path)
	if err != nil {
		t.Fatal(err)
	}
	defer daemon.Close()
	send := func(message string) {
		if _, err := daemon.Write([]byte(message)); err != nil {
			t.Fatal(err)
		}
	}

	send("STATUS=2 control connections; 7 data connections expected")
	if err := m.waitTracked(t.Context(), 2); err != nil {
		t.Error(err)
	}
	select {
	case <-m.ready:
		t.Error("ready before READY=1")
	default:
	}
	send("RELOADING=1\nSTATUS=none")
	send("READY=1\nSTATUS=control connections: 3; expected: 2")
	if err := m.waitTracked(t.Context(), 3); err != nil {
		t.Error(err)
	}
	select {
	case <-m.ready:
	default:
		t.Error("not ready after READY=1")
	}
	send("READY=1")
	send("STATUS=0")
	if err := m.waitTracked(t.Context(), 0); err != nil {
		t.Errorf("after a second READY=1: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.waitTracked(ctx, 2); err == nil {
		t.Error("the second number of an earlier status was taken for the connections")
	}
}
