// Publishes to any MQTT broker as fast as it is acknowledged, and says how fast that was; what for, and how it is read:
// ../comparison/README.md and ../services/README.md. It prints `begin` and `end` around the time that is measured, so that
// whoever has started it can read what others have used meanwhile, and then one line of JSON.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

type options struct {
	target, user, password, watch string
	clients, qos, window, topics  int
	payload, forbid               int
	v5                            bool
	warm, measured, kick          time.Duration
}

func main() {
	log.SetFlags(0)
	var o options
	flag.StringVar(&o.target, "target", "127.0.0.1:1883", "where clients connect")
	flag.StringVar(&o.user, "user", "", "user name of all publishers")
	flag.StringVar(&o.password, "password", "", "their password")
	flag.IntVar(&o.clients, "clients", 8, "publishers")
	flag.IntVar(&o.qos, "qos", 1, "0 or 1")
	flag.IntVar(&o.window, "window", 100, "messages of one client on their way")
	flag.IntVar(&o.topics, "topics", 1, "topics of one client, taken in turn")
	flag.IntVar(&o.payload, "payload", 64, "bytes of a payload")
	flag.IntVar(&o.forbid, "forbid", 0, "each so many messages, one that has to be refused with 0x87; only with -v5")
	flag.BoolVar(&o.v5, "v5", false, "MQTT 5.0 instead of 3.1.1")
	flag.StringVar(&o.watch, "watch", "", "broker to subscribe at, to check what arrives")
	flag.DurationVar(&o.kick, "kick", 0, "how often the service is to disconnect a client; only with -v5")
	flag.DurationVar(&o.warm, "warm", time.Second, "load before it is measured")
	flag.DurationVar(&o.measured, "measured", 3*time.Second, "time that is measured")
	flag.Parse()
	if err := run(&o); err != nil {
		log.Fatal(err)
	}
}

// result is what is printed; times are in µs.
type result struct {
	Messages  uint64  `json:"messages"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50"`
	P99       float64 `json:"p99"`
	// Since the start: accepted and refused by a code, answered otherwise than they should, PUBACKs out of order.
	Accepted   uint64   `json:"accepted"`
	Refused    uint64   `json:"refused"`
	Wrong      uint64   `json:"wrong"`
	OutOfOrder uint64   `json:"acks_out_of_order"`
	Watched    *watched `json:"watched,omitempty"`
	Kicks      *kicked  `json:"kicks,omitempty"`
	// What the service should have been told of: each connection begins and ends, publishes and subscriptions are answered.
	Events uint64   `json:"events"`
	Faults []string `json:"faults"`

	mutex                           sync.Mutex
	kickedConnects, kickedPublishes uint64
}

func (r *result) fault(format string, arguments ...any) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if len(r.Faults) < 10 {
		r.Faults = append(r.Faults, fmt.Sprintf(format, arguments...))
	}
}

func run(o *options) error {
	out := &result{Faults: []string{}}
	var watcher *watcher
	if o.watch != "" {
		var err error
		if watcher, err = watch(o); err != nil {
			return err
		}
	}
	publishers := make([]*publisher, o.clients)
	for number := range publishers {
		p, err := newPublisher(o, number, out)
		if err != nil {
			return err
		}
		publishers[number] = p
	}
	var stop atomic.Bool
	var all sync.WaitGroup
	for _, p := range publishers {
		all.Go(func() { p.write(&stop) })
		all.Go(p.read)
	}
	if o.kick > 0 {
		all.Go(func() { out.kick(o, &stop) })
	}
	time.Sleep(o.warm)
	counted := func() (messages uint64) {
		for _, p := range publishers {
			messages += p.acked.Load() * uint64(p.each())
		}
		return messages
	}
	for _, p := range publishers {
		p.timing.Store(true)
	}
	fmt.Println("begin")
	from, began := counted(), time.Now()
	time.Sleep(o.measured)
	out.Messages = counted() - from
	out.Seconds = time.Since(began).Seconds()
	fmt.Println("end")
	for _, p := range publishers {
		p.timing.Store(false)
	}
	out.PerSecond = float64(out.Messages) / out.Seconds
	stop.Store(true)
	all.Wait()
	var times []time.Duration
	for _, p := range publishers {
		times = append(times, p.times...)
		out.Accepted += p.accepted
		out.Refused += p.refused
		out.Wrong += p.wrong
		out.OutOfOrder += p.outOfOrder
		p.link.Close()
	}
	out.P50, out.P99 = quantiles(times)
	if watcher != nil {
		out.Watched = watcher.end(out)
	}
	connects := uint64(o.clients) + out.kickedConnects
	subscriptions := max(out.kickedConnects, 1) - 1 // One for each but the admin.
	out.Events = 2*connects + out.Accepted + out.kickedPublishes + subscriptions
	return json.NewEncoder(os.Stdout).Encode(out)
}

func quantiles(times []time.Duration) (float64, float64) {
	if len(times) == 0 {
		return 0, 0
	}
	slices.Sort(times)
	at := func(share float64) float64 {
		return float64(times[min(int(share*float64(len(times))), len(times)-1)].Nanoseconds()) / 1000
	}
	return at(0.5), at(0.99)
}
