package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"sync"
	"time"
)

// outcomes of logins, by several who log in.
type outcomes struct {
	sync.Mutex
	times  []time.Duration
	counts map[string]int
}

func newOutcomes() *outcomes {
	return &outcomes{counts: map[string]int{"logins": 0, "refused": 0, "failed": 0}}
}

// note takes down a login that took so long.
func (o *outcomes) note(took time.Duration, err error) {
	o.Lock()
	defer o.Unlock()
	var no refusal
	switch {
	case err == nil:
		o.counts["logins"]++
		o.times = append(o.times, took)
	case errors.As(err, &no):
		o.counts["refused"]++
		o.counts[no.Error()]++
	default:
		o.counts["failed"]++
		o.counts[named(err)]++
	}
}

// named is what went wrong, without the addresses of the connection.
func named(err error) string {
	var of *net.OpError
	if errors.As(err, &of) {
		return of.Op + ": " + of.Err.Error()
	}
	return err.Error()
}

func (o *outcomes) report() map[string]any {
	o.Lock()
	defer o.Unlock()
	return map[string]any{"counts": o.counts, "ms": quantiles(o.times)}
}

// enter logs in once, and says how long it took until CONNACK.
func (o *outcomes) enter(target string, from int, id, token string) {
	begun := time.Now()
	session, err := open(target, from, id, token)
	o.note(time.Since(begun), err)
	if err == nil {
		err = session.leave()
	}
}

// login logs in so often, each time with a token of its own, which was made before. "begin" and "end" are printed around it.
func login(arguments []string) map[string]any {
	flags := flag.NewFlagSet("login", flag.ExitOnError)
	target := flags.String("target", "127.0.0.1:1883", "where")
	folder := flags.String("folder", ".", "where the keys are")
	algorithm := flags.String("algorithm", "", "of the tokens; none, if not said")
	count := flags.Int("count", 10000, "how often")
	many := flags.Int("at-once", 32, "how many at a time")
	check(flags.Parse(arguments))

	tokens := make([]string, *count)
	if *algorithm != "" {
		s, until := readSigner(*folder, *algorithm), time.Now().Add(time.Hour)
		for at := range tokens {
			tokens[at] = s.token(fmt.Sprintf("client-%d", at), until)
		}
	}
	fmt.Println("begin")
	time.Sleep(100 * time.Millisecond)
	all, begun := newOutcomes(), time.Now()
	var group sync.WaitGroup
	for worker := range *many {
		group.Go(func() {
			for at := worker; at < *count; at += *many {
				all.enter(*target, 1+worker, fmt.Sprintf("client-%d", at), tokens[at])
			}
		})
	}
	group.Wait()
	took := time.Since(begun)
	// What follows from the last of them belongs to it.
	time.Sleep(300 * time.Millisecond)
	fmt.Println("end")
	time.Sleep(100 * time.Millisecond)
	report := all.report()
	report["seconds"] = took.Seconds()
	return report
}
