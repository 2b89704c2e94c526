"""A hook service for mproxy: refuses one user and two topic trees, rewrites a third, gives sensors a grant, and prints what
happens. README.md says how to start it.
"""

import os
import signal
from concurrent import futures

import events_pb2 as m
import events_pb2_grpc as rpc
import grpc

WANTED = [
    m.HOOK_AUTH_CONNECT,
    m.HOOK_AUTH_PUBLISH,
    m.HOOK_AUTH_SUBSCRIBE,
    # Events. Who does not name them is not told.
    m.HOOK_CONNECT,
    m.HOOK_PUBLISH,
    m.HOOK_SUBSCRIBE,
    m.HOOK_DISCONNECT,
]
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


class Hook(rpc.HooksServicer):
    def Hello(self, request, context):
        return m.HelloResponse(name="python", wants=[m.Want(hook=hook) for hook in WANTED])

    def AuthConnect(self, request, context):
        client = request.client
        if client.username == "mallory":
            return m.AuthConnectResponse(deny=m.Deny(reason_string="mallory may not come in"))
        # Such an id would be more than one level of a topic, or match the topics of others.
        if set("/+#") & set(client.client_id):
            return m.AuthConnectResponse(deny=m.Deny(reason_code=0x85))
        if client.username == "sensor":
            return m.AuthConnectResponse(allow=m.ConnectAllow(grant=SENSOR))
        return m.AuthConnectResponse(allow=m.ConnectAllow())

    def AuthPublish(self, request, context):
        if request.topic.startswith("forbidden/"):
            return m.AuthPublishResponse(deny=m.Deny(reason_string="nobody publishes here"))
        if request.topic.startswith("old/"):
            topic = "new/" + request.topic.removeprefix("old/")
            return m.AuthPublishResponse(allow=m.PublishAllow(topic=topic))
        return m.AuthPublishResponse(allow=m.PublishAllow())

    def AuthSubscribe(self, request, context):
        def judge(asked):  # Judge what a filter matches: "+" and "#" also match secret topics.
            if asked.filter.split("/")[0] in ("secret", "+", "#"):
                return m.FilterVerdict(deny=m.Deny(reason_string="this would show what is secret"))
            return m.FilterVerdict(allow=m.FilterAllow())

        return m.AuthSubscribeResponse(verdicts=[judge(asked) for asked in request.filters])

    def Connect(self, event, context):
        return tell(event, "connected")

    def Publish(self, event, context):
        return tell(event, f"published {event.payload_size} bytes to {event.topic}")

    def Subscribe(self, event, context):
        filters = (f"{granted.filter}={granted.reason_code}" for granted in event.filters)
        return tell(event, "subscribed to " + " ".join(filters))

    def Disconnect(self, event, context):
        return tell(event, f"disconnected: {event.detail}")


def tell(event, what):
    print(event.sequence, event.client.client_id, what, flush=True)
    return m.Told()


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    rpc.add_HooksServicer_to_server(Hook(), server)
    address = os.environ.get("HOOK_ADDRESS", "127.0.0.1:50051")
    host = address.rpartition(":")[0]
    print(f"listening on {host}:{server.add_insecure_port(address)}", flush=True)
    server.start()
    # What is asked already is answered; mproxy asks another endpoint, if there is one, or this one when it is back.
    signal.signal(signal.SIGTERM, lambda *_: server.stop(grace=5))
    server.wait_for_termination()


main()
