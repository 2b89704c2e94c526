"""The example in ../python once more, asked in batches over a stream: a hook service for mproxy with grpc.aio. README.md
says how to start it.
"""

import asyncio
import os
import signal

import events_pb2 as m
import events_pb2_grpc as rpc
import grpc

WANTED = [m.HOOK_AUTH_CONNECT, m.HOOK_AUTH_PUBLISH, m.HOOK_AUTH_SUBSCRIBE]
# Sensors say something about themselves, and hear what is said to them. What no rule matches is refused, and nobody is asked.
SENSOR = m.Grant(
    version="sensor-1",
    rules=[
        m.GrantRule(
            effect=m.EFFECT_ALLOW,
            actions=[m.GRANT_ACTION_PUBLISH],
            topic_filters=["sensors/${clientid}/#"],
        ),
        m.GrantRule(
            effect=m.EFFECT_ALLOW,
            actions=[m.GRANT_ACTION_SUBSCRIBE],
            topic_filters=["commands/${clientid}/#"],
        ),
    ],
    default_effect=m.EFFECT_DENY,
)


async def connect(client, asked):
    if client.username == "mallory":
        return m.AuthConnectResponse(deny=m.Deny(reason_string="mallory may not come in"))
    # Such an id would be more than one level of a topic, or match the topics of others.
    if set("/+#") & set(client.client_id):
        return m.AuthConnectResponse(deny=m.Deny(reason_code=0x85))
    if client.username == "sensor":
        return m.AuthConnectResponse(allow=m.ConnectAllow(grant=SENSOR))
    return m.AuthConnectResponse(allow=m.ConnectAllow())


async def publish(client, asked):
    if asked.topic.startswith("forbidden/"):
        return m.AuthPublishResponse(deny=m.Deny(reason_string="nobody publishes here"))
    if asked.topic.startswith("old/"):
        topic = "new/" + asked.topic.removeprefix("old/")
        return m.AuthPublishResponse(allow=m.PublishAllow(topic=topic))
    return m.AuthPublishResponse(allow=m.PublishAllow())


async def subscribe(client, asked):
    def judge(one):  # Judge what a filter matches: "+" and "#" also match secret topics.
        if one.filter.split("/")[0] in ("secret", "+", "#"):
            return m.FilterVerdict(deny=m.Deny(reason_string="this would show what is secret"))
        return m.FilterVerdict(allow=m.FilterAllow())

    return m.AuthSubscribeResponse(verdicts=[judge(one) for one in asked.filters])


DECIDE = {"connect": connect, "publish": publish, "subscribe": subscribe}


class Hooks(rpc.HooksServicer):
    """Calls: Hello is always one, the others are made while no stream is open."""

    async def Hello(self, request, context):
        return m.HelloResponse(name="python-stream", streams=True, wants=[m.Want(hook=hook) for hook in WANTED])

    async def AuthConnect(self, request, context):
        return await connect(request.client, request)

    async def AuthPublish(self, request, context):
        return await publish(request.client, request)

    async def AuthSubscribe(self, request, context):
        return await subscribe(request.client, request)


class Streams(rpc.HookStreamServicer):
    async def Decide(self, requests, context):
        clients = {}  # of this stream: a client is introduced once, and named by a number from then on
        async for request in requests:
            clients.update((one.client_ref, one.client) for one in request.introduce)
            # All of a batch at once, so that a question that waits for a database does not hold up the next one.
            answers = (answer(asked, clients.get(asked.client_ref)) for asked in request.questions)
            yield m.DecideResponse(answers=await asyncio.gather(*answers))
            for gone in request.forget:
                clients.pop(gone, None)


async def answer(asked, client):
    kind = asked.WhichOneof("question")
    if kind not in DECIDE or client is None:
        return m.StreamAnswer(id=asked.id, error=m.AnswerError(detail="not decided here"))
    try:
        return m.StreamAnswer(id=asked.id, **{kind: await DECIDE[kind](client, getattr(asked, kind))})
    except Exception as error:  # One that cannot be decided is no reason to leave the others without an answer.
        return m.StreamAnswer(id=asked.id, error=m.AnswerError(detail=str(error)))


async def main():
    server = grpc.aio.server()
    rpc.add_HooksServicer_to_server(Hooks(), server)
    rpc.add_HookStreamServicer_to_server(Streams(), server)
    address = os.environ.get("HOOK_ADDRESS", "127.0.0.1:50051")
    host = address.rpartition(":")[0]
    print(f"listening on {host}:{server.add_insecure_port(address)}", flush=True)
    await server.start()
    # Streams have no end of their own: mproxy opens them again elsewhere, or here when this is back.
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()
    await server.stop(grace=1)


asyncio.run(main())
