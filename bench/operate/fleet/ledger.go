package main

import (
	"slices"
	"sync"
	"time"
)

// ledger says of each number of one stream of messages whether it has arrived, and how often.
type ledger struct {
	mutex  sync.Mutex
	counts []uint8
	last   uint64
	// Arrived for the first time after a later one had.
	disordered uint64
}

// enter is the arrival of a number, which begin at 1.
func (l *ledger) enter(number uint64) (first bool) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	for uint64(len(l.counts)) < number {
		l.counts = append(l.counts, 0)
	}
	count := &l.counts[number-1]
	first = *count == 0
	if *count < 255 {
		*count++
	}
	if first && number < l.last {
		l.disordered++
	}
	l.last = max(l.last, number)
	return first
}

// balance of all streams of one QoS in one direction.
type balance struct {
	Sent       uint64 `json:"sent"`
	Lost       uint64 `json:"lost"`
	Again      uint64 `json:"arrived_again"`
	Disordered uint64 `json:"out_of_order"`
}

func (b *balance) add(l *ledger, sent uint64) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	b.Sent += sent
	b.Disordered += l.disordered
	for number := range sent {
		switch {
		case number >= uint64(len(l.counts)) || l.counts[number] == 0:
			b.Lost++
		case l.counts[number] > 1:
			b.Again++
		}
	}
}

// whole says whether all of so many have arrived.
func (l *ledger) whole(sent uint64) bool {
	var b balance
	b.add(l, sent)
	return b.Lost == 0
}

// times are durations in ms, for quantiles.
type times struct {
	mutex sync.Mutex
	all   []float64
}

func (t *times) add(d time.Duration) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.all = append(t.all, float64(d.Microseconds())/1000)
}

type quantiles struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// take returns the quantiles of all that was added since the last call.
func (t *times) take() quantiles {
	t.mutex.Lock()
	all := t.all
	t.all = nil
	t.mutex.Unlock()
	if len(all) == 0 {
		return quantiles{}
	}
	slices.Sort(all)
	at := func(share float64) float64 { return all[int(share*float64(len(all)-1))] }
	return quantiles{len(all), at(0.5), at(0.99), all[len(all)-1]}
}

// moments are counted by the second since the mark, and by the tenth of a second, of which the most is told.
type moments struct {
	mutex  sync.Mutex
	Second []int
	tenths map[int64]int
}

func (m *moments) add(since time.Duration) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if since < 0 {
		return
	}
	for int(since/time.Second) >= len(m.Second) {
		m.Second = append(m.Second, 0)
	}
	m.Second[since/time.Second]++
	if m.tenths == nil {
		m.tenths = map[int64]int{}
	}
	m.tenths[since.Milliseconds()/100]++
}

func (m *moments) peak() (most int) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	for _, count := range m.tenths {
		most = max(most, count)
	}
	return most
}
