// Strangers who knock as fast as the machine lets them, from many addresses: a third say something that is no CONNECT, a
// third a CONNECT that is refused, and a third half of one, after which they wait. When the time is over, it says in a line
// of JSON what became of them.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// How long a stranger waits for an answer.
const patience = 500 * time.Millisecond

type counts struct {
	// One for each who waits.
	places chan struct{}

	Attempts   atomic.Uint64
	NotReached atomic.Uint64
	Closed     atomic.Uint64
	Refused    atomic.Uint64
	Waited     atomic.Uint64
	Admitted   atomic.Uint64
}

func main() {
	log.SetFlags(0)
	target := flag.String("target", "127.0.0.1:1883", "where they knock")
	user := flag.String("user", "mallory", "the user name that is refused")
	addresses := flag.Int("addresses", 250, "addresses that they come from, of 127.9.0.0/16")
	many := flag.Int("at-once", 64, "how many come at a time")
	wait := flag.Int("wait", 1500, "how many wait for an answer at a time")
	lasts := flag.Duration("lasts", 10*time.Second, "for how long")
	flag.Parse()

	c := counts{places: make(chan struct{}, *wait)}
	var all sync.WaitGroup
	begun := time.Now()
	for number := range *many {
		all.Add(1)
		go func() {
			defer all.Done()
			for turn := number; time.Since(begun) < *lasts; turn += *many {
				c.knock(*target, *user, turn, turn%*addresses, &all)
			}
		}()
	}
	all.Wait()
	seconds := time.Since(begun).Seconds()
	report := map[string]any{
		"attempts":    c.Attempts.Load(),
		"a_second":    float64(c.Attempts.Load()) / seconds,
		"not_reached": c.NotReached.Load(),
		"closed":      c.Closed.Load(),
		"refused":     c.Refused.Load(),
		"no_answer":   c.Waited.Load(),
		"admitted":    c.Admitted.Load(),
	}
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		log.Fatal(err)
	}
}

func (c *counts) knock(target, user string, turn, address int, all *sync.WaitGroup) {
	c.Attempts.Add(1)
	from := &net.TCPAddr{IP: net.IPv4(127, 9, byte(address/250), byte(1+address%250))}
	dialer := net.Dialer{LocalAddr: from, Timeout: patience}
	socket, err := dialer.Dial("tcp", target)
	if err != nil {
		c.NotReached.Add(1)
		return
	}
	// Reset, it leaves no port behind that waits for a minute.
	_ = socket.(*net.TCPConn).SetLinger(0)
	whole := connect(fmt.Sprintf("stranger-%d", turn), user)
	said := [][]byte{[]byte("GET / HTTP/1.1\r\nHost: broker\r\n\r\n"), whole, whole[:len(whole)/2]}[turn%3]
	_ = socket.SetDeadline(time.Now().Add(patience))
	if _, err := socket.Write(said); err != nil {
		c.Closed.Add(1)
		socket.Close()
		return
	}
	c.places <- struct{}{}
	all.Add(1)
	go func() {
		defer all.Done()
		c.listen(socket)
		socket.Close()
		<-c.places
	}()
}

func (c *counts) listen(socket net.Conn) {
	answer := make([]byte, 4)
	n, err := socket.Read(answer)
	switch failure, failed := err.(net.Error); {
	case n == 4 && answer[0] == 0x20 && answer[3] == 0:
		c.Admitted.Add(1)
	case n > 0:
		c.Refused.Add(1)
	case failed && failure.Timeout():
		c.Waited.Add(1)
	default:
		c.Closed.Add(1)
	}
}

// connect is a CONNECT of 3.1.1 with a user name and a password.
func connect(id, user string) []byte {
	body := append(text(nil, "MQTT"), 4, 0xC2, 0, 60)
	for _, one := range []string{id, user, "not the password"} {
		body = text(body, one)
	}
	return append([]byte{0x10, byte(len(body))}, body...)
}

func text(to []byte, s string) []byte {
	return append(append(to, byte(len(s)>>8), byte(len(s))), s...)
}
