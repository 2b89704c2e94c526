#!/usr/bin/env python3
"""A fleet of devices to watch mproxy with: lamps, meters, a desk that hears them, some that try what they may not, and an
intruder. Needs nothing but Python. README.md says how to start it.
"""

import argparse
import asyncio
import collections
import random
import signal
import sys
import time

# What each kind of device does, by whose rules it lives: user, password, filters to subscribe to, what it publishes (topic,
# QoS, seconds between, bytes), and how many of a hundred are of this kind.
FLEETS = {
    # The rules of `mproxy demo`.
    "demo": {
        "lamp": ("alice", "wonderland", ["clients/ID/commands"], [("clients/ID/state", 1, 3, 20)], 50),
        "meter": ("alice", "wonderland", [], [("demo/meters/ID", 0, 1, 60)], 40),
        "camera": ("alice", "wonderland", [], [("demo/cameras/ID", 1, 10, 30_000)], 5),
        "curious": ("alice", "wonderland", ["#"], [("secret/ID", 1, 4, 10), ("demo/curious/ID", 0, 4, 10)], 5),
    },
    # What the hook services of ../ decide.
    "hook": {
        "sensor": ("sensor", None, ["commands/ID/#"], [("sensors/ID/heat", 1, 3, 20)], 50),
        "meter": ("ann", None, [], [("demo/meters/ID", 0, 1, 60)], 35),
        "old": ("ann", None, [], [("old/ID/state", 1, 5, 40)], 10),
        "curious": ("ann", None, ["#"], [("forbidden/ID", 1, 4, 10), ("sensors/ID/forged", 0, 4, 10)], 5),
    },
}
DESK = {"demo": ("alice", "wonderland", ["demo/#"]), "hook": ("ann", None, ["demo/#", "new/#", "sensors/#"])}
INTRUDER = {"demo": ("alice", "guess"), "hook": ("mallory", None)}
KEEP_ALIVE = 30
counts = collections.Counter()


def text(value):
    encoded = value.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def packet(first, body):
    size, length = len(body), b""
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | (128 if size else 0)])
        if not size:
            return bytes([first]) + length + body


async def read_packet(reader):
    first = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return first, await reader.readexactly(length)


class Device:
    def __init__(self, options, name, user, password, filters, publishes):
        self.host, self.port, self.rate = options.host, options.port, options.rate
        # Not all at once: each password costs mproxy ten milliseconds of a core.
        self.begins = random.uniform(0, options.devices / 10)
        self.name, self.user, self.password = name, user, password
        self.filters = [one.replace("ID", name) for one in filters]
        self.publishes = [(one[0].replace("ID", name), *one[1:]) for one in publishes]
        # Some are old.
        self.five = random.random() < 0.6
        self.packet_id = 0

    async def run(self):
        """Connects again and again: for a while, as devices do."""
        await asyncio.sleep(self.begins)
        pause = 1
        while True:
            try:
                await self.live(random.uniform(30, 300))
                pause = 1
            except (OSError, EOFError, asyncio.TimeoutError):
                counts["connections lost"] += 1
                pause = min(pause * 2, 60)
            await asyncio.sleep(random.uniform(pause, 5 * pause))

    async def live(self, seconds):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(self.connect())
            _, connack = await asyncio.wait_for(read_packet(reader), 15)
            if connack[1] != 0:
                counts["connects refused"] += 1
                return
            counts["connected"] += 1
            try:
                if self.filters:
                    writer.write(self.subscribe())
                tasks = [self.hear(reader), self.ping(writer), *(self.publish(writer, *one) for one in self.publishes)]
                await self.together(tasks, seconds)
                writer.write(packet(0xE0, b""))
            finally:
                counts["connected"] -= 1
        finally:
            writer.close()

    @staticmethod
    async def together(tasks, seconds):
        running = [asyncio.ensure_future(one) for one in tasks]
        try:
            done, _ = await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def connect(self):
        flags = 0x02 | 0x80 | (0x40 if self.password else 0)
        body = text("MQTT") + bytes([5 if self.five else 4, flags]) + KEEP_ALIVE.to_bytes(2, "big")
        body += (b"\0" if self.five else b"") + text(self.name) + text(self.user)
        return packet(0x10, body + (text(self.password) if self.password else b""))

    def next_id(self):
        self.packet_id = self.packet_id % 65535 + 1
        return self.packet_id.to_bytes(2, "big")

    def subscribe(self):
        body = self.next_id() + (b"\0" if self.five else b"")
        return packet(0x82, body + b"".join(text(one) + b"\0" for one in self.filters))

    async def publish(self, writer, topic, qos, seconds, size):
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * seconds / self.rate)
            body = text(topic) + (self.next_id() if qos else b"") + (b"\0" if self.five else b"")
            writer.write(packet(0x30 | qos << 1, body + random.randbytes(size)))
            await writer.drain()
            counts["sent"] += 1

    async def ping(self, writer):
        while True:
            await asyncio.sleep(KEEP_ALIVE * 0.7)
            writer.write(packet(0xC0, b""))

    async def hear(self, reader):
        while True:
            first, body = await read_packet(reader)
            kind = first >> 4
            if kind == 3:
                counts["received"] += 1
            elif kind == 4 and len(body) > 2 and body[2] >= 128:
                counts["publishes refused"] += 1
            elif kind == 9:
                counts["subscriptions refused"] += sum(code >= 128 for code in body[3 if self.five else 2 :])
            elif kind == 14:
                counts["told to leave"] += 1


def devices(options):
    fleet = FLEETS[options.of]
    kinds = random.choices(list(fleet), [one[-1] for one in fleet.values()], k=options.devices)
    for number, kind in enumerate(kinds):
        yield Device(options, f"{kind}-{number}", *fleet[kind][:-1])
    user, password, filters = DESK[options.of]
    yield Device(options, "desk", user, password, filters, [])
    yield Device(options, "intruder", *INTRUDER[options.of], [], [])


async def tell(began):
    """A line each second, over the one before on a terminal."""
    end = "\r" if sys.stdout.isatty() else "\n"
    names = ("connected", "connects refused", "sent", "publishes refused", "subscriptions refused", "received")
    while True:
        await asyncio.sleep(1)
        told = ", ".join(f"{counts[name]} {name}" for name in (*names, "connections lost"))
        print(f"{time.monotonic() - began:.0f} s: {told}  ", end=end, flush=True)


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--rate", type=float, default=1, help="how many times as many messages (default: 1)")
    parser.add_argument("--of", choices=FLEETS, default="demo", help="whose rules they live by (default: demo)")
    parser.add_argument("--seconds", type=float, default=600, help="how long (default: 600)")
    options = parser.parse_args()
    running = [asyncio.ensure_future(one.run()) for one in devices(options)]
    running.append(asyncio.ensure_future(tell(time.monotonic())))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await asyncio.wait_for(stop.wait(), options.seconds)
    except asyncio.TimeoutError:
        pass
    reached = counts["connected"]
    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    print()
    return 0 if reached else f"nobody could connect to {options.host}:{options.port}"


sys.exit(asyncio.run(main()))
