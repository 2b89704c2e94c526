"""A hook service for mproxy that knows devices by their certificates: a registry says what each may do, and who is taken off
it is disconnected at once. README.md says how to start it.
"""

import asyncio
import os
import pathlib
import signal

import events_pb2 as m
import events_pb2_grpc as rpc
import grpc

import registry

DEVICES = registry.Registry(pathlib.Path(os.environ.get("REGISTRY", pathlib.Path(__file__).with_name("registry.toml"))))


class Hooks(rpc.HooksServicer):
    # Grants decide everything else, and nobody is asked about a message.
    async def Hello(self, request, context):
        return m.HelloResponse(name="devices", streams=True, wants=[m.Want(hook=m.HOOK_AUTH_CONNECT)])

    async def AuthConnect(self, request, context):
        # Without TLS, or without a certificate, there is no identity. mproxy has verified the certificate that it reports.
        device = DEVICES.of(request.client.tls)
        if device is None:
            return m.AuthConnectResponse(deny=m.Deny(reason_string="no certificate of a device in the registry"))
        # The broker knows the device by its own name, whatever it calls itself: nobody takes over another one's session.
        allow = m.ConnectAllow(
            client_id=device.name, username=device.name, attributes=device.attributes, grant=device.grant
        )
        return m.AuthConnectResponse(allow=allow)


def command(selector, device):
    """What becomes of a client, now that this is its device; None: it is no device any more."""
    if device is None:
        deny = m.DisconnectCommand(reason_code=0x87, reason_string="taken off the registry", detail="registry")
        return m.ControlCommand(selector=selector, disconnect=deny)
    return m.ControlCommand(selector=selector, check_grants=m.CheckGrantsCommand(version=device.grant.version))


class Streams(rpc.HookStreamServicer):
    """Control alone: each mproxy that has opened it is told whom to disconnect, and whose grant to renew."""

    def __init__(self):
        self.queues, self.last = set(), 0

    def send(self, queue, told):
        self.last += 1
        told.id = self.last
        queue.put_nowait(told)

    async def watch(self):
        async for names in DEVICES.changes():
            for name in names:
                selector = m.Selector(attribute=m.AttributeSelector(name="device", value=name))
                for queue in self.queues:
                    self.send(queue, command(selector, DEVICES.named(name)))

    async def Control(self, reports, context):
        queue = asyncio.Queue()
        self.queues.add(queue)
        reading = asyncio.create_task(self.read(reports, queue))
        try:
            while told := await queue.get():
                yield told
        finally:
            self.queues.discard(queue)
            reading.cancel()

    async def read(self, reports, queue):
        async for report in reports:
            # What has changed while this service, or the stream, was away.
            for one in report.grants.grants:
                device = DEVICES.named(one.client_id)
                if device is None or device.grant.version != one.version:
                    self.send(queue, command(m.Selector(connection_id=one.connection_id), device))
            if report.result.error:
                print(f"command {report.result.id}: {report.result.error}", flush=True)
        queue.put_nowait(None)


async def main():
    server, streams = grpc.aio.server(), Streams()
    rpc.add_HooksServicer_to_server(Hooks(), server)
    rpc.add_HookStreamServicer_to_server(streams, server)
    address = os.environ.get("HOOK_ADDRESS", "127.0.0.1:50051")
    host = address.rpartition(":")[0]
    print(f"listening on {host}:{server.add_insecure_port(address)}", flush=True)
    await server.start()
    watching = asyncio.create_task(streams.watch())
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
