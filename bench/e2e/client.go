package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"ftpctd/bench/lab"
	"ftpctd/ftpparse"
)

// patience is the limit for steps that normally take milliseconds: for all clients to
// log in or to disconnect, and for the daemon to empty its queue.
const patience = 5 * time.Second

// client runs all clients of one measurement on one thread. Each client has a control
// connection and repeats the cycle of the load.
type client struct {
	poller   *poller
	load     load
	server   netip.Addr
	sessions []clientSession

	ready     int  // sessions that are logged in
	busy      int  // sessions in a cycle
	stopping  bool // begin no more cycles
	cycles    int  // completed
	latencies []time.Duration
	scratch   []byte
}

type clientSession struct {
	index    int // in client.sessions
	control  int
	in       lineBuffer
	ready    bool
	listener int    // for active data connections; 0 without
	data     int    // the passive data connection; 0 without
	command  string // begins a cycle

	// The current cycle.
	began   time.Time
	replied bool // the reply has arrived
	carried bool // the data connection is closed, or there is none
}

// timing is the duration of the phases of a measurement.
type timing struct {
	warmup, duration time.Duration
	// drain is the limit for cycles in progress to complete. It exceeds the second
	// after which TCP retransmits a SYN.
	drain time.Duration
}

// drive runs a load with n clients on the client of a lab. It calls measure at the end
// of the warm-up and at the end of the measurement.
func drive(l *lab.Lab, ld load, n int, t timing, measure func() error) (c *client, err error) {
	c = &client{load: ld, sessions: make([]clientSession, n), latencies: make([]time.Duration, 0, 1<<17)}
	c.scratch = make([]byte, max(1, min(ld.size, len(chunk))))
	return c, l.Client.Do(func() error {
		if c.poller, err = newPoller(); err != nil {
			return err
		}
		defer c.close()
		return c.run(l, t, measure)
	})
}

