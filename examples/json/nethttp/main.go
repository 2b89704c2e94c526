// A hook service for mproxy in JSON: refuses one user and two topic trees, rewrites a third, and gives sensors a grant.
// ../README.md says how to start it. Of a question, only what is decided by is read.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
)

type object map[string]any

type question struct {
	Client struct {
		ClientID string `json:"clientId"`
		Username string `json:"username"`
	} `json:"client"`
	Topic   string `json:"topic"`
	Filters []struct {
		Filter string `json:"filter"`
	} `json:"filters"`
}

// Sensors say something about themselves, and hear what is said to them. What no rule matches is refused, and nobody
// is asked.
var sensor = object{
	"version": "sensor-1",
	"rules": []object{
		{
			"effect":       "EFFECT_ALLOW",
			"actions":      []string{"GRANT_ACTION_PUBLISH"},
			"topicFilters": []string{"sensors/${clientid}/#"},
		},
		{
			"effect":       "EFFECT_ALLOW",
			"actions":      []string{"GRANT_ACTION_SUBSCRIBE"},
			"topicFilters": []string{"commands/${clientid}/#"},
		},
	},
	"defaultEffect": "EFFECT_DENY",
}

// hello names the calls that this service wants; the others are never made.
func hello(question) object {
	return object{"name": "net/http", "wants": []object{
		{"hook": "HOOK_AUTH_CONNECT"}, {"hook": "HOOK_AUTH_PUBLISH"}, {"hook": "HOOK_AUTH_SUBSCRIBE"},
	}}
}

func decideConnect(asked question) object {
	switch {
	case asked.Client.Username == "mallory":
		return deny("mallory may not come in")
	// Such an id would be more than one level of a topic, or match the topics of others.
	case strings.ContainsAny(asked.Client.ClientID, "/+#"):
		return object{"deny": object{"reasonCode": 0x85}}
	case asked.Client.Username == "sensor":
		return object{"allow": object{"grant": sensor}}
	}
	return object{"allow": object{}}
}

func decidePublish(asked question) object {
	switch {
	case strings.HasPrefix(asked.Topic, "forbidden/"):
		return deny("nobody publishes here")
	case strings.HasPrefix(asked.Topic, "old/"):
		return object{"allow": object{"topic": strings.Replace(asked.Topic, "old/", "new/", 1)}}
	}
	return object{"allow": object{}}
}

func decideSubscribe(asked question) object {
	verdicts := []object{}
	for _, one := range asked.Filters {
		verdict := object{"allow": object{}}
		// Judge what a filter matches: "+" and "#" also match secret topics.
		switch strings.Split(one.Filter, "/")[0] {
		case "secret", "+", "#":
			verdict = deny("this would show what is secret")
		}
		verdicts = append(verdicts, verdict)
	}
	return object{"verdicts": verdicts}
}

func deny(why string) object {
	return object{"deny": object{"reasonString": why}}
}

func answer(path string, decide func(question) object) {
	http.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		var asked question
		// Half a question is none: this is a failed answer, and allows nothing.
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(decide(asked))
	})
}

func main() {
	answer("/Hello", hello)
	answer("/AuthConnect", decideConnect)
	answer("/AuthPublish", decidePublish)
	answer("/AuthSubscribe", decideSubscribe)

	address := os.Getenv("HOOK_ADDRESS")
	if address == "" {
		address = "127.0.0.1:50051"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}
