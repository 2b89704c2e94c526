// A hook service for mproxy in Go, over calls and over all three streams; what it decides stands in ../README.md.
//
//	./service 127.0.0.1:50051
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"sync"

	m "services/mproxy/v1"

	"google.golang.org/grpc"
)

func connectVerdict(client *m.Client) *m.AuthConnectResponse {
	if client.GetUsername() == "mallory" || strings.ContainsAny(client.GetClientId(), "/+#") {
		return &m.AuthConnectResponse{Verdict: &m.AuthConnectResponse_Deny{Deny: refusal}}
	}
	return &m.AuthConnectResponse{Verdict: &m.AuthConnectResponse_Allow{Allow: &m.ConnectAllow{}}}
}

func publishVerdict(client *m.Client, asked *m.AuthPublishRequest) *m.AuthPublishResponse {
	if strings.HasPrefix(asked.GetTopic(), "forbidden/") {
		return publishDenied
	}
	if id, found := strings.CutPrefix(asked.GetTopic(), "kick/"); found {
		if client.GetUsername() != "admin" {
			return publishDenied
		}
		commands.disconnect(id)
	}
	return publishAllowed
}

func subscribeVerdict(asked *m.AuthSubscribeRequest) *m.AuthSubscribeResponse {
	answer := &m.AuthSubscribeResponse{}
	for _, one := range asked.GetFilters() {
		verdict := &m.FilterVerdict{Verdict: &m.FilterVerdict_Allow{Allow: &m.FilterAllow{}}}
		switch first, _, _ := strings.Cut(one.GetFilter(), "/"); first {
		case "secret", "+", "#":
			verdict = &m.FilterVerdict{Verdict: &m.FilterVerdict_Deny{Deny: refusal}}
		}
		answer.Verdicts = append(answer.Verdicts, verdict)
	}
	return answer
}

// Nobody changes them.
var (
	refusal        = &m.Deny{ReasonCode: 0x87}
	publishDenied  = &m.AuthPublishResponse{Verdict: &m.AuthPublishResponse_Deny{Deny: refusal}}
	publishAllowed = &m.AuthPublishResponse{Verdict: &m.AuthPublishResponse_Allow{Allow: &m.PublishAllow{}}}
)

type hooks struct{ m.UnimplementedHooksServer }

func (hooks) Hello(context.Context, *m.HelloRequest) (*m.HelloResponse, error) {
	wanted := []m.Hook{m.Hook_HOOK_AUTH_CONNECT, m.Hook_HOOK_AUTH_PUBLISH, m.Hook_HOOK_AUTH_SUBSCRIBE}
	if os.Getenv("HOOK_EVENTS") != "off" {
		wanted = append(wanted, m.Hook_HOOK_CONNECT, m.Hook_HOOK_PUBLISH, m.Hook_HOOK_SUBSCRIBE, m.Hook_HOOK_DISCONNECT)
	}
	answer := &m.HelloResponse{Name: "go", Streams: true}
	for _, hook := range wanted {
		answer.Wants = append(answer.Wants, &m.Want{Hook: hook})
	}
	return answer, nil
}

func (hooks) AuthConnect(_ context.Context, asked *m.AuthConnectRequest) (*m.AuthConnectResponse, error) {
	return connectVerdict(asked.GetClient()), nil
}

func (hooks) AuthPublish(_ context.Context, asked *m.AuthPublishRequest) (*m.AuthPublishResponse, error) {
	return publishVerdict(asked.GetClient(), asked), nil
}

func (hooks) AuthSubscribe(_ context.Context, asked *m.AuthSubscribeRequest) (*m.AuthSubscribeResponse, error) {
	return subscribeVerdict(asked), nil
}

// Events, where mproxy cannot send them over Observe.
func (hooks) Connect(context.Context, *m.ConnectEvent) (*m.Told, error)       { return &m.Told{}, nil }
func (hooks) Publish(context.Context, *m.PublishEvent) (*m.Told, error)       { return &m.Told{}, nil }
func (hooks) Subscribe(context.Context, *m.SubscribeEvent) (*m.Told, error)   { return &m.Told{}, nil }
func (hooks) Disconnect(context.Context, *m.DisconnectEvent) (*m.Told, error) { return &m.Told{}, nil }

type streams struct{ m.UnimplementedHookStreamServer }

