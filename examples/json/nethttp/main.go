package main

import (
	"encoding/json"
	"log"
	"net/http"
	"strings"
)

type object map[string]any

func answer(path string, decide func(question object) object) {
	http.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		question := object{}
		json.NewDecoder(r.Body).Decode(&question)
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(decide(question))
	})
}

func main() {
	answer("/Hello", func(object) object {
		return object{"wants": []object{{"hook": "HOOK_AUTH_PUBLISH"}}}
	})
	answer("/AuthPublish", func(question object) object {
		topic, _ := question["topic"].(string)
		if strings.HasPrefix(topic, "secret/") {
			return object{"deny": object{"reasonString": "keep out"}}
		}
		if strings.HasPrefix(topic, "old/") {
			return object{"allow": object{"topic": strings.Replace(topic, "old/", "new/", 1)}}
		}
		return object{"allow": object{}}
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:50051", nil))
}
