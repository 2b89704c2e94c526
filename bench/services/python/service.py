#!/usr/bin/env python3
"""A hook service for mproxy in Python, over calls and over all three streams; what it decides stands in ../README.md.

    ./service.py 127.0.0.1:50051
"""

import asyncio
import os
import sys

import grpc
import events_pb2 as m
import events_pb2_grpc as rpc

REFUSAL = m.Deny(reason_code=0x87)
CONNECT_ALLOWED = m.AuthConnectResponse(allow=m.ConnectAllow())
CONNECT_DENIED = m.AuthConnectResponse(deny=REFUSAL)
PUBLISH_ALLOWED = m.AuthPublishResponse(allow=m.PublishAllow())
PUBLISH_DENIED = m.AuthPublishResponse(deny=REFUSAL)
FILTER_ALLOWED = m.FilterVerdict(allow=m.FilterAllow())
FILTER_DENIED = m.FilterVerdict(deny=REFUSAL)


class Commands:
    """Where commands go: one queue for each mproxy that has opened Control."""

    def __init__(self):
        self.queues, self.last = set(), 0

    def disconnect(self, client_id):
        self.last += 1
        command = m.ControlCommand(
            id=self.last,
            selector=m.Selector(client_id=client_id),
            disconnect=m.DisconnectCommand(detail="kicked"),
        )
        for queue in self.queues:
            queue.put_nowait(command)


COMMANDS = Commands()


def connect(client, _):
    if client.username == "mallory" or any(sign in client.client_id for sign in "/+#"):
        return CONNECT_DENIED
    return CONNECT_ALLOWED


def publish(client, asked):
    topic = asked.topic
    if topic.startswith("forbidden/"):
        return PUBLISH_DENIED
    if topic.startswith("kick/"):
        if client.username != "admin":
            return PUBLISH_DENIED
        COMMANDS.disconnect(topic.removeprefix("kick/"))
    return PUBLISH_ALLOWED


def subscribe(_, asked):
    secret = ("secret", "+", "#")
    verdicts = [FILTER_DENIED if one.filter.split("/")[0] in secret else FILTER_ALLOWED for one in asked.filters]
    return m.AuthSubscribeResponse(verdicts=verdicts)


DECIDE = {"connect": connect, "publish": publish, "subscribe": subscribe}


class Hooks(rpc.HooksServicer):
    async def Hello(self, request, context):
        wants = [m.HOOK_AUTH_CONNECT, m.HOOK_AUTH_PUBLISH, m.HOOK_AUTH_SUBSCRIBE]
        if os.environ.get("HOOK_EVENTS") != "off":
            wants += [m.HOOK_CONNECT, m.HOOK_PUBLISH, m.HOOK_SUBSCRIBE, m.HOOK_DISCONNECT]
        return m.HelloResponse(name="python", streams=True, wants=[m.Want(hook=hook) for hook in wants])

    async def AuthConnect(self, request, context):
        return connect(request.client, request)

    async def AuthPublish(self, request, context):
        return publish(request.client, request)

    async def AuthSubscribe(self, request, context):
        return subscribe(request.client, request)

    async def told(self, request, context):
        return m.Told()

    # Events, where mproxy cannot send them over Observe.
    Connect = Publish = Subscribe = Disconnect = told


def answer(asked, clients):
    kind = asked.WhichOneof("question")
    if kind not in DECIDE:
        return m.StreamAnswer(id=asked.id, error=m.AnswerError(detail="not decided here"))
    verdict = DECIDE[kind](clients[asked.client_ref], getattr(asked, kind))
    return m.StreamAnswer(id=asked.id, **{kind: verdict})


class Streams(rpc.HookStreamServicer):
    async def Decide(self, requests, context):
        """Answers each message of questions with one message of answers."""
        clients = {}
        async for request in requests:
            clients.update((one.client_ref, one.client) for one in request.introduce)
            yield m.DecideResponse(answers=[answer(asked, clients) for asked in request.questions])
            for gone in request.forget:
                clients.pop(gone, None)

    async def Observe(self, requests, context):
        """Counts events by their numbers, and confirms each message; a service of yours would store them first."""
        last = events = repeated = gaps = 0
        try:
            async for request in requests:
                for event in request.events:
                    sequence = getattr(event, event.WhichOneof("event")).sequence
                    events += 1
                    repeated += sequence <= last
                    last = max(last, sequence)
                for gap in request.gaps:
                    gaps += gap.to - getattr(gap, "from") + 1
                    last = max(last, gap.to)
                if last:
                    yield m.ObserveResponse(safe_up_to=last)
        finally:
            print(f"observed events={events} last={last} repeated={repeated} gaps={gaps}", flush=True)

    async def Control(self, reports, context):
        """Sends commands, and reads what became of them."""
        queue = asyncio.Queue()
        COMMANDS.queues.add(queue)
        reading = asyncio.create_task(self.read(reports, queue))
        try:
            while command := await queue.get():
                yield command
        finally:
            COMMANDS.queues.discard(queue)
            reading.cancel()

    async def read(self, reports, queue):
        async for report in reports:
            if report.HasField("result") and report.result.error:
                print(f"command {report.result.id}: {report.result.error}", file=sys.stderr)
        queue.put_nowait(None)


async def main():
    server = grpc.aio.server()
    rpc.add_HooksServicer_to_server(Hooks(), server)
    rpc.add_HookStreamServicer_to_server(Streams(), server)
    server.add_insecure_port(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")
    await server.start()
    await server.wait_for_termination()


asyncio.run(main())
