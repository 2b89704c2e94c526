"""What it costs to watch, in instructions: the same on a busy machine as on an idle one. Valgrind counts those of mproxy
itself; what the kernel does is not among them."""

import os
import re
import signal
import socket
import struct

import stage
from cost import Asker, collector
from fleet import fixed_port

MESSAGES = {"one at a time": (500, 5500), "flood": (10_000, 110_000)}
TOPIC = b"devices/counted/x"
PAYLOAD = bytes(64)
# Messages of a flood between two acknowledgements.
BATCH = 500


def publish(qos, packet_id=1):
    body = struct.pack(">H", len(TOPIC)) + TOPIC + (struct.pack(">H", packet_id) if qos else b"") + PAYLOAD
    return bytes([0x30 | qos << 1, len(body)]) + body


def send(port, count, flood):
    with socket.create_connection(("127.0.0.1", port), 60) as link:
        link.settimeout(60)
        link.sendall(b"\x10\x13\0\4MQTT\4\2\0\0\0\7counted")
        answers = link.makefile("rb")
        if answers.read(4) != b"\x20\2\0\0":
            stage.fail("not admitted")
        one = publish(0) * (BATCH - 1) + publish(1) if flood else publish(1)
        for _ in range(count // BATCH if flood else count):
            link.sendall(one)
            if answers.read(4) != b"\x40\2\0\1":
                stage.fail("no PUBACK")
        link.sendall(b"\xe0\0")


def run(options, out, count, flood, settings, admin, service):
    broker = stage.mosquitto(out)
    if service:
        port = stage.free_port()
        environment = os.environ | {"HOOK_EVENTS": "off"}
        command = [options.mproxy.parent / "mproxy-example-hook", f"127.0.0.1:{port}"]
        stage.Process("the service", command, out / "hook.log", port, env=environment)
        settings = settings | {"MPROXY_POLICY_URL": f"http://127.0.0.1:{port}", "MPROXY_POLICY_TIMEOUT": "30s"}
    valgrind = [stage.need("valgrind", "valgrind"), "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    log = out / "valgrind.log"
    settings = {"TOKIO_WORKER_THREADS": "2"} | settings
    proxy = stage.mproxy([*valgrind, options.mproxy], log, out, broker.port, admin=admin, **settings)
    send(proxy.port, count, flood)
    proxy.popen.send_signal(signal.SIGTERM)
    proxy.popen.wait(60)
    stage.stop_all()
    (collected,) = re.findall(r"Collected : (\d+)", log.read_text())
    return int(collected)


def traces(port):
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}


def scenes(out):
    acl = {"MPROXY_ACL_FILE": str(stage.BENCH / "src/candidate/rules.toml")}
    log = acl | {"MPROXY_DECISION_LOG": str(out / "decisions.jsonl")}
    port = fixed_port()
    yield "nobody decides", {}, None, False
    yield "… and a tap of another client", {}, Asker(port, "/api/v1/tap?client_id=nobody", 0.1), False
    yield "… and a tap of all clients", {}, Asker(port, "/api/v1/tap", 0.1), False
    with collector() as (to, _):
        yield "… and traces", traces(to), None, False
    yield "a rule file", acl, None, False
    yield "… and the decision log", log, None, False
    yield "… and 1 in 1,000 allowed in it", log | {"MPROXY_DECISION_LOG_ALLOWED_ONE_IN": "1000"}, None, False
    yield "… and all allowed in it", log | {"MPROXY_DECISION_LOG_ALLOWED_ONE_IN": "1"}, None, False
    with collector() as (to, _):
        yield "a hook service on a stream", {}, None, True
        sampled = traces(to) | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
        yield "… and traces of 1 % of the sessions", sampled, None, True
        by_itself = traces(to) | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
        yield "… and no trace, by each trace's id", by_itself, None, True
        yield "… and all traces", traces(to), None, True


def instructions(options, out):
    rows, wrong, base = [], [], {}
    for name, settings, asker, service in scenes(out):
        row = [name]
        for load, (few, many) in MESSAGES.items():
            flood = load == "flood"
            counts = [run(options, out, count, flood, settings, asker and asker.port, service) for count in (few, many)]
            each = (counts[1] - counts[0]) / (many - few)
            if not name.startswith("…"):
                base[load] = each
            same = each == base[load]
            row += [f"{each:,.0f}", "" if same else f"{each - base[load]:+,.0f}"]
        rows.append(row)
        if asker and not asker.stop():
            wrong.append(f"{name}: the admin port never answered")
    head = ["", *(text for load in MESSAGES for text in (f"instructions a message, {load}", "more"))]
    return stage.table(head, rows), wrong
