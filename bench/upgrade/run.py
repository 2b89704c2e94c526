#!/usr/bin/env python3
"""Upgrades in a row under load, counted by sequence numbers.

    python3 bench/upgrade/run.py target/release/mproxy --clients 300 --upgrades 10

Clients of MQTT 3.1.1 with QoS 0, 1 and 2 (a third each) publish numbers through mproxy, one message under way at a time, and
come back with their session if they are disconnected, as device libraries do: over plain TCP none should have to. Others connect and leave without a pause. One
subscriber at the broker itself (mosquitto, which has to be installed) counts what arrives. Needs nothing but Python.
"""

import argparse
import asyncio
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def packet(first, body):
    length, rest = b"", len(body)
    while True:
        rest, low = divmod(rest, 128)
        length += bytes([low | (0x80 if rest else 0)])
        if not rest:
            return bytes([first]) + length + body


def text(value):
    return len(value).to_bytes(2, "big") + value


def connect(client_id, clean):
    flags = 2 if clean else 0
    return packet(0x10, text(b"MQTT") + bytes([4, flags, 0, 0]) + text(client_id))


async def read(reader):
    first = (await reader.readexactly(1))[0]
    length, shift = 0, 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return first, await reader.readexactly(length)


async def open_session(port, client_id, clean=False):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(connect(client_id, clean))
    first, body = await asyncio.wait_for(read(reader), 15)
    if first != 0x20 or body[1] != 0:
        raise ConnectionError(f"CONNACK {body!r}")
    return reader, writer


class Counts:
    def __init__(self):
        self.served = self.refused = self.lost_sockets = self.kept_sockets = 0
        self.longest_pause = 0.0
        self.published = {}
        self.arrived = {}


async def publishes(port, number, counts, done, interval):
    """One client: numbers in order, each until it is acknowledged to the end."""
    qos, client_id = number % 3, b"load%d" % number
    topic = b"load/%d" % number
    reader = writer = None
    came_back = False
    sequence, stage, last = 0, "publish", time.monotonic()
    while not (done.is_set() and stage == "publish"):
        try:
            if writer is None:
                reader, writer = await open_session(port, client_id)
            first = 0x30 | qos << 1
            if stage == "publish":
                sequence += 1
                counts.published[number] = sequence
            if stage != "release":
                again = 8 if stage == "unacknowledged" and qos else 0
                ident = b"\0\1" if qos else b""
                writer.write(packet(first | again, text(topic) + ident + b"%d" % sequence))
                stage = "unacknowledged" if qos else "publish"
                await writer.drain()
            if qos == 2 and stage != "release":
                kind, _ = await asyncio.wait_for(read(reader), 15)
                assert kind == 0x50, hex(kind)
                stage = "release"
            if qos == 2:
                writer.write(packet(0x62, b"\0\1"))
            if qos:
                kind, _ = await asyncio.wait_for(read(reader), 15)
                assert kind == (0x40 if qos == 1 else 0x70), hex(kind)
            else:
                # Nothing acknowledges QoS 0: a PINGREQ behind it tells that mproxy has read it.
                writer.write(b"\xc0\0")
                kind, _ = await asyncio.wait_for(read(reader), 15)
                assert kind == 0xD0, hex(kind)
            stage = "publish"
            now = time.monotonic()
            counts.longest_pause = max(counts.longest_pause, now - last - interval)
            await asyncio.sleep(interval)
            last = now
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            if writer is not None:
                counts.lost_sockets += 1
                came_back = True
                writer.close()
            writer = None
    counts.kept_sockets += not came_back
    writer.close()


async def knocks(port, name, counts, done):
    """Connects, is served, leaves."""
    while not done.is_set():
        try:
            _, writer = await open_session(port, name, clean=True)
            counts.served += 1
            writer.write(b"\xe0\0")
            writer.close()
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            counts.refused += 1
            print("refused:", repr(error), file=sys.stderr)


async def listens(port, counts, ready):
    reader, writer = await open_session(port, b"listener", clean=True)
    writer.write(packet(0x82, b"\0\1" + text(b"load/#") + b"\2"))
    while True:
        first, body = await read(reader)
        if first == 0x90:
            ready.set()
        elif first >> 4 == 3:
            end = 2 + int.from_bytes(body[:2], "big")
            number = int(body[2:end].split(b"/")[1])
            qos = first >> 1 & 3
            payload = body[end + (2 if qos else 0):]
            if qos:
                writer.write(packet(0x40 if qos == 1 else 0x50, body[end:end + 2]))
            counts.arrived.setdefault(number, []).append(int(payload))
        elif first >> 4 == 6:
            writer.write(packet(0x70, body))


