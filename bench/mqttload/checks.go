package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// watched is what arrived at the broker.
type watched struct {
	Messages uint64 `json:"messages"`
	// Of what was accepted.
	Missing uint64 `json:"missing"`
	// A number that is not the next one of its client.
	OutOfOrder uint64 `json:"out_of_order"`
	// On a topic that nobody may publish to.
	Forbidden uint64 `json:"forbidden"`
}

// watcher subscribes at the broker itself, and reads all that arrives.
type watcher struct {
	link  *link
	last  map[string]uint64
	seen  atomic.Uint64
	found watched
	ended chan error
}

func watch(o *options) (*watcher, error) {
	link, code, err := enter(login{target: o.watch, id: "watcher", v5: true})
	if err != nil || code != 0 {
		return nil, fmt.Errorf("the watcher was not let in: %#x %v", code, err)
	}
	for _, filter := range []string{"devices/#", "forbidden/#", "kick/load-00", "kick/load-01"} {
		if code, err := link.subscribe(filter); err != nil || code > 2 {
			return nil, fmt.Errorf("the watcher may not read %s: %#x %v", filter, code, err)
		}
	}
	w := &watcher{link: link, last: map[string]uint64{}, ended: make(chan error, 1)}
	go func() { w.ended <- w.read() }()
	return w, nil
}

func (w *watcher) read() error {
	var acks []byte
	for {
		first, body, err := w.link.read()
		if err != nil {
			return err
		}
		if first>>4 != publish {
			return fmt.Errorf("the watcher got %#x", first)
		}
		size := int(binary.BigEndian.Uint16(body))
		topic, rest := string(body[2:2+size]), body[2+size:]
		if first&6 != 0 {
			acks = append(acks, puback<<4, 2, rest[0], rest[1])
			rest = rest[2:]
		}
		// No message here has properties.
		number := binary.BigEndian.Uint64(rest[1:])
		if client, found := strings.CutPrefix(topic, "devices/"); found {
			client, _, _ = strings.Cut(client, "/")
			if number != w.last[client]+1 {
				w.found.OutOfOrder++
			}
			w.last[client] = number
		} else {
			w.found.Forbidden++
		}
		w.seen.Add(1)
		if w.link.from.Buffered() == 0 && len(acks) > 0 {
			if _, err := w.link.Write(acks); err != nil {
				return err
			}
			acks = acks[:0]
		}
	}
}

// end waits until all that was accepted has arrived, or nothing comes any more.
func (w *watcher) end(out *result) *watched {
	for before := w.seen.Load() - 1; before != w.seen.Load(); {
		before = w.seen.Load()
		time.Sleep(time.Second)
	}
	w.link.Close()
	if err := <-w.ended; !strings.Contains(err.Error(), "closed") {
		out.fault("the watcher: %v", err)
	}
	w.found.Messages = w.seen.Load()
	w.found.Missing = out.Accepted - w.found.Messages
	return &w.found
}

// kicked says how long it took until a client was disconnected by a command, in µs from the PUBLISH that asked for it.
type kicked struct {
	Clients int     `json:"clients"`
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
}

// kick lets the service disconnect a client every so often, and tries to come in and to read where that is refused.
func (r *result) kick(o *options, stop *atomic.Bool) {
	admin, code, err := enter(login{o.target, "admin", "admin", "", true})
	if err != nil || code != 0 {
		r.fault("admin was not let in: %#x %v", code, err)
		return
	}
	defer admin.Close()
	r.kickedConnects++
	var times []time.Duration
	for round := 0; !stop.Load(); round++ {
		time.Sleep(o.kick)
		took, err := r.kickOne(o, admin, round)
		if err != nil {
			r.fault("kick %d: %v", round, err)
			return
		}
		times = append(times, took)
	}
	p50, p99 := quantiles(times)
	r.Kicks = &kicked{len(times), p50, p99}
}

func (r *result) kickOne(o *options, admin *link, round int) (time.Duration, error) {
	if _, code, err := enter(login{o.target, "stranger", "mallory", "", true}); err != nil || code != 0x87 {
		return 0, fmt.Errorf("mallory came in, or so: %#x %v", code, err)
	}
	id := fmt.Sprintf("victim-%d", round)
	victim, code, err := enter(login{o.target, id, "", "", true})
	if err != nil || code != 0 {
		return 0, fmt.Errorf("%#x %v", code, err)
	}
	defer victim.Close()
	r.kickedConnects++
	if code, err := victim.subscribe("secret/" + id); err != nil || code != 0x87 {
		return 0, fmt.Errorf("secret/ may be read, or so: %#x %v", code, err)
	}
	// The first one waits until mproxy has opened Control, of which nobody here is told.
	limit := patience
	if round == 0 {
		limit = patience / 20
	}
	for range 20 {
		asked := time.Now()
		if err := r.publish(admin, "kick/"+id, o.payload); err != nil {
			return 0, err
		}
		victim.within(limit)
		first, body, err := victim.read()
		took := time.Since(asked)
		if err == nil && first>>4 == disconnect && len(body) > 0 && body[0] == 0x98 {
			return took, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, fmt.Errorf("%#x % x instead of a DISCONNECT: %v", first, body, err)
		}
	}
	return 0, errors.New("the service disconnects nobody")
}

// publish one message with QoS 1, alone, which has to be accepted.
func (r *result) publish(by *link, topic string, payload int) error {
	m := newMessage(topic, 1, true, payload)
	m.bytes[m.id+1] = 1
	if _, err := by.Write(m.bytes); err != nil {
		return err
	}
	by.within(patience)
	first, body, err := by.read()
	if err != nil || first>>4 != puback || len(body) > 2 && body[2] >= 0x80 {
		return fmt.Errorf("%#x % x instead of a PUBACK: %v", first, body, err)
	}
	r.kickedPublishes++
	return nil
}
