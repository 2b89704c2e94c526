"""A hook service for mproxy with users and rules in SQLite: passwords as argon2 hashes, a grant for each client, and changes
that are in force at once. README.md says how to start it.
"""

import asyncio
import os
import signal

import argon2
import events_pb2 as m
import events_pb2_grpc as rpc
import grpc

import store

POLICY = store.open_store()
# Who has no account waits as long as who has one.
NOBODY = store.HASHER.hash("nobody")
EFFECTS = {"allow": m.EFFECT_ALLOW, "deny": m.EFFECT_DENY}
ACTIONS = {
    "publish": m.GRANT_ACTION_PUBLISH,
    "subscribe": m.GRANT_ACTION_SUBSCRIBE,
    "receive": m.GRANT_ACTION_RECEIVE,
    "will": m.GRANT_ACTION_WILL,
}


def grant(name):
    rules = [
        m.GrantRule(
            effect=EFFECTS[effect],
            actions=[ACTIONS[one] for one in actions.split(",") if one],
            topic_filters=[topic_filter],
        )
        for effect, actions, topic_filter in store.rules(POLICY, name)
    ]
    return m.Grant(version=store.version(POLICY, name), rules=rules, default_effect=m.EFFECT_DENY)


def right(password, stored):
    try:
        return store.HASHER.verify(stored or NOBODY, password) and stored is not None
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


class Hooks(rpc.HooksServicer):
    # Grants decide everything else, and nobody is asked about a message.
    async def Hello(self, request, context):
        return m.HelloResponse(name="sql", streams=True, wants=[m.Want(hook=m.HOOK_AUTH_CONNECT)])

    async def AuthConnect(self, request, context):
        client = request.client
        stored = store.user(POLICY, client.username)
        # In a thread of its own, since it takes a while on purpose. A renewal has no password: that is known already. Nor has
        # the question to a shadow.
        known = request.refresh or request.shadow
        admitted = stored is not None if known else await asyncio.to_thread(right, request.password, stored)
        if not admitted:
            return m.AuthConnectResponse(deny=m.Deny(reason_code=0x86))
        # Such an id would be more than one level of a topic, or match the topics of others.
        if set("/+#") & set(client.client_id):
            return m.AuthConnectResponse(deny=m.Deny(reason_code=0x85))
        return m.AuthConnectResponse(allow=m.ConnectAllow(grant=grant(client.username)))


class Streams(rpc.HookStreamServicer):
    """Control alone: each mproxy that has opened it is told whose grants to look at again."""

    def __init__(self):
        self.queues, self.last = set(), 0

    def check(self, selector, version):
        self.last += 1
        return m.ControlCommand(id=self.last, selector=selector, check_grants=m.CheckGrantsCommand(version=version))

    def changed(self, names):
        for name in names:
            if name is None:
                command = self.check(m.Selector(all=m.AllSelector()), "")
            else:
                command = self.check(m.Selector(username=name), store.version(POLICY, name))
            for queue in self.queues:
                queue.put_nowait(command)

    async def Control(self, reports, context):
        queue = asyncio.Queue()
        self.queues.add(queue)
        reading = asyncio.create_task(self.read(reports, queue))
        try:
            while command := await queue.get():
                yield command
        finally:
            self.queues.discard(queue)
            reading.cancel()

    async def read(self, reports, queue):
        async for report in reports:
            # What has changed while this service, or the stream, was away.
            for one in report.grants.grants:
                version = store.version(POLICY, one.username)
                if one.version != version:
                    queue.put_nowait(self.check(m.Selector(connection_id=one.connection_id), version))
            if report.result.error:
                print(f"command {report.result.id}: {report.result.error}", flush=True)
        queue.put_nowait(None)


async def watch(streams):
    """SQLite tells nobody of a change, but to ask for one costs microseconds."""
    _, number = store.changed_since(POLICY, 0)
    while True:
        await asyncio.sleep(0.2)
        names, number = store.changed_since(POLICY, number)
        streams.changed(names)


async def main():
    server, streams = grpc.aio.server(), Streams()
    rpc.add_HooksServicer_to_server(Hooks(), server)
    rpc.add_HookStreamServicer_to_server(streams, server)
    address = os.environ.get("HOOK_ADDRESS", "127.0.0.1:50051")
    host = address.rpartition(":")[0]
    print(f"listening on {host}:{server.add_insecure_port(address)}", flush=True)
    await server.start()
    watching = asyncio.create_task(watch(streams))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    stopped = asyncio.create_task(stopping.wait())
    # Without watching, changes would not be in force: then it ends, and whoever started it sees why.
    await asyncio.wait([watching, stopped], return_when=asyncio.FIRST_COMPLETED)
    await server.stop(grace=1)
    if watching.done():
        watching.result()


asyncio.run(main())