def ask(admin, path, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{admin}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=110) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def sessions_handed_over(admin):
    """By outcome, as the new process counts them."""
    name = "mproxy_upgrade_sessions_total{outcome=\""
    lines = [line for line in ask(admin, "/metrics")[1].splitlines() if line.startswith(name)]
    counts = {line[len(name):].split('"')[0]: int(float(line.rsplit(" ", 1)[1])) for line in lines}
    return {outcome: count for outcome, count in counts.items() if count}


def verdict(counts):
    """Lost and doubled, by QoS."""
    lost, doubled = [0, 0, 0], [0, 0, 0]
    for number, last in counts.published.items():
        seen = counts.arrived.get(number, [])
        lost[number % 3] += len(set(range(1, last + 1)) - set(seen))
        doubled[number % 3] += len(seen) - len(set(seen))
    return lost, doubled


async def measure(arguments, folder):
    program = folder / "mproxy"
    program.symlink_to(pathlib.Path(arguments.mproxy).resolve())
    mqtt, admin, broker_port = free_port(), free_port(), free_port()
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {broker_port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
    broker = subprocess.Popen(["mosquitto", "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    variables = {
        "MPROXY_MQTT_HOST": "127.0.0.1", "MPROXY_MQTT_PORT": str(mqtt), "MPROXY_WS_PORT": "off", "MPROXY_LOG_LEVEL": "info",
        "MPROXY_ADMIN_PORT": str(admin), "MPROXY_MQTT_TARGET_HOST": "127.0.0.1", "MPROXY_MQTT_TARGET_PORT": str(broker_port),
    }
    variables.update(pair.split("=", 1) for pair in arguments.set)
    with open(folder / "mproxy.log", "wb") as log:
        first = subprocess.Popen([program], env={**os.environ, **variables}, stdout=log, stderr=log)
    counts, done, ready, pids, times = Counts(), asyncio.Event(), asyncio.Event(), [first.pid], []
    handed_over = []
    try:
        for _ in range(100):
            await asyncio.sleep(0.1)
            try:
                if (await asyncio.to_thread(ask, admin, "/readyz"))[0] == 200:
                    break
            except OSError:
                pass
        listener = asyncio.create_task(listens(broker_port, counts, ready))
        await ready.wait()
        load = [
            asyncio.create_task(publishes(mqtt, number, counts, done, arguments.interval))
            for number in range(arguments.clients)
        ]
        load += [asyncio.create_task(knocks(mqtt, b"knock%d" % number, counts, done)) for number in range(4)]
        await asyncio.sleep(2)
        for _ in range(arguments.upgrades):
            begun = time.monotonic()
            status, answer = await asyncio.to_thread(ask, admin, "/api/v1/upgrade", "POST")
            times.append(time.monotonic() - begun)
            if status != 200:
                raise SystemExit(f"not upgraded: {answer}")
            pids.append(json.loads(answer)["pid"])
            await asyncio.sleep(1)
            handed_over.append(await asyncio.to_thread(sessions_handed_over, admin))
            await asyncio.sleep(arguments.apart)
        done.set()
        await asyncio.wait_for(asyncio.gather(*load), 60)
        await asyncio.sleep(2)
        listener.cancel()
    finally:
        try:
            ask(admin, "/api/v1/drain", "POST")
        except OSError:
            first.kill()
        broker.terminate()
    lost, doubled = verdict(counts)
    return {
        "clients": arguments.clients, "upgrades": len(times), "published": sum(counts.published.values()),
        "lost_by_qos": lost, "doubled_by_qos": doubled, "connections_served": counts.served,
        "connections_refused": counts.refused, "clients_that_kept_their_socket": counts.kept_sockets,
        "times_that_clients_had_to_come_back": counts.lost_sockets, "sessions_handed_over": handed_over,
        "longest_pause_seconds": round(counts.longest_pause, 3),
        "upgrade_seconds": [round(one, 3) for one in times],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mproxy", help="the program")
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--upgrades", type=int, default=10)
    parser.add_argument("--interval", type=float, default=0.2, help="seconds between two messages of a client")
    parser.add_argument("--apart", type=float, default=3.0, help="seconds between two upgrades")
    parser.add_argument("--set", action="append", default=[], metavar="VARIABLE=VALUE", help="a variable for mproxy")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(arguments, pathlib.Path(folder)))
    print(json.dumps(result, indent=1))
    # Nobody had to come back: nothing is lost or doubled, whatever its QoS.
    sys.exit(bool(sum(result["lost_by_qos"]) or sum(result["doubled_by_qos"]) or result["connections_refused"]
                  or result["times_that_clients_had_to_come_back"]))


if __name__ == "__main__":
    main()
