"""A hook service for mproxy with users and rules in SQLite or PostgreSQL: passwords as argon2 hashes, a grant for each client,
and changes that are in force at once. README.md says how to start it.
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


def grant(account):
    rules = [
        m.GrantRule(
            effect=EFFECTS[effect],
            actions=[ACTIONS[one] for one in actions.split(",") if one],
            topic_filters=[topic_filter],
        )
        for effect, actions, topic_filter in account.rules
    ]
    return m.Grant(version=account.version, rules=rules, default_effect=m.EFFECT_DENY)


def right(password, stored):
    try:
        return store.HASHER.verify(stored or NOBODY, password) and stored is not None
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def decide(request):
    client = request.client
    account = store.account(POLICY, client.username)
    # A renewal has no password: that is known already. Nor has the question to a shadow.
    known = request.refresh or request.shadow
    if not (account.password is not None if known else right(request.password, account.password)):
        return m.AuthConnectResponse(deny=m.Deny(reason_code=0x86))
    # Such an id would be more than one level of a topic, or match the topics of others.
    if set("/+#") & set(client.client_id):
        return m.AuthConnectResponse(deny=m.Deny(reason_code=0x85))
    return m.AuthConnectResponse(allow=m.ConnectAllow(grant=grant(account)))


class Hooks(rpc.HooksServicer):
    # Grants decide everything else, and nobody is asked about a message.
    async def Hello(self, request, context):
        return m.HelloResponse(name="sql", streams=True, wants=[m.Want(hook=m.HOOK_AUTH_CONNECT)])

    async def AuthConnect(self, request, context):
        # In a thread of its own: a password takes a while on purpose, and a database may. If that is away, this fails, and
        # mproxy's failure rule says what it means: without another setting, a refusal.
        return await asyncio.to_thread(decide, request)


class Streams(rpc.HookStreamServicer):
    """Control alone: each mproxy that has opened it is told whose grants to look at again."""

    def __init__(self):
        self.queues, self.last = set(), 0

    def check(self, selector, version):
        self.last += 1
        return m.ControlCommand(id=self.last, selector=selector, check_grants=m.CheckGrantsCommand(version=version))

    async def changed(self, names):
        for name in names:
            if name is None:
                command = self.check(m.Selector(all=m.AllSelector()), "")
            else:
                command = self.check(m.Selector(username=name), await version(name))
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
                current = await version(one.username)
                if one.version != current:
                    queue.put_nowait(self.check(m.Selector(connection_id=one.connection_id), current))
            if report.result.error:
                print(f"command {report.result.id}: {report.result.error}", flush=True)
        queue.put_nowait(None)


async def version(name):
    try:
        return (await asyncio.to_thread(store.account, POLICY, name)).version
    except store.Unavailable:
        return ""  # whatever the client has: it is renewed


async def watch(streams):
    async for names in POLICY.changes():
        await streams.changed(names)


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
    POLICY.close()
    if watching.done():
        watching.result()


asyncio.run(main())
