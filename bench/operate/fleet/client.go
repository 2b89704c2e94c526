package main

import (
	"encoding/binary"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// client is a device with a session that outlasts its connection: it comes back, sends again what was not acknowledged,
// and takes what was sent to it meanwhile.
type client struct {
	fleet  *fleet
	number int
	v5     bool

	// Who holds it may write to the link; nil: there is none.
	mutex sync.Mutex
	link  *link
	// Only of publishers.
	slots []slot
	// What is to be published, where the rate is given.
	due   int
	order uint64
	// By QoS: the last number published.
	published [3]uint64

	// What was sent to it: the last number of the sender's, what has come, and ids of QoS 2 that are not released.
	addressed uint64
	came      ledger
	pending   map[uint16]bool

	// What is held back on this link, in the order in which it has to be sent: [MQTT-4.6.0-2] to [MQTT-4.6.0-4].
	held []acknowledgement
}

type acknowledgement struct {
	kind byte
	id   uint16
}

// slot is one message on its way. Its packet id is its place plus one.
type slot struct {
	state  slotState
	qos    byte
	number uint64
	at     int64
	order  uint64
}

type slotState byte

const (
	free slotState = iota
	// Waits before it is used again.
	paused
	// PUBLISH was sent.
	sent
	// PUBREC has come, and PUBREL is held back.
	received
	// PUBREL was sent.
	released
)

func (c *client) id() string { return fmt.Sprintf("fleet-%d", c.number) }

// live connects for the first time, and then again whenever the connection ends.
func (c *client) live() {
	target, failures := 0, 0
	var elsewhere string
	var left time.Time
	for first := true; ; {
		where := c.fleet.options.targets[target%len(c.fleet.options.targets)]
		if elsewhere != "" {
			where = elsewhere
		}
		l, err := c.come(where, first)
		if err != nil {
			if first {
				log.Fatalf("%s: %v", c.id(), err)
			}
			c.fleet.refused.Add(1)
			target, elsewhere, failures = target+1, "", failures+1
			// 0.05 to 0.1 s, and at last 1 to 2 s.
			pause := 100 * time.Millisecond << min(failures-1, 4)
			time.Sleep(pause/2 + rand.N(pause/2))
			continue
		}
		if first {
			c.fleet.entered.Done()
		} else {
			c.fleet.returned(time.Since(left))
		}
		first, failures = false, 0
		elsewhere = c.serve(l)
		left = time.Now()
		if elsewhere == "" {
			target++
		}
	}
}

// address is where it comes from; nil: where the machine says.
func (c *client) address() net.Addr {
	if c.fleet.options.addresses == 0 {
		return nil
	}
	at := c.number % c.fleet.options.addresses
	return &net.TCPAddr{IP: net.IPv4(127, 8, byte(at/250), byte(1+at%250))}
}

// come connects and takes up the session.
func (c *client) come(where string, first bool) (*link, error) {
	if first {
		c.fleet.gate <- struct{}{}
		defer func() { <-c.fleet.gate }()
	}
	l, err := enter(login{where, c.id(), c.v5, true, c.address()})
	if err != nil {
		return nil, err
	}
	if first {
		if err := l.subscribe("down/" + c.id()); err != nil {
			return nil, err
		}
	} else if !l.present {
		c.fleet.fault("%s: the session is gone", c.id())
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.link = l
	c.resend()
	return l, nil
}

// serve reads until the connection ends, and returns the server reference if there was one.
func (c *client) serve(l *link) (elsewhere string) {
	ended := ""
	for {
		first, body, err := l.read()
		if err != nil {
			if ended == "" {
				ended = "closed"
			}
			break
		}
		switch first >> 4 {
		case publish:
			c.take(l, first, body)
		case pubrel:
			c.mutex.Lock()
			delete(c.pending, binary.BigEndian.Uint16(body))
			l.acknowledge(pubcomp, binary.BigEndian.Uint16(body))
			c.mutex.Unlock()
		case puback, pubrec, pubcomp:
			c.acknowledged(l, first>>4, body)
		case disconnect:
			ended, elsewhere = farewell(body)
		default:
			c.fleet.fault("%s: %#x from the broker", c.id(), first)
		}
	}
	c.mutex.Lock()
	c.link, c.held = nil, nil
	l.Close()
	c.mutex.Unlock()
	version := "3.1.1 "
	if c.v5 {
		version = "5.0 "
	}
	c.fleet.left(version + ended)
	return elsewhere
}

// farewell is what a DISCONNECT says: its reason code, and its server reference.
func farewell(body []byte) (code, reference string) {
	code = "0x00"
	if len(body) > 0 {
		code = fmt.Sprintf("0x%02X", body[0])
	}
	if len(body) > 2 {
		properties := string(body[2:])
		if at := strings.IndexByte(properties, 0x1C); at >= 0 && len(properties) > at+3 {
			size := int(binary.BigEndian.Uint16([]byte(properties[at+1 : at+3])))
			reference = properties[at+3 : min(at+3+size, len(properties))]
			code += " with a server reference"
		}
	}
	return code, reference
}

// take is a message to this client. Its acknowledgement is held back, so that something is always in flight.
func (c *client) take(l *link, first byte, body []byte) {
	d, err := parse(first, body, c.v5)
	if err != nil {
		c.fleet.fault("%s: %v", c.id(), err)
		return
	}
	answer := byte(puback)
	c.mutex.Lock()
	known := d.qos == 2 && c.pending[d.id]
	if d.qos == 2 {
		answer = pubrec
		if c.pending == nil {
			c.pending = map[uint16]bool{}
		}
		c.pending[d.id] = true
	}
	c.mutex.Unlock()
	if !known && c.came.enter(d.number) {
		c.fleet.downTimes.add(time.Duration(time.Now().UnixNano() - d.at))
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.hold(l, acknowledgement{answer, d.id})
}

// hold sends an acknowledgement later, behind those that were held before it. The mutex is held.
func (c *client) hold(l *link, one acknowledgement) {
	c.held = append(c.held, one)
	time.AfterFunc(c.fleet.options.hold, func() {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		// What is held when a connection ends is for the next one to say.
		if c.link != l {
			return
		}
		// Timers that are due together run in any order.
		next := c.held[0]
		c.held = c.held[1:]
		if next.kind == pubrel {
			c.slots[next.id-1].state = released
		}
		l.acknowledge(next.kind, next.id)
	})
}

// acknowledged is an answer to what this client has sent.
func (c *client) acknowledged(l *link, kind byte, body []byte) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	at := int(binary.BigEndian.Uint16(body)) - 1
	if at < 0 || at >= len(c.slots) || len(body) > 2 && body[2] >= 0x80 {
		c.fleet.fault("%s: %#x % x", c.id(), kind, body)
		return
	}
	s := &c.slots[at]
	switch {
	case kind == puback && s.state == sent && s.qos == 1, kind == pubcomp && s.state == released:
		c.rest(s)
	case kind == pubrec && s.state == sent && s.qos == 2:
		s.state = received
		c.hold(l, acknowledgement{pubrel, uint16(at + 1)})
	default:
		c.fleet.fault("%s: %#x for packet id %d, which is in state %d", c.id(), kind, at+1, s.state)
	}
}

// rest lets a slot wait before it is used again. The mutex is held.
func (c *client) rest(s *slot) {
	s.state = paused
	time.AfterFunc(c.fleet.options.pause, func() {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		s.state = free
		c.fill()
	})
}

// fill uses free slots, as far as something is to be sent. The mutex is held.
func (c *client) fill() {
	for offset, begin := 0, int(c.order); offset < len(c.slots); offset++ {
		// In turn, so that each QoS has its share.
		at := (begin + offset) % len(c.slots)
		s := &c.slots[at]
		if s.state != free || c.link == nil || !c.fleet.sending.Load() || c.fleet.options.rate > 0 && c.due == 0 {
			continue
		}
		c.due = max(c.due-1, 0)
		c.order++
		c.published[s.qos]++
		s.state, s.number, s.at, s.order = sent, c.published[s.qos], time.Now().UnixNano(), c.order
		c.send(at, false)
		// Nobody acknowledges QoS 0.
		if s.qos == 0 {
			c.rest(s)
		}
	}
}

func (c *client) send(at int, again bool) {
	s := &c.slots[at]
	topic := fmt.Sprintf("up/%d/%d", c.number, s.qos)
	c.link.send(stamped(topic, s.qos, c.v5, again, uint16(at+1), s.number, s.at))
}

// resend goes on with what was on its way, in the order in which it was first sent. The mutex is held.
func (c *client) resend() {
	open := []int{}
	for at := range c.slots {
		if c.slots[at].state >= sent {
			open = append(open, at)
		}
	}
	slices.SortFunc(open, func(a, b int) int { return int(c.slots[a].order) - int(c.slots[b].order) })
	for _, at := range open {
		if c.slots[at].state == sent {
			c.fleet.resent.Add(1)
			c.send(at, true)
		} else {
			c.slots[at].state = released
			c.link.acknowledge(pubrel, uint16(at+1))
		}
	}
	c.fill()
}

// idle says whether nothing of this client is on its way.
func (c *client) idle() bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for at := range c.slots {
		if c.slots[at].state >= sent {
			return false
		}
	}
	return c.came.whole(c.addressed)
}