func (c *client) run(l *lab.Lab, t timing, measure func() error) error {
	enough := never
	if c.load.size > 0 {
		t.warmup, t.duration, enough = 0, time.Minute, func() bool { return c.busy == 0 }
	}
	if err := c.connect(l); err != nil {
		return err
	}
	n := len(c.sessions)
	if err := c.until(patience, func() bool { return c.ready == n }); err != nil {
		return err
	}
	if c.ready < n {
		return fmt.Errorf("%d of %d clients did not log in within %v", n-c.ready, n, patience)
	}
	begin := func() error {
		for i := range c.sessions {
			if err := c.begin(&c.sessions[i], time.Now()); err != nil {
				return err
			}
		}
		return c.until(t.warmup, never)
	}
	// A bulk transfer is one cycle, so its beginning must be measured.
	steps := []func() error{begin, measure}
	if c.load.size > 0 {
		steps = []func() error{measure, begin}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	c.latencies = c.latencies[:0]
	if err := c.until(t.duration, enough); err != nil {
		return err
	}
	if err := measure(); err != nil {
		return err
	}
	return c.finish(t.drain)
}

// finish lets the cycles complete and disconnects.
func (c *client) finish(drain time.Duration) error {
	counted := len(c.latencies)
	c.stopping = true
	if err := c.until(drain, func() bool { return c.busy == 0 }); err != nil {
		return err
	}
	c.latencies = c.latencies[:counted]
	for i := range c.sessions {
		if err := unix.Shutdown(c.sessions[i].control, unix.SHUT_WR); err != nil {
			return err
		}
	}
	if err := c.until(patience, func() bool { return c.ready == 0 }); err != nil {
		return err
	}
	if c.ready > 0 {
		return fmt.Errorf("the server did not close %d control connections within %v", c.ready, patience)
	}
	return nil
}

func never() bool { return false }

// until handles events until done returns true or the limit has passed.
func (c *client) until(limit time.Duration, done func() bool) error {
	for end := time.Now().Add(limit); !done(); {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		if err := c.poller.wait(left, c.handle); err != nil {
			return err
		}
	}
	return nil
}

// connect opens the control connections.
func (c *client) connect(l *lab.Lab) error {
	own := l.Client.IPv4()
	c.server = l.Server.IPv4()
	if c.load.ipv6 {
		own, c.server = l.Client.IPv6(), l.Server.IPv6()
	}
	for i := range c.sessions {
		s := &c.sessions[i]
		s.index = i
		var err error
		if s.control, err = c.poller.connect(netip.AddrPortFrom(c.server, lab.ControlPort), control, i); err != nil {
			return err
		}
		s.command = c.load.command + "\r\n"
		if c.load.command != "PORT" {
			continue
		}
		var port uint16
		if s.listener, port, err = c.poller.listen(netip.AddrPortFrom(own, 0), dataListener, i); err != nil {
			return err
		}
		s.command = "PORT " + hostPort(netip.AddrPortFrom(own, port)) + "\r\n"
	}
	return nil
}

func (c *client) handle(fd int, r role, session int) error {
	s := &c.sessions[session]
	switch r {
	case control:
		open, err := s.in.read(fd, func(line []byte) error { return c.reply(s, line) })
		if err == nil && !open {
			if !c.stopping {
				return errors.New("the server closed a control connection")
			}
			c.ready--
			err = unix.EpollCtl(c.poller.epoll, unix.EPOLL_CTL_DEL, fd, nil)
		}
		return err
	case dataListener:
		data, err := accept(fd, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.Close(data), c.advance(s, &s.carried))
	default:
		n, _, err := unix.Recvfrom(fd, c.scratch, unix.MSG_TRUNC) // discards the data
		switch {
		case errors.Is(err, unix.EAGAIN), n > 0:
			return nil
		case err != nil:
			return fmt.Errorf("data connection: %w", err)
		}
		resetClose(fd)
		s.data = 0
		return c.advance(s, &s.carried)
	}
}

// reply handles a line from the server.
func (c *client) reply(s *clientSession, line []byte) error {
	code, _ := ftpparse.ParseReply(line)
	switch {
	case code >= 400:
		return fmt.Errorf("the server replied %q", line)
	case !s.ready:
		return c.login(s, code)
	case code == 227 || code == 229:
		to, why := code.Via().Endpoint(line)
		if why != "" {
			return fmt.Errorf("the server replied %q: %w", line, why)
		}
		var err error
		if s.data, err = c.poller.connect(netip.AddrPortFrom(c.server, to.Port()), data, s.index); err != nil {
			return err
		}
	}
	return c.advance(s, &s.replied)
}

// login continues the dialogue before the first cycle.
func (c *client) login(s *clientSession, code ftpparse.Code) error {
	switch code {
	case 220:
		return send(s.control, "USER anonymous\r\n")
	case 331:
		return send(s.control, "PASS bench@example.com\r\n")
	case 230:
		if c.load.size > 0 {
			return send(s.control, fmt.Sprintf("ALLO %d\r\n", c.load.size))
		}
	}
	s.ready = true
	c.ready++
	return nil
}

// begin begins a cycle.
func (c *client) begin(s *clientSession, now time.Time) error {
	s.began, s.replied, s.carried = now, false, !c.load.data()
	c.busy++
	return send(s.control, s.command)
}

// advance marks a part of the cycle, replied or carried, as done. After the last part
// it begins the next cycle.
func (c *client) advance(s *clientSession, part *bool) error {
	*part = true
	if !s.replied || !s.carried {
		return nil
	}
	now := time.Now()
	c.latencies = append(c.latencies, now.Sub(s.began))
	c.cycles++
	c.busy--
	if c.stopping || c.load.size > 0 {
		return nil
	}
	return c.begin(s, now)
}

// close closes the sockets that are still open.
func (c *client) close() {
	for i := range c.sessions {
		s := &c.sessions[i]
		for _, fd := range []int{s.control, s.listener, s.data} {
			if fd > 0 {
				_ = unix.Close(fd)
			}
		}
	}
	c.poller.close()
}
