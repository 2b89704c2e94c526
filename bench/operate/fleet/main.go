// A fleet of devices with sessions that outlast their connections, which publish and are published to all the time, and come
// back when they are disconnected; what for: ../README.md. It is told what to do by lines on
// standard input, and answers each with a line of JSON:
//
//	start     messages begin
//	mark      the moments of disconnects and returns are counted from now on
//	count     how many are connected
//	look      how many are connected, and how long messages took since the last look
//	drop N    all but the first N clients disconnect at once, and come back
//	finish    no more messages; says what became of them all, and ends
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type options struct {
	targets             []string
	broker              string
	clients, publishers int
	window              int
	qos                 string
	rate, down          float64
	pause, hold         time.Duration
	addresses           int
	visitors            int
}

type fleet struct {
	options *options
	clients []*client
	// By the client's number and QoS: what has arrived at the broker.
	up      [][3]ledger
	sending atomic.Bool
	gate    chan struct{}
	entered sync.WaitGroup

	refused, resent    atomic.Uint64
	visits             visits
	upTimes, downTimes times

	mutex     sync.Mutex
	mark      time.Time
	ends      map[string]int
	ended     moments
	returns   moments
	awayTimes times
	faults    []string
}

func main() {
	log.SetFlags(0)
	o := options{}
	targets := flag.String("targets", "127.0.0.1:1883", "where clients connect; the next one after a connection has ended")
	flag.StringVar(&o.broker, "broker", "127.0.0.1:1884", "the broker itself")
	flag.IntVar(&o.clients, "clients", 100, "clients, half of them of 5.0 and half of 3.1.1")
	flag.IntVar(&o.publishers, "publishers", 10, "of them, those that publish")
	flag.IntVar(&o.window, "window", 4, "messages of a publisher that may be on their way")
	flag.StringVar(&o.qos, "qos", "12", "QoS of these messages, in turn; with QoS 0 nothing is sent again, so any disconnect may lose some")
	flag.Float64Var(&o.rate, "rate", 0, "messages a second of all publishers; 0: as the window allows")
	flag.Float64Var(&o.down, "down", 0, "messages a second to all clients")
	flag.DurationVar(&o.pause, "pause", 0, "time between an acknowledgement and the next message in its place")
	flag.DurationVar(&o.hold, "hold", 0, "time that a client holds back PUBREL, and its acknowledgements of deliveries")
	flag.IntVar(&o.addresses, "addresses", 0, "addresses that clients come from in turn, of 127.8.0.0/16; 0: 127.0.0.1")
	flag.IntVar(&o.visitors, "visitors", 0, "others that connect, are served and leave, all the time")
	flag.Parse()
	o.targets = strings.Split(*targets, ",")
	if err := run(&o); err != nil {
		log.Fatal(err)
	}
}

func run(o *options) error {
	f := &fleet{options: o, up: make([][3]ledger, o.clients), gate: make(chan struct{}, 64)}
	f.ends, f.faults = map[string]int{}, []string{}
	f.mark = time.Now().Add(time.Hour)
	for number := range o.clients {
		c := &client{fleet: f, number: number, v5: number%2 == 0}
		if number < o.publishers {
			c.slots = make([]slot, o.window)
			for at := range c.slots {
				c.slots[at].qos = o.qos[at%len(o.qos)] - '0'
			}
		}
		f.clients = append(f.clients, c)
	}
	if err := f.watch(); err != nil {
		return err
	}
	f.entered.Add(o.clients)
	for _, c := range f.clients {
		go c.live()
	}
	f.entered.Wait()
	if o.down > 0 {
		if _, err := newSender(f); err != nil {
			return err
		}
	}
	go f.pace()
	for number := range o.visitors {
		go f.visit(number)
	}
	return f.obey()
}

func (f *fleet) obey() error {
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(f.look()); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var answer any = struct{}{}
		word, number, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "start":
			f.sending.Store(true)
			for _, c := range f.clients {
				c.mutex.Lock()
				c.fill()
				c.mutex.Unlock()
			}
		case "mark":
			f.mutex.Lock()
			f.mark = time.Now()
			f.mutex.Unlock()
		case "count":
			answer = f.connected()
		case "look":
			answer = f.look()
		case "drop":
			first, err := strconv.Atoi(number)
			if err != nil || first > len(f.clients) {
				return fmt.Errorf("%q is not understood", lines.Text())
			}
			f.drop(f.clients[first:])
		case "finish":
			return out.Encode(f.finish())
		default:
			return fmt.Errorf("%q is not understood", lines.Text())
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
	return nil
}

