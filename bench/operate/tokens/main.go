// Clients with tokens (JWT), and the keys that sign them. What it does is its first argument:
//
//	tokens keys    makes keys, for an mproxy that is to be started
//	tokens login   logs in and leaves, again and again
//	tokens hold    logs in with tokens that end, says nothing more, and sees when it is thrown out
//	tokens rotate  logs in while the keys change, in a file or at a URL
//
// Each says in a line of JSON what came of it.
package main

import (
	"encoding/json"
	"log"
	"os"
	"slices"
	"time"
)

func main() {
	log.SetFlags(0)
	does := map[string]func([]string) map[string]any{"keys": makeKeys, "login": login, "hold": hold, "rotate": rotate}
	if len(os.Args) < 2 || does[os.Args[1]] == nil {
		log.Fatal("tokens keys|login|hold|rotate")
	}
	if err := json.NewEncoder(os.Stdout).Encode(does[os.Args[1]](os.Args[2:])); err != nil {
		log.Fatal(err)
	}
}

// quantiles tells of times in milliseconds.
func quantiles(times []time.Duration) map[string]float64 {
	if len(times) == 0 {
		return map[string]float64{}
	}
	slices.Sort(times)
	at := func(share float64) float64 {
		return float64(times[int(share*float64(len(times)-1))].Microseconds()) / 1000
	}
	return map[string]float64{"least": at(0), "p50": at(0.5), "p99": at(0.99), "most": at(1)}
}