// Decide answers each message of questions with one message of answers.
func (streams) Decide(stream grpc.BidiStreamingServer[m.DecideRequest, m.DecideResponse]) error {
	clients := map[uint64]*m.Client{}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, one := range request.GetIntroduce() {
			clients[one.GetClientRef()] = one.GetClient()
		}
		response := &m.DecideResponse{Answers: make([]*m.StreamAnswer, 0, len(request.GetQuestions()))}
		for _, asked := range request.GetQuestions() {
			response.Answers = append(response.Answers, answer(asked, clients[asked.GetClientRef()]))
		}
		for _, gone := range request.GetForget() {
			delete(clients, gone)
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func answer(asked *m.StreamQuestion, client *m.Client) *m.StreamAnswer {
	answer := &m.StreamAnswer{Id: asked.GetId()}
	switch question := asked.GetQuestion().(type) {
	case *m.StreamQuestion_Connect:
		answer.Answer = &m.StreamAnswer_Connect{Connect: connectVerdict(client)}
	case *m.StreamQuestion_Publish:
		answer.Answer = &m.StreamAnswer_Publish{Publish: publishVerdict(client, question.Publish)}
	case *m.StreamQuestion_Subscribe:
		answer.Answer = &m.StreamAnswer_Subscribe{Subscribe: subscribeVerdict(question.Subscribe)}
	default:
		answer.Answer = &m.StreamAnswer_Error{Error: &m.AnswerError{Detail: "not decided here"}}
	}
	return answer
}

// Observe counts events by their numbers, and confirms each message; a service of yours would store them first.
func (streams) Observe(stream grpc.BidiStreamingServer[m.ObserveRequest, m.ObserveResponse]) error {
	var last, events, repeated, gaps uint64
	defer func() {
		fmt.Printf("observed events=%d last=%d repeated=%d gaps=%d\n", events, last, repeated, gaps)
	}()
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, event := range request.GetEvents() {
			events++
			if sequence := sequence(event); sequence > last {
				last = sequence
			} else {
				repeated++
			}
		}
		for _, gap := range request.GetGaps() {
			gaps += gap.GetTo() - gap.GetFrom() + 1
			last = max(last, gap.GetTo())
		}
		if last == 0 {
			continue
		}
		if err := stream.Send(&m.ObserveResponse{SafeUpTo: last}); err != nil {
			return err
		}
	}
}

func sequence(event *m.StreamEvent) uint64 {
	switch event := event.GetEvent().(type) {
	case *m.StreamEvent_Connect:
		return event.Connect.GetSequence()
	case *m.StreamEvent_Publish:
		return event.Publish.GetSequence()
	case *m.StreamEvent_Subscribe:
		return event.Subscribe.GetSequence()
	case *m.StreamEvent_Unsubscribe:
		return event.Unsubscribe.GetSequence()
	case *m.StreamEvent_Disconnect:
		return event.Disconnect.GetSequence()
	}
	return 0
}

// Control sends commands, and reads what became of them.
func (streams) Control(stream grpc.BidiStreamingServer[m.ControlReport, m.ControlCommand]) error {
	queue := commands.join()
	defer commands.leave(queue)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			report, err := stream.Recv()
			if err != nil {
				return
			}
			if result := report.GetResult(); result.GetError() != "" {
				log.Printf("command %d: %s", result.GetId(), result.GetError())
			}
		}
	}()
	for {
		select {
		case command := <-queue:
			if err := stream.Send(command); err != nil {
				return err
			}
		case <-ended:
			return nil
		}
	}
}

// Where commands go: one queue for each mproxy that has opened Control.
type dispatcher struct {
	sync.Mutex
	queues map[chan *m.ControlCommand]struct{}
	last   uint64
}

var commands = dispatcher{queues: map[chan *m.ControlCommand]struct{}{}}

func (d *dispatcher) join() chan *m.ControlCommand {
	queue := make(chan *m.ControlCommand, 256)
	d.Lock()
	defer d.Unlock()
	d.queues[queue] = struct{}{}
	return queue
}

func (d *dispatcher) leave(queue chan *m.ControlCommand) {
	d.Lock()
	defer d.Unlock()
	delete(d.queues, queue)
}

func (d *dispatcher) disconnect(clientID string) {
	d.Lock()
	defer d.Unlock()
	d.last++
	command := &m.ControlCommand{
		Id:       d.last,
		Selector: &m.Selector{By: &m.Selector_ClientId{ClientId: clientID}},
		Command:  &m.ControlCommand_Disconnect{Disconnect: &m.DisconnectCommand{Detail: "kicked"}},
	}
	for queue := range d.queues {
		select {
		case queue <- command:
		default:
			log.Printf("command %d is dropped: earlier ones wait", command.GetId())
		}
	}
}

func main() {
	address := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	m.RegisterHooksServer(server, hooks{})
	m.RegisterHookStreamServer(server, streams{})
	log.Fatal(server.Serve(listener))
}