// drop ends the connections of these clients, as far as they have one.
func (f *fleet) drop(clients []*client) {
	for _, c := range clients {
		c.mutex.Lock()
		if c.link != nil {
			_ = c.link.SetDeadline(time.Now())
		}
		c.mutex.Unlock()
	}
}

// pace makes messages due, at the rate that is given, whether or not their publishers are connected.
func (f *fleet) pace() {
	const tick = 10 * time.Millisecond
	turn, due := 0, 0.0
	for range time.Tick(tick) {
		if !f.sending.Load() {
			continue
		}
		for due += f.options.rate * tick.Seconds(); due >= 1; due-- {
			c := f.clients[turn%f.options.publishers]
			turn++
			c.mutex.Lock()
			c.due++
			c.fill()
			c.mutex.Unlock()
		}
	}
}

func (f *fleet) fault(format string, arguments ...any) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if len(f.faults) < 20 {
		f.faults = append(f.faults, fmt.Sprintf(format, arguments...))
	}
}

func (f *fleet) left(how string) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.ends[how]++
	f.ended.add(time.Since(f.mark))
}

func (f *fleet) returned(away time.Duration) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.returns.add(time.Since(f.mark))
	f.awayTimes.add(away)
}

type look struct {
	Connected int       `json:"connected"`
	Up        quantiles `json:"up_ms"`
	Down      quantiles `json:"down_ms"`
}

func (f *fleet) look() look {
	return look{f.connected(), f.upTimes.take(), f.downTimes.take()}
}

func (f *fleet) connected() (connected int) {
	for _, c := range f.clients {
		c.mutex.Lock()
		if c.link != nil {
			connected++
		}
		c.mutex.Unlock()
	}
	return connected
}

type report struct {
	look
	// From the clients to the broker and from the broker to the clients, by QoS.
	FromClients map[string]*balance `json:"from_clients"`
	ToClients   map[string]*balance `json:"to_clients"`
	Unfinished  int                 `json:"unfinished"`
	Resent      uint64              `json:"resent"`
	Refused     uint64              `json:"failed_connects"`
	Visits      uint64              `json:"visits"`
	VisitsLost  uint64              `json:"failed_visits"`
	Ends        map[string]int      `json:"ends"`
	EndSeconds  []int               `json:"ended_by_second"`
	EndPeak     int                 `json:"most_ended_in_100_ms"`
	Returns     []int               `json:"returned_by_second"`
	ReturnPeak  int                 `json:"most_returned_in_100_ms"`
	Away        quantiles           `json:"away_ms"`
	Faults      []string            `json:"faults"`
}

// How long what is on its way may take once nothing new is sent.
const drain = 30 * time.Second

// finish waits for what is on its way, and makes the account.
func (f *fleet) finish() report {
	f.sending.Store(false)
	// Whoever was just sending has finished then.
	time.Sleep(100 * time.Millisecond)
	for end := time.Now().Add(drain); time.Now().Before(end) && f.unfinished(0) > 0; {
		time.Sleep(100 * time.Millisecond)
	}
	// What was lost with QoS 0 never comes.
	unfinished := f.unfinished(1)
	r := report{look: f.look(), Unfinished: unfinished, Resent: f.resent.Load(), Refused: f.refused.Load()}
	r.Visits, r.VisitsLost = f.visits.served.Load(), f.visits.failed.Load()
	r.FromClients = map[string]*balance{"QoS 0": {}, "QoS 1": {}, "QoS 2": {}}
	r.ToClients = map[string]*balance{"QoS 1": {}, "QoS 2": {}}
	names := []string{"QoS 0", "QoS 1", "QoS 2"}
	for number, c := range f.clients {
		for qos := range names {
			r.FromClients[names[qos]].add(&f.up[number][qos], c.published[qos])
		}
		r.ToClients[names[downQoS(c)]].add(&c.came, c.addressed)
	}
	r.EndPeak, r.ReturnPeak, r.Away = f.ended.peak(), f.returns.peak(), f.awayTimes.take()
	f.mutex.Lock()
	defer f.mutex.Unlock()
	r.Ends, r.EndSeconds, r.Returns, r.Faults = f.ends, f.ended.Second, f.returns.Second, f.faults
	return r
}

// unfinished is how many clients have messages under way, of this QoS or a higher one.
func (f *fleet) unfinished(least int) (count int) {
	for number, c := range f.clients {
		if !c.idle() {
			count++
			continue
		}
		for qos := least; qos <= 2; qos++ {
			if !f.up[number][qos].whole(c.published[qos]) {
				count++
				break
			}
		}
	}
	return count
}
