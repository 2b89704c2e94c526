"""New processes take the place of the old one, ten times in a row, under all clients: over plain TCP nobody may notice. Then
new processes that are no good."""

import hashlib
import json
import os
import pathlib
import random
import shlex
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import stage
from fleet import LEDGER_HEAD, Fleet, ledger, serves
from storm import hook_service

HERE = pathlib.Path(__file__).resolve().parent
UPGRADES = 10
LOAD = {"publishers": 2000, "window": 3, "qos": "012", "rate": 1000, "hold": "20ms", "down": 500, "visitors": 4}
LARGE = 16 << 20
RULES = 'anonymous = true\n[[rules]]\neffect = "allow"\nactions = ["publish", "subscribe", "will"]\ntopics = ["up/#", "down/${clientid}", "large/#"]\n'
# No pause of a client may be longer.
PAUSE_MS = 1000


class Proxy:
    """mproxy by a link, so that the next one may be another program. Its process changes; its ports stay."""

    def __init__(self, options, out, broker, **settings):
        self.real, self.link = options.mproxy.resolve(), out / "mproxy"
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(self.real)
        first = stage.mproxy([self.link], out / "mproxy.log", out, broker.port, **settings)
        self.port, self.admin, self.pids = first.port, first.admin, [first.popen.pid]

    def upgrade(self):
        """Seconds, and the pid of the new process, or why there is none."""
        begun = time.monotonic()
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}/api/v1/upgrade", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=110) as answer:
                said = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return time.monotonic() - begun, json.loads(error.read()).get("detail", "?")
        self.pids.append(said["pid"])
        return time.monotonic() - begun, said["pid"]

    def taken_over(self):
        """By outcome, as the process that serves counts the sessions that it was given."""
        name = 'mproxy_upgrade_sessions_total{outcome="'
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as page:
            lines = [line for line in page.read().decode().splitlines() if line.startswith(name)]
        counts = {line[len(name) :].split('"')[0]: int(float(line.rsplit(" ", 1)[1])) for line in lines}
        return {outcome: count for outcome, count in counts.items() if count}

    def replace(self, script):
        new = self.link.with_suffix(".new")
        new.write_text(f"#!/bin/sh\n{script}\n")
        new.chmod(0o755)
        new.replace(self.link)

    def restore(self):
        self.link.unlink()
        self.link.symlink_to(self.real)

    def stop(self):
        for pid in self.pids:
            subprocess.run(["sh", "-c", f"kill -TERM {pid} 2>/dev/null"], check=False)
        end = time.monotonic() + 15
        while any(pathlib.Path(f"/proc/{pid}/fd").exists() and alive(pid) for pid in self.pids) and time.monotonic() < end:
            time.sleep(0.1)
        for pid in filter(alive, self.pids):
            subprocess.run(["sh", "-c", f"kill -KILL {pid} 2>/dev/null"], check=False)


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


