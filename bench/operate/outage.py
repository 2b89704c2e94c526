"""The broker is away for two seconds: clients of other people come back by themselves, and how long that takes."""

import os
import pathlib
import signal
import socket
import struct
import subprocess
import threading
import time

import stage
from fleet import fixed_port, serves

HERE = pathlib.Path(__file__).resolve().parent
CLIENTS = stage.ROOT / "crates/mproxy-server/tests/clients"
AWAY = 2
# A bridge of mosquitto waits up to half a minute between two tries.
PATIENCE = 60


def strangers(folder, port):
    """The commands of all clients by name, with an environment. The bridge is a broker with a subscriber of its own."""
    made = HERE / "clients/made"
    if not made.exists():
        stage.fail("first: bench/operate/clients/build")
    at = ["127.0.0.1", port]
    for version, name in (("4", "3.1.1"), ("5", "5.0")):
        yield f"MQTT.js, {name}", ["node", CLIENTS / "mqttjs_stays.js", *at, version], {"NODE_PATH": str(made / "node_modules")}
        yield f"paho for Python, {name}", ["python3", CLIENTS / "paho_stays.py", *at, version], {"PYTHONPATH": str(made / "python")}
        listen = ["-h", *at[:1], "-p", port, "-V", f"mqttv{name.replace('.', '')}".replace("50", "5")]
        yield f"mosquitto_sub, {name}", ["mosquitto_sub", *listen, "-i", f"sub-{version}", *NEWS], {}
        yield f"rumqttc, {name}", [made / "target/debug/rumqttc-stays", *at, version], {}
        inner = bridge(folder, port, version)
        yield f"bridge of mosquitto, {name}", ["mosquitto_sub", "-h", "127.0.0.1", "-p", inner, "-i", "in", *NEWS], {}
    yield "paho for Go, 3.1.1", [made / "pahogo", *at, "4"], {}


NEWS = ["-t", "news", "-q", "1", "-F", "heard %p"]


def bridge(folder, port, version):
    inner = fixed_port()
    config = folder / f"bridge-{version}.conf"
    lines = [f"listener {inner} 127.0.0.1", "allow_anonymous true", "log_type error", "connection bridge"]
    lines += [f"address 127.0.0.1:{port}", "topic news in 1", f"remote_clientid bridge-{version}"]
    lines += [f"bridge_protocol_version {'mqttv50' if version == '5' else 'mqttv311'}", "restart_timeout 1 5", ""]
    config.write_text("\n".join(lines))
    stage.Process("a bridge", [stage.need("mosquitto", "mosquitto"), "-c", config], folder / f"bridge-{version}.log", inner)
    return inner


class Stranger:
    """A client that runs, and when it heard what."""

    def __init__(self, name, command, environment):
        self.name, self.heard = name, {}
        self.popen = subprocess.Popen(
            [str(word) for word in command],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=stage.die_with_parent,
        )
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.popen.stdout:
            words = line.split()
            if len(words) == 2 and words[0] == "heard":
                self.heard[int(words[1])] = time.monotonic()

    def hears_since(self, moment):
        return next((at for at in sorted(self.heard.values()) if at >= moment), None)


class News:
    """Publishes numbers with QoS 0 at the broker itself, each 20 ms, whenever there is one."""

    def __init__(self, port):
        self.port, self.number, self.running = port, 0, True
        self.thread = threading.Thread(target=self.tell, daemon=True)
        self.thread.start()

    def tell(self):
        link = None
        while self.running:
            try:
                if not link:
                    link = socket.create_connection(("127.0.0.1", self.port), 1)
                    link.sendall(b"\x10\x10\0\4MQTT\4\2\0\0\0\4news")
                    link.recv(4)
                text = str(self.number).encode()
                link.sendall(bytes([0x30, 6 + len(text)]) + struct.pack(">H", 4) + b"news" + text)
                self.number += 1
            except OSError:
                link = None
            time.sleep(0.02)


def once(options, folder, through):
    """Seconds from the moment at which the broker serves again until each client hears it."""
    config, port = folder / "mosquitto.conf", fixed_port()
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_type error\n")
    start = lambda: stage.Process("mosquitto", [stage.need("mosquitto", "mosquitto"), "-c", config], folder / "broker.log", port)
    broker = start()
    door = stage.mproxy(options.mproxy, folder / "mproxy.log", folder, port).port if through else port
    all_clients = [Stranger(*one) for one in strangers(folder, door)]
    news = News(port)
    wait_until(lambda: all(one.heard for one in all_clients), 30, "all clients hear the news")
    time.sleep(1)
    broker.popen.send_signal(signal.SIGTERM)
    broker.popen.wait(10)
    broker.stop()
    gone = time.monotonic()
    time.sleep(AWAY)
    if serves(port):
        stage.fail("the broker is still there")
    broker = start()
    again = time.monotonic()
    try:
        wait_until(lambda: all(one.hears_since(again) for one in all_clients), PATIENCE, "")
    except TimeoutError:
        pass
    news.running = False
    back = {one.name: one.hears_since(again) and one.hears_since(again) - again for one in all_clients}
    dead = [one.name for one in all_clients if one.popen.poll() is not None]
    for one in all_clients:
        one.popen.kill()
        one.popen.wait()
    stage.stop_all()
    return back, dead, again - gone


def wait_until(true, within, what):
    end = time.monotonic() + within
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.02)


def outage(options, out):
    figures, wrong = {"the broker itself": [], "mproxy": []}, []
    for number in range(options.rounds):
        for who, rounds in figures.items():
            folder = out / f"{number}-{who.split()[-1]}"
            folder.mkdir(mode=0o755)
            back, dead, _ = once(options, folder, who == "mproxy")
            rounds.append(back)
            wrong += [f"{who}: {name} has ended" for name in dead]
            wrong += [f"{who}: {name} has not come back" for name, seconds in back.items() if seconds is None]
    rows = []
    for name in figures["mproxy"][0]:
        row = [name]
        for rounds in figures.values():
            seconds = [one[name] for one in rounds if one[name] is not None]
            row.append(stage.spread(seconds, 2) if len(seconds) == len(rounds) else "–")
        rows.append(row)
    return stage.table(["s until it hears the broker again", *(f"before {who}" for who in figures)], rows), wrong
