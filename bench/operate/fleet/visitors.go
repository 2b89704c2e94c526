package main

import (
	"fmt"
	"sync/atomic"
	"time"
)

// visits are connections of those who do not stay.
type visits struct {
	served, failed atomic.Uint64
}

// visit connects, subscribes, and leaves by DISCONNECT, again and again, while messages are sent.
func (f *fleet) visit(number int) {
	for ; ; time.Sleep(5 * time.Millisecond) {
		if !f.sending.Load() {
			continue
		}
		id := fmt.Sprintf("visitor-%d", number)
		l, err := enter(login{f.options.targets[0], id, number%2 == 0, false, nil})
		if err == nil {
			err = l.subscribe("down/" + id)
			l.send(packet(disconnect<<4, nil))
			l.Close()
		}
		if err != nil {
			f.visits.failed.Add(1)
			f.fault("%s: %v", id, err)
		} else {
			f.visits.served.Add(1)
		}
	}
}
