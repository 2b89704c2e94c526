"""What it costs to watch: the decision log, traces, taps and scrapes, each on against off in one run of `mproxy-bench`."""

import contextlib
import http.client
import json
import subprocess
import threading
import time

import stage
from fleet import fixed_port

WORKLOADS = ("paced64", "flood64")
# What the service of traces has: https://github.com/open-telemetry/opentelemetry-proto
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Asker:
    """Asks an admin port, whenever there is one, again and again for `path`, or reads what it says for as long as it does."""

    def __init__(self, port, path, every):
        self.port, self.path, self.every, self.running, self.bytes = port, path, every, True, 0
        self.thread = threading.Thread(target=self.ask, daemon=True)
        self.thread.start()

    def ask(self):
        link = None
        while self.running:
            try:
                link = link or http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
                link.request("GET", self.path)
                answer = link.getresponse()
                while self.running and (piece := answer.read1(1 << 16)):
                    self.bytes += len(piece)
            except (OSError, http.client.HTTPException):
                link = None
            time.sleep(self.every)

    def stop(self):
        self.running = False
        self.thread.join()
        return self.bytes


@contextlib.contextmanager
def collector():
    """Takes all traces and reads none; it takes Python's grpcio."""
    from concurrent import futures

    import grpc

    count = [0]

    def export(request, _):
        count[0] += len(request)
        return b""

    service = grpc.method_handlers_generic_handler(
        EXPORT.split("/")[1], {"Export": grpc.unary_unary_rpc_method_handler(export, None, None)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port, count
    finally:
        server.stop(0)


def measure(options, out, variant, workloads, settings):
    """The ratios on against off, of CPU a message, by workload."""
    command = [options.mproxy.parent / "mproxy-bench", "run", "--before", options.mproxy, "--mproxy", options.mproxy]
    command += ["--only", f"before {variant},{variant}", "--workload", ",".join(workloads), "--no-syscalls"]
    command += ["--rounds", options.rounds, "--seconds", 1, "--out", out]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        stage.fail(f"mproxy-bench: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    samples = json.loads((out / "results.json").read_text())["samples"]
    by = {(one["candidate"], one["workload"], one["round"]): one for one in samples}
    for workload in workloads:
        pairs = [
            (by[f"before {variant}", workload, number], by[f"mproxy {variant}", workload, number])
            for number in range(options.rounds)
        ]
        lost = sum(one["lost"] + len(one["faults"]) for pair in pairs for one in pair)
        yield workload, pairs, lost


def scenes(options):
    """Name, variant of mproxy, settings, who asks, workloads."""
    log = {"MPROXY_DECISION_LOG": "{folder}/decisions.jsonl"}
    port = fixed_port()
    admin = {"MPROXY_ADMIN_PORT": port}
    yield "nothing (how much the measurement moves)", "allow", {}, None, WORKLOADS
    yield "`/metrics` each 100 ms", "allow", admin, Asker(port, "/metrics", 0.1), WORKLOADS
    yield "a tap of another client", "allow", admin, Asker(port, "/api/v1/tap?client_id=nobody", 0.1), WORKLOADS
    yield "a tap of all clients", "allow", admin, Asker(port, "/api/v1/tap", 0.1), WORKLOADS
    yield "decision log, refusals", "acl", log, None, WORKLOADS
    sampled = log | {"MPROXY_DECISION_LOG_ALLOWED_ONE_IN": 1000}
    yield "decision log, and 1 in 1,000 allowed", "acl", sampled, None, WORKLOADS
    every = log | {"MPROXY_DECISION_LOG_ALLOWED_ONE_IN": 1}
    yield "decision log, and all allowed", "acl", every, None, WORKLOADS[:1]
    protections = {
        "MPROXY_ADDRESS_RATE": "100000/s",
        "MPROXY_NETWORK_RATE": "100000/s",
        "MPROXY_CONNECTION_RATE": "100000/s",
        "MPROXY_TOTAL_RATE": "100000/s",
        "MPROXY_ADDRESS_CONNECTIONS": 10000,
        "MPROXY_NETWORK_CONNECTIONS": 10000,
        "MPROXY_MAX_ADMISSIONS_PER_SECOND": 100000,
        "MPROXY_DESCRIPTORS_REFUSE": "90%",
        "MPROXY_DESCRIPTORS_DRAIN": "97%",
        "MPROXY_MEMORY_REFUSE": "2GiB",
        "MPROXY_MEMORY_DRAIN": "3GiB",
    }
    yield "all [protections](../../docs/protection.md)", "allow", protections, None, (*WORKLOADS, "connect")
    with collector() as (port, count):
        traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        yield "traces, nobody decides", "allow", traces, None, WORKLOADS
        one_in = traces | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
        yield "traces of 1 %, each message is a question on a stream", "stream", one_in, None, WORKLOADS[:1]
        yield "traces, each message is a question on a stream", "stream", traces, None, WORKLOADS[:1]
        if not count[0]:
            stage.fail("no traces have come")


def cost(options, out):
    rows, wrong = [], []
    for name, variant, settings, asker, workloads in scenes(options):
        for workload, pairs, lost in measure(options, out, variant, workloads, settings):
            off, on = ([one["cpu_us"] for one in side] for side in zip(*pairs))
            ratios = [after / before for before, after in zip(off, on)]
            p99 = [stage.spread([one["latency"]["p99"] for one in side]) for side in zip(*pairs)]
            figures = [stage.spread(off, 2), stage.spread(on, 2), stage.spread(ratios, 2)]
            rows.append([name, variant, workload, *figures, *(p99 if workload == "paced64" else ["–", "–"])])
            if lost:
                wrong.append(f"{name}, {workload}: {lost} lost messages or faults")
        if asker and not asker.stop():
            wrong.append(f"{name}: the admin port never answered")
    head = ["on", "who decides", "workload", "CPU µs each, off", "on", "on / off", "p99 µs, off", "on"]
    return stage.table(head, rows), wrong
