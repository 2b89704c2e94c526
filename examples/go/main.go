// A hook service for mproxy: refuses one user and two topic trees, rewrites a third, and gives sensors a grant.
// README.md says how to start it.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	m "hook/mproxy/v1"

	"google.golang.org/grpc"
)

type hook struct{ m.UnimplementedHooksServer }

// Hello names the calls that this service wants; the others are never made.
func (hook) Hello(context.Context, *m.HelloRequest) (*m.HelloResponse, error) {
	return &m.HelloResponse{Name: "go", Wants: []*m.Want{
		{Hook: m.Hook_HOOK_AUTH_CONNECT}, {Hook: m.Hook_HOOK_AUTH_PUBLISH}, {Hook: m.Hook_HOOK_AUTH_SUBSCRIBE},
	}}, nil
}

func (hook) AuthConnect(_ context.Context, request *m.AuthConnectRequest) (*m.AuthConnectResponse, error) {
	client := request.GetClient()
	switch {
	case client.GetUsername() == "mallory":
		return refuseConnect(&m.Deny{ReasonString: "mallory may not come in"}), nil
	// Such an id would be more than one level of a topic, or match the topics of others.
	case strings.ContainsAny(client.GetClientId(), "/+#"):
		return refuseConnect(&m.Deny{ReasonCode: 0x85}), nil
	case client.GetUsername() == "sensor":
		return admit(&m.ConnectAllow{Grant: sensor}), nil
	}
	return admit(&m.ConnectAllow{}), nil
}

func (hook) AuthPublish(_ context.Context, request *m.AuthPublishRequest) (*m.AuthPublishResponse, error) {
	if strings.HasPrefix(request.GetTopic(), "forbidden/") {
		no := &m.Deny{ReasonString: "nobody publishes here"}
		return &m.AuthPublishResponse{Verdict: &m.AuthPublishResponse_Deny{Deny: no}}, nil
	}
	yes := &m.PublishAllow{}
	if rest, found := strings.CutPrefix(request.GetTopic(), "old/"); found {
		topic := "new/" + rest
		yes.Topic = &topic
	}
	return &m.AuthPublishResponse{Verdict: &m.AuthPublishResponse_Allow{Allow: yes}}, nil
}

func (hook) AuthSubscribe(_ context.Context, request *m.AuthSubscribeRequest) (*m.AuthSubscribeResponse, error) {
	answer := &m.AuthSubscribeResponse{}
	for _, asked := range request.GetFilters() {
		verdict := &m.FilterVerdict{Verdict: &m.FilterVerdict_Allow{Allow: &m.FilterAllow{}}}
		// Judge what a filter matches: "+" and "#" also match secret topics.
		switch first, _, _ := strings.Cut(asked.GetFilter(), "/"); first {
		case "secret", "+", "#":
			no := &m.Deny{ReasonString: "this would show what is secret"}
			verdict = &m.FilterVerdict{Verdict: &m.FilterVerdict_Deny{Deny: no}}
		}
		answer.Verdicts = append(answer.Verdicts, verdict)
	}
	return answer, nil
}

// Sensors say something about themselves, and hear what is said to them. What no rule matches is refused, and nobody
// is asked.
var sensor = &m.Grant{
	Version: "sensor-1",
	Rules: []*m.GrantRule{
		{
			Effect:       m.Effect_EFFECT_ALLOW,
			Actions:      []m.GrantAction{m.GrantAction_GRANT_ACTION_PUBLISH},
			TopicFilters: []string{"sensors/${clientid}/#"},
		},
		{
			Effect:       m.Effect_EFFECT_ALLOW,
			Actions:      []m.GrantAction{m.GrantAction_GRANT_ACTION_SUBSCRIBE},
			TopicFilters: []string{"commands/${clientid}/#"},
		},
	},
	DefaultEffect: m.Effect_EFFECT_DENY.Enum(),
}

func admit(yes *m.ConnectAllow) *m.AuthConnectResponse {
	return &m.AuthConnectResponse{Verdict: &m.AuthConnectResponse_Allow{Allow: yes}}
}

func refuseConnect(no *m.Deny) *m.AuthConnectResponse {
	return &m.AuthConnectResponse{Verdict: &m.AuthConnectResponse_Deny{Deny: no}}
}

func main() {
	address := os.Getenv("HOOK_ADDRESS")
	if address == "" {
		address = "127.0.0.1:50051"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr())
	server := grpc.NewServer()
	m.RegisterHooksServer(server, hook{})
	// What is asked already is answered; mproxy asks another endpoint, if there is one, or this one when it is back.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-stop
		server.GracefulStop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
