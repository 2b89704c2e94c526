package main

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// watch subscribes at the broker itself, where nobody is disconnected, to what clients publish.
func (f *fleet) watch() error {
	l, err := enter(login{f.options.broker, "fleet-watcher", true, false, nil})
	if err == nil {
		err = l.subscribe("up/#")
	}
	if err != nil {
		return fmt.Errorf("the watcher: %w", err)
	}
	go func() {
		pending := map[uint16]bool{}
		for {
			first, body, err := l.read()
			if err != nil {
				f.fault("the watcher: %v", err)
				return
			}
			switch first >> 4 {
			case publish:
				d, err := parse(first, body, true)
				if err != nil {
					f.fault("the watcher: %v", err)
					return
				}
				f.arrived(d, d.qos == 2 && pending[d.id])
				switch d.qos {
				case 1:
					l.acknowledge(puback, d.id)
				case 2:
					pending[d.id] = true
					l.acknowledge(pubrec, d.id)
				}
			case pubrel:
				id := binary.BigEndian.Uint16(body)
				delete(pending, id)
				l.acknowledge(pubcomp, id)
			}
		}
	}()
	return nil
}

func (f *fleet) arrived(d delivery, known bool) {
	parts := strings.Split(d.topic, "/")
	if known || len(parts) != 3 {
		return
	}
	number, _ := strconv.Atoi(parts[1])
	qos, _ := strconv.Atoi(parts[2])
	if number >= len(f.clients) || qos > 2 {
		f.fault("a message to %s", d.topic)
		return
	}
	if f.up[number][qos].enter(d.number) {
		f.upTimes.add(time.Duration(time.Now().UnixNano() - d.at))
	}
}

// sender publishes to the clients at the broker itself, in turn.
type sender struct {
	fleet *fleet
	link  *link
	mutex sync.Mutex
	next  uint16
	open  map[uint16]bool
}

// Messages of the sender that are not acknowledged; a broker may take no more at a time.
const senderWindow = 1000

func newSender(f *fleet) (*sender, error) {
	l, err := enter(login{f.options.broker, "fleet-sender", false, false, nil})
	if err != nil {
		return nil, fmt.Errorf("the sender: %w", err)
	}
	s := &sender{fleet: f, link: l, open: map[uint16]bool{}}
	go s.read()
	go s.pace()
	return s, nil
}

func (s *sender) pace() {
	const tick = 10 * time.Millisecond
	turn, due := 0, 0.0
	for range time.Tick(tick) {
		if !s.fleet.sending.Load() {
			continue
		}
		due = min(due+s.fleet.options.down*tick.Seconds(), senderWindow)
		for ; due >= 1; due-- {
			if !s.send(s.fleet.clients[turn%len(s.fleet.clients)]) {
				break
			}
			turn++
		}
	}
}

func (s *sender) send(to *client) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.open) >= senderWindow {
		return false
	}
	for s.next++; s.next == 0 || s.open[s.next]; s.next++ {
	}
	s.open[s.next] = true
	to.mutex.Lock()
	to.addressed++
	number := to.addressed
	to.mutex.Unlock()
	s.link.send(stamped("down/"+to.id(), downQoS(to), false, false, s.next, number, time.Now().UnixNano()))
	return true
}

// downQoS is that of all messages to a client; both kinds have clients of both versions.
func downQoS(to *client) byte { return byte(1 + to.number/2%2) }

func (s *sender) read() {
	for {
		first, body, err := s.link.read()
		if err != nil {
			s.fleet.fault("the sender: %v", err)
			return
		}
		id := binary.BigEndian.Uint16(body)
		s.mutex.Lock()
		switch first >> 4 {
		case pubrec:
			s.link.acknowledge(pubrel, id)
		case puback, pubcomp:
			delete(s.open, id)
		}
		s.mutex.Unlock()
	}
}
