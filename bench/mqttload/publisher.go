package main

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"
)

// Messages of QoS 0 for each that is acknowledged: the last of a group has QoS 1, and its PUBACK counts the group.
const group = 20

// How long answers may take once nothing new is sent.
const drain = 30 * time.Second

// publisher is one client: one goroutine writes what the window allows, another reads PUBACKs.
type publisher struct {
	id   string
	link *link
	out  *result
	// With QoS 1, by topic.
	messages []message
	// With QoS 0, if that is the load.
	plain []message
	// Where each `forbid`-th goes, and has to be refused.
	forbidden []message
	forbid    int
	// What has become free in the window.
	credit chan int
	// By packet id: when it was sent, in ns since `began`, times two, and one if it has to be refused; 0: is not open.
	waiting [1 << 16]atomic.Int64
	began   time.Time
	// PUBLISH packets that want a PUBACK, and PUBACKs.
	sent, acked       atomic.Uint64
	timing, stopped   atomic.Bool
	numbers           uint64 // The last number of a message that should arrive.
	times             []time.Duration
	accepted, refused uint64
	wrong, outOfOrder uint64
}

func newPublisher(o *options, number int, out *result) (*publisher, error) {
	p := &publisher{id: fmt.Sprintf("load-%02d", number), out: out, forbid: o.forbid, began: time.Now()}
	for topic := range o.topics {
		name := fmt.Sprintf("devices/%s/%d", p.id, topic)
		p.messages = append(p.messages, newMessage(name, 1, o.v5, o.payload))
		if o.qos == 0 {
			p.plain = append(p.plain, newMessage(name, 0, o.v5, o.payload))
		}
	}
	for _, name := range []string{"forbidden/", "kick/"} {
		m := newMessage(name+p.id, 1, o.v5, o.payload)
		m.refused = true
		p.forbidden = append(p.forbidden, m)
	}
	link, code, err := enter(login{o.target, p.id, o.user, o.password, o.v5})
	if err == nil && code != 0 {
		err = fmt.Errorf("%s was refused with %#x", p.id, code)
	}
	p.link = link
	window := max(1, o.window/p.each())
	p.credit = make(chan int, window+1)
	p.credit <- window
	return p, err
}

// each is how many messages a PUBACK stands for.
func (p *publisher) each() int {
	if p.plain != nil {
		return group
	}
	return 1
}

// write fills the window, with one write for all that has become free.
func (p *publisher) write(stop *atomic.Bool) {
	var bytes []byte
	count := 0
	for free := range p.credit {
		for len(p.credit) > 0 {
			free += <-p.credit
		}
		if stop.Load() {
			break
		}
		bytes = bytes[:0]
		for range free {
			if p.plain != nil {
				for at := range group - 1 {
					m := &p.plain[(count+at)%len(p.plain)]
					bytes = append(bytes, m.with(p.next())...)
				}
				count += group - 1
			}
			bytes = append(bytes, p.acknowledged(count)...)
			count++
		}
		if _, err := p.link.Write(bytes); err != nil {
			p.out.fault("%s: %v", p.id, err)
			break
		}
	}
	p.stopped.Store(true)
	if p.acked.Load() == p.sent.Load() {
		p.link.within(time.Nanosecond)
	} else {
		p.link.within(drain)
	}
}

func (p *publisher) next() uint64 {
	p.numbers++
	return p.numbers
}

// acknowledged is the message with this number in the order of sending, with QoS 1.
func (p *publisher) acknowledged(count int) []byte {
	m := &p.messages[count%len(p.messages)]
	if p.forbid > 0 && count%p.forbid == p.forbid-1 {
		m = &p.forbidden[count/p.forbid%len(p.forbidden)]
	}
	id := uint16((p.sent.Add(1)-1)%0xFFFF) + 1
	at := time.Since(p.began).Nanoseconds() << 1
	number := uint64(0)
	if m.refused {
		at |= 1
	} else {
		number = p.next()
	}
	p.waiting[id].Store(at)
	binary.BigEndian.PutUint16(m.bytes[m.id:], id)
	return m.with(number)
}

func (m *message) with(number uint64) []byte {
	binary.BigEndian.PutUint64(m.bytes[m.number:], number)
	return m.bytes
}

// read takes PUBACKs until all have come and no more are asked for.
func (p *publisher) read() {
	defer close(p.credit)
	free := 0
	for {
		first, body, err := p.link.read()
		if err != nil {
			if p.acked.Load() != p.sent.Load() || !p.stopped.Load() {
				p.out.fault("%s: %d PUBACKs for %d messages, then: %v", p.id, p.acked.Load(), p.sent.Load(), err)
			}
			return
		}
		if first>>4 != puback || len(body) < 2 {
			p.out.fault("%s: %#x % x instead of a PUBACK", p.id, first, body)
			return
		}
		p.answered(body)
		free++
		if p.stopped.Load() && p.acked.Load() == p.sent.Load() {
			return
		}
		if p.link.from.Buffered() == 0 && !p.stopped.Load() {
			p.credit <- free
			free = 0
		}
	}
}

func (p *publisher) answered(body []byte) {
	id := binary.BigEndian.Uint16(body)
	if id != uint16((p.acked.Add(1)-1)%0xFFFF)+1 {
		p.outOfOrder++
	}
	at := p.waiting[id].Swap(0)
	if at == 0 {
		p.wrong++
		p.out.fault("%s: a PUBACK for %d, which is not open", p.id, id)
		return
	}
	if p.timing.Load() && p.plain == nil {
		p.times = append(p.times, time.Since(p.began)-time.Duration(at>>1))
	}
	code := byte(0)
	if len(body) > 2 {
		code = body[2]
	}
	mustRefuse := at&1 == 1
	if code >= 0x80 {
		p.refused++
	} else {
		p.accepted += uint64(p.each())
	}
	if mustRefuse != (code == 0x87) || !mustRefuse && code >= 0x80 {
		p.wrong++
		p.out.fault("%s: %#x in a PUBACK, refused: %v", p.id, code, mustRefuse)
	}
}
