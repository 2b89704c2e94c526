package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// published are the keys that there are, the newest one last.
type published struct {
	sync.Mutex
	keys    []*signer
	file    string
	fetches atomic.Int64
}

// Keys that are published at a time. Tokens are signed with the newest two; the others are there for tokens that are on their
// way, as long as they may be.
const kept = 4

// next makes a new key, and publishes it together with those before, which have tokens that are still valid.
func (p *published) next(number int) {
	s := newSigner("ES256", fmt.Sprintf("key-%d", number))
	p.Lock()
	defer p.Unlock()
	p.keys = append(p.keys[max(0, len(p.keys)-kept+1):], s)
	if p.file != "" {
		draft := p.file + ".draft"
		check(os.WriteFile(draft, p.set(), 0o644))
		check(os.Rename(draft, p.file))
	}
}

func (p *published) set() []byte {
	var keys []map[string]string
	for _, s := range p.keys {
		keys = append(keys, s.jwk())
	}
	text, err := json.Marshal(map[string]any{"keys": keys})
	check(err)
	return text
}

func (p *published) ServeHTTP(answer http.ResponseWriter, _ *http.Request) {
	p.fetches.Add(1)
	p.Lock()
	defer p.Unlock()
	answer.Header().Set("content-type", "application/jwk-set+json")
	_, _ = answer.Write(p.set())
}

// signer is the newest key, and for each third login the one before.
func (p *published) signer(turn int) *signer {
	p.Lock()
	defer p.Unlock()
	at := len(p.keys) - 1
	if turn%3 == 2 {
		at = max(0, at-1)
	}
	return p.keys[at]
}

// rotate prints "ready" when there is a key, and begins when it reads where. Tokens are signed with a new key from the moment
// at which it is published.
func rotate(arguments []string) map[string]any {
	flags := flag.NewFlagSet("rotate", flag.ExitOnError)
	file := flags.String("file", "", "write the key set there")
	serve := flags.String("serve", "", "serve the key set at this address")
	rate := flags.Int("rate", 200, "logins a second")
	every := flags.Duration("every", 5*time.Second, "how often there is a new key")
	lasts := flags.Duration("lasts", 30*time.Second, "for how long")
	check(flags.Parse(arguments))

	keys := &published{file: *file}
	keys.next(0)
	if *serve != "" {
		go func() { check(http.ListenAndServe(*serve, keys)) }()
	}
	fmt.Println("ready")
	target, err := bufio.NewReader(os.Stdin).ReadString('\n')
	check(err)
	target = strings.TrimSpace(target)

	all, begun, rotations := newOutcomes(), time.Now(), 0
	var group sync.WaitGroup
	for turn := 0; time.Since(begun) < *lasts; turn++ {
		if due := int(time.Since(begun) / *every); due > rotations {
			rotations = due
			keys.next(due)
		}
		token := keys.signer(turn).token(fmt.Sprintf("client-%d", turn), time.Now().Add(time.Minute))
		group.Go(func() { all.enter(target, 1+turn%200, fmt.Sprintf("client-%d", turn), token) })
		time.Sleep(time.Until(begun.Add(time.Duration(turn+1) * time.Second / time.Duration(*rate))))
	}
	group.Wait()
	report := all.report()
	report["rotations"], report["fetches"] = rotations, keys.fetches.Load()
	return report
}
