package main

import (
	"flag"
	"fmt"
	"sync"
	"time"
)

// How long after its token's end a client waits to be thrown out.
const overdue = 5 * time.Second

// hold logs in with tokens that end at different seconds, subscribes, and says nothing more.
func hold(arguments []string) map[string]any {
	flags := flag.NewFlagSet("hold", flag.ExitOnError)
	target := flags.String("target", "127.0.0.1:1883", "where")
	folder := flags.String("folder", ".", "where the keys are")
	count := flags.Int("clients", 500, "how many")
	least := flags.Duration("least", 20*time.Second, "how long the first tokens are valid")
	most := flags.Duration("most", 30*time.Second, "how long the last tokens are valid")
	check(flags.Parse(arguments))

	s, begun := readSigner(*folder, "ES256"), time.Now()
	var group sync.WaitGroup
	var lock sync.Mutex
	// So many come at a time.
	places := make(chan struct{}, 32)
	var late []time.Duration
	ends, early := map[string]int{}, 0
	for number := range *count {
		life := *least + (*most-*least)*time.Duration(number)/time.Duration(*count)
		// The token's own are whole seconds.
		end := time.Unix(begun.Add(life).Unix(), 0)
		token := s.token(fmt.Sprintf("client-%d", number), end)
		group.Go(func() {
			how, after := stay(*target, number, token, end, places)
			lock.Lock()
			defer lock.Unlock()
			ends[how]++
			if after < 0 {
				early++
			}
			late = append(late, after)
		})
	}
	group.Wait()
	return map[string]any{"clients": *count, "ends": ends, "early": early, "late_ms": quantiles(late)}
}

// stay is connected until it is thrown out: how, and how long after the end.
func stay(target string, number int, token string, end time.Time, places chan struct{}) (string, time.Duration) {
	places <- struct{}{}
	session, err := open(target, 1+number, fmt.Sprintf("client-%d", number), token)
	<-places
	if err != nil {
		return named(err), 0
	}
	defer session.Close()
	if err := session.subscribe(fmt.Sprintf("silent/%d", number)); err != nil {
		return named(err), 0
	}
	check(session.SetReadDeadline(end.Add(overdue)))
	kind, body, err := session.receive()
	if err != nil {
		return named(err), time.Since(end)
	}
	how := fmt.Sprintf("%#02x %x", kind, body)
	if kind == 0xE0 && len(body) > 5 {
		how = fmt.Sprintf("DISCONNECT %#02x %q", body[0], body[5:])
	}
	if _, _, err := session.receive(); err == nil {
		how += ", and goes on"
	}
	return how, time.Since(end)
}
