// Decides over HTTP, for brokers that ask over HTTP: everything is allowed but topics below forbidden/. It speaks as
// RabbitMQ's HTTP backend wants it: a form in, `allow` or `deny` out. GET /asked says how often each path was asked.
//
//	./authhttp 127.0.0.1:8000
package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
)

var (
	allow = []byte("allow")
	deny  = []byte("deny")
)

func main() {
	asked := map[string]*atomic.Uint64{}
	serve := http.NewServeMux()
	for _, path := range []string{"user", "vhost", "resource", "topic"} {
		count := new(atomic.Uint64)
		asked[path] = count
		serve.HandleFunc("POST /auth/"+path, func(to http.ResponseWriter, request *http.Request) {
			count.Add(1)
			body, err := io.ReadAll(io.LimitReader(request.Body, 64<<10))
			form, wrong := url.ParseQuery(string(body))
			// RabbitMQ has dots where MQTT has slashes.
			topic := strings.ReplaceAll(form.Get("routing_key"), ".", "/")
			answer := allow
			if err != nil || wrong != nil || strings.HasPrefix(topic, "forbidden/") {
				answer = deny
			}
			_, _ = to.Write(answer)
		})
	}
	serve.HandleFunc("GET /asked", func(to http.ResponseWriter, _ *http.Request) {
		counts := map[string]uint64{}
		for path, count := range asked {
			counts[path] = count.Load()
		}
		_ = json.NewEncoder(to).Encode(counts)
	})
	log.Fatal(http.ListenAndServe(os.Args[1], serve))
}