class LargePublish:
    """16 MiB with QoS 1, whose first half is sent before an upgrade and whose second half after it. Somebody at the broker
    takes it and compares."""

    def __init__(self, proxy, broker, number):
        self.payload = random.Random(number).randbytes(LARGE)
        self.listener = entered(broker.port, f"large-listener-{number}")
        topic = f"large/{number}".encode()
        self.listener.sendall(packet(0x82, b"\0\1" + text(topic) + b"\1"))
        read_packet(self.listener)
        self.came = None
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()
        self.link = entered(proxy.port, f"large-{number}")
        self.bytes = packet(0x32, text(topic) + b"\0\1" + self.payload)
        self.link.sendall(self.bytes[: LARGE // 2])

    def listen(self):
        _, body = read_packet(self.listener)
        self.came = hashlib.sha256(body[-LARGE:]).digest()

    def finish(self):
        self.link.sendall(self.bytes[LARGE // 2 :])
        first, _ = read_packet(self.link)
        self.thread.join(30)
        self.link.close()
        self.listener.close()
        return first == 0x40 and self.came == hashlib.sha256(self.payload).digest()


def text(value):
    return len(value).to_bytes(2, "big") + value


def packet(first, body):
    size, head = len(body), bytes([first])
    while True:
        size, low = divmod(size, 128)
        head += bytes([low | (0x80 if size else 0)])
        if not size:
            return head + body


def exactly(link, size):
    taken = bytearray()
    while len(taken) < size:
        more = link.recv(size - len(taken))
        if not more:
            raise ConnectionError("the connection has ended")
        taken += more
    return bytes(taken)


def read_packet(link):
    first, size, shift = exactly(link, 1)[0], 0, 0
    while True:
        byte = exactly(link, 1)[0]
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return first, exactly(link, size)


def entered(port, client_id):
    link = socket.create_connection(("127.0.0.1", port), 15)
    link.settimeout(30)
    link.sendall(packet(0x10, text(b"MQTT") + b"\4\2\0\0" + text(client_id.encode())))
    assert read_packet(link) == (0x20, b"\0\0")
    return link


def look(fleet):
    one = fleet.ask("look")
    return [f"{one[way]['p50']:.1f}, {one[way]['p99']:.0f}, {one[way]['max']:.0f}" for way in ("up_ms", "down_ms")], max(
        one[way]["max"] for way in ("up_ms", "down_ms")
    )


HEAD = ["", "s until it served", "sessions", "ms of messages from clients: p50, p99, most", "to clients", "16 MiB half way"]


def in_a_row(options, out, broker, proxy, fleet):
    rows, wrong = [], []
    time.sleep(2)
    fleet.ask("look")
    time.sleep(3)
    times, _ = look(fleet)
    rows.append(["nothing happens", "", "", *times, ""])
    for number in range(1, UPGRADES + 1):
        large = LargePublish(proxy, broker, number)
        fleet.ask("look")
        seconds, pid = proxy.upgrade()
        if not isinstance(pid, int):
            return rows, [f"upgrade {number}: {pid}"]
        time.sleep(2)
        whole = large.finish()
        times, most = look(fleet)
        outcomes = proxy.taken_over()
        said = ", ".join(f"{outcome} {count:,}" for outcome, count in outcomes.items())
        rows.append([number, f"{seconds:.2f}", said, *times, "whole" if whole else "BROKEN"])
        if not whole:
            wrong.append(f"upgrade {number}: the 16 MiB did not arrive")
        if most > PAUSE_MS:
            wrong.append(f"upgrade {number}: a message took {most:.0f} ms")
        # Visitors that were about to come, or to go, stay for that.
        if set(outcomes) - {"handed_over", "not_open", "ending"}:
            wrong.append(f"upgrade {number}: {said}")
        wait_for_one(proxy)
    return rows, wrong


def wait_for_one(proxy):
    """Until the old process has ended."""
    end = time.monotonic() + 30
    while sum(map(alive, proxy.pids)) > 1:
        if time.monotonic() > end:
            stage.fail(f"the old process has not ended: {proxy.pids}")
        time.sleep(0.1)


def no_good(proxy, fleet):
    """New processes that do not come up."""
    rows, wrong = [], []
    real = shlex.quote(str(proxy.real))
    for name, script in (
        ("fails at its start", "exit 3"),
        ("has a wrong configuration", f'MPROXY_MQTT_PORT=none exec {real} "$@"'),
    ):
        proxy.replace(script)
        fleet.ask("look")
        seconds, pid = proxy.upgrade()
        time.sleep(1)
        proxy.restore()
        times, most = look(fleet)
        rows.append([f"the new process {name}", f"{seconds:.2f}", "IT SERVES" if isinstance(pid, int) else pid, *times, ""])
        if isinstance(pid, int):
            wrong.append(f"{name}: it serves")
        if most > PAUSE_MS:
            wrong.append(f"{name}: a message took {most:.0f} ms")
    return rows, wrong


def killed_half_way(proxy, fleet, clients):
    """New processes that are killed when they have taken a part of the sessions: those end, and the old process serves on."""
    rows, wrong, watched = [], [], proxy.link.with_suffix(".watched")
    for part in (0.2, 0.5, 0.8):
        # The shell's process becomes the program's. Each session is two descriptors.
        most = int(2 * clients * part)
        watch = f"while [ -e {shlex.quote(str(watched))} ]; do [ $(ls /proc/$$/fd | wc -l) -lt {most} ] || exec kill -KILL $$; done"
        proxy.replace(f'({watch}) >/dev/null 2>&1 &\nexec {shlex.quote(str(proxy.real))} "$@"')
        watched.touch()
        fleet.ask("look")
        seconds, pid = proxy.upgrade()
        watched.unlink()
        fleet.wait_for(clients, 60)
        time.sleep(2)
        proxy.restore()
        times, _ = look(fleet)
        said = "IT SERVES" if isinstance(pid, int) else pid
        rows.append([f"the new process is killed with {100 * part:.0f} % of the sessions", f"{seconds:.2f}", said, *times, ""])
        if isinstance(pid, int):
            wrong.append("it was not killed half way")
            break
    return rows, wrong


def another_form(proxy, fleet, clients):
    """A new version that reads another form of sessions: they stay with the old process, which drains them."""
    proxy.replace(f"exec python3 {shlex.quote(str(HERE / 'other_form.py'))} {shlex.quote(str(proxy.real))} \"$@\"")
    fleet.ask("mark")
    seconds, pid = proxy.upgrade()
    wrong = [] if isinstance(pid, int) else [f"another form: {pid}"]
    wait_for_one(proxy)
    fleet.wait_for(clients, 60)
    time.sleep(1)
    outcomes = ", ".join(f"{outcome} {count:,}" for outcome, count in proxy.taken_over().items())
    times, _ = look(fleet)
    return [["the new process reads another form", f"{seconds:.2f}", outcomes, *times, ""]], wrong


def upgrade(options, out):
    texts, wrong = [], []
    for name in ("by rules", "hooked"):
        folder = out / name.replace(" ", "-")
        folder.mkdir(mode=0o755)
        text, faults = upgraded(options, folder, name)
        texts.append(f"### {name.capitalize()}\n\n{text}")
        wrong += [f"{name}: {fault}" for fault in faults]
        stage.stop_all()
    return "\n\n".join(texts), wrong


def upgraded(options, out, name):
    broker = stage.mosquitto(out)
    if name == "hooked":
        settings = {"MPROXY_POLICY_URL": hook_service(options, out).url}
    else:
        (out / "rules.toml").write_text(RULES)
        settings = {"MPROXY_ACL_FILE": str(out / "rules.toml")}
    proxy = Proxy(options, out, broker, MPROXY_DRAIN_SPREAD="10s", **settings)
    try:
        # Visitors and the large publish are clients, too.
        clients = options.clients - 20
        load = LOAD | {"publishers": min(clients, LOAD["publishers"])}
        fleet = Fleet(options.fleet, [proxy.port], broker, clients=clients, **load)
        fleet.ask("start")
        rows, wrong = in_a_row(options, out, broker, proxy, fleet)
        more, faults = no_good(proxy, fleet) if not wrong else ([], [])
        kept = fleet.ask("count")
        rows, wrong = rows + more, wrong + faults
        # What follows disconnects, and may lose QoS 0: the account of the upgrades is made before.
        report = fleet.finish()
        account, faults = ledger(report)
        wrong += faults
        ended = sum(report["ends"].values())
        if ended:
            wrong.append(f"{ended} connections ended: {report['ends']}")
        if report["failed_visits"]:
            wrong.append(f"{report['failed_visits']} visitors were not served")
        text = f"{stage.table(HEAD, rows)}\n\n{stage.table(LEDGER_HEAD, account)}\n\n"
        text += f"{kept:,} clients were connected at the end, {ended:,} of their connections had ended; "
        text += f"{report['visits']:,} others connected, were served and left, {report['failed_visits']:,} were not served."
        fleet = Fleet(options.fleet, [proxy.port], broker, clients=clients, **load | {"qos": "12", "visitors": 0})
        fleet.ask("start")
        time.sleep(2)
        rows, faults = killed_half_way(proxy, fleet, clients)
        more, again = another_form(proxy, fleet, clients)
        rows, wrong = rows + more, wrong + faults + again
        report = fleet.finish()
        account, faults = ledger(report)
        wrong += faults
        ends = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(report["ends"].items()))
        text += f"\n\n{stage.table(HEAD, rows)}\n\n{stage.table(LEDGER_HEAD, account)}\n\nConnections that ended: {ends}."
        return text, wrong
    finally:
        proxy.stop()
